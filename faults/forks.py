"""Processes of `threadkeep` that need no second to start: they are forked from one that has imported it all.

Nine tenths of a start's CPU time are imports, which are the same each time. A fork has a pid, environment, folder, output and
exit code of its own, as a fresh interpreter has, and runs `python -m threadkeep` from its first line.
"""

import atexit
import gc
import importlib
import inspect
import json
import os
import random
import runpy
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

COMMAND: Final = (sys.executable, "-m", "threadkeep")
IMPORTED: Final = (
    *(
        "threadkeep.agent",
        "threadkeep.app",
        "threadkeep.commands.checking",
        "threadkeep.cli",
        "threadkeep.commands.key_commands",
    ),
    *("threadkeep.preparing", "threadkeep.serving", "anyio._backends._asyncio", "httpcore", "langgraph.func"),
    *("uvicorn.lifespan.on", "uvicorn.loops.auto", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto"),
)
"""What a server has imported when it is ready. `uvloop` comes with `uvicorn.loops.auto`."""
READ_AT_IMPORT: Final = ("LANGCHAIN_", "LANGGRAPH_DEFAULT_", "LANGSMITH_", "OTEL_", "PYTHONDEV")
"""Variables that a library may read when it is imported. With them a process is started afresh."""
MAX_BYTES: Final = 1 << 20


class _ForkServer:
    """The process that forks. It ends when the process that started it does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Packets keep the limits of messages, so a request needs no length before it.
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                # `-P`: without it this folder is first on the path, and `faults/graphs.py` would be a top-level module.
                [sys.executable, "-P", __file__, str(number)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
            )

    def ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> Any:
        """Return the answer to a request: a pid, or the status of one that has ended, or None."""
        # Two threads may start processes at once, and each must get its own answer.
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            answer = self._socket.recv(MAX_BYTES)
        if not answer:
            raise ChildProcessError("the process that forks has ended")
        return json.loads(answer)

    def close(self) -> None:
        """End the process that forks. Those that it has forked go on."""
        self._socket.close()
        self._process.wait()


class Forked(subprocess.Popen[Any]):
    """A process of `threadkeep`, as `subprocess.Popen` starts one, but forked if it can be."""

    _server: ClassVar[_ForkServer | None] = None
    _server_lock: ClassVar = threading.Lock()
    _is_fork = False

    @classmethod
    def _fork_server(cls) -> _ForkServer:
        """The one that forks, started by the first thread that needs it. Only it can wait for its forks."""
        with cls._server_lock:
            if cls._server is None:
                cls._server = _ForkServer()
                atexit.register(cls._server.close)
            return cls._server

    def _execute_child(self, *parts: Any) -> None:  # of Popen: its pipes are there, and the process is not
        # Bound by name, because the order of these parameters differs between versions of Python.
        start = inspect.signature(subprocess.Popen._execute_child).bind(self, *parts).arguments  # type: ignore[attr-defined]
        environment: Mapping[str, str] = os.environ if start["env"] is None else start["env"]
        if sys.platform != "linux" or any(name.startswith(READ_AT_IMPORT) for name in environment):
            super()._execute_child(*parts)  # type: ignore[misc]
            return
        ends = {name: start[name] for name in ("p2cread", "c2pwrite", "errwrite")}
        request = {
            "arguments": list(start["args"][len(COMMAND) :]),
            "folder": os.fspath(start["cwd"] or Path.cwd()),
            "environment": dict(environment),
            "own_session": start["start_new_session"],
        }
        try:
            self.pid = Forked._fork_server().ask(
                # -1 means that the stream is inherited, so our own descriptor of that number is sent.
                request,
                [number if end == -1 else end for number, end in enumerate(ends.values())],
            )
        finally:
            self._close_pipe_fds(*(start[n] for n in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")))  # type: ignore[attr-defined] # fmt: skip
        self._is_fork = self._child_created = True

    def _internal_poll(self, *parts: Any, **named: Any) -> int | None:
        if not self._is_fork:
            return super()._internal_poll(*parts, **named)  # type: ignore[misc]
        if self.returncode is None and not (parts or named):  # with arguments it is only collected as garbage
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if not self._is_fork:
            return super()._try_wait(wait_flags)  # type: ignore[misc]
        if not wait_flags & os.WNOHANG:
            self._wait_for_end()
        status = Forked._fork_server().ask({"wait": self.pid})
        return (0, 0) if status is None else (self.pid, status)

    def _wait_for_end(self) -> None:
        # `waitpid` is only for the parent, which is the process that forks. A pidfd becomes readable for anybody.
        end = os.pidfd_open(self.pid)
        try:
            select.select([end], [], [])
        finally:
            os.close(end)


def start(*arguments: str, **options: Any) -> subprocess.Popen[Any]:
    """Start `threadkeep` with these arguments, and the options of `subprocess.Popen`."""
    return Forked([*COMMAND, *arguments], **options)


def run(*arguments: str, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `threadkeep` to its end, and return its exit code and output."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start(*arguments, **pipes, **options) as process:
        try:
            out, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def _serve_forks(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. Return the request in the fork, and None in the process that forks when it is to end.

    The status of an ended fork is kept, because two threads may ask for it, and the kernel tells it once.
    """
    ended: dict[int, int] = {}
    while True:
        text, descriptors, _, _ = socket.recv_fds(requests, MAX_BYTES, 3)
        if not text:
            return None
        request = json.loads(text)
        if "wait" in request:
            requests.send(json.dumps(_status(request["wait"], ended)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            return request | {"descriptors": descriptors}
        ended.pop(pid, None)  # an earlier process had this pid
        for each in descriptors:
            os.close(each)
        requests.send(json.dumps(pid).encode())


def _status(pid: int, ended: dict[int, int]) -> int | None:
    """The status of a fork, or None if it goes on."""
    if pid not in ended:
        has_ended, status = os.waitpid(pid, os.WNOHANG)
        if not has_ended:
            return None
        ended[pid] = status
    return ended[pid]


def _become(request: dict[str, Any], own_path: list[str]) -> None:
    """Make this fork what a fresh `python -m threadkeep` would be before its first line."""
    if request["own_session"]:
        os.setsid()
    for number, each in enumerate(request["descriptors"]):
        os.dup2(each, number)
    # Also the socket of the process that forks, which a server must not hold open.
    os.closerange(3, 256)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    added = request["environment"].get("PYTHONPATH", "")
    # As `python -m` does: the folder first, then PYTHONPATH, then the interpreter's own.
    sys.path[:] = [request["folder"], *filter(None, added.split(os.pathsep)), *own_path]
    sys.argv = ["threadkeep", *request["arguments"]]
    # Otherwise all forks would draw the same numbers, and try the same ports and delays.
    random.seed()


def _main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    own_path = [each for each in sys.path if each not in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    # The collector of a fork would otherwise touch, and so copy, all of this memory.
    gc.freeze()
    request = _serve_forks(requests)
    if request is None:
        return
    # Its descriptor is closed, or has another meaning, after `_become`.
    requests.detach()
    _become(request, own_path)
    runpy.run_module("threadkeep", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
