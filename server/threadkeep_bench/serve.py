"""A server of our own, started for the report on a free port of loopback, killed or stopped by it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
from anyio.abc import Process

from threadkeep.base.problems import StartupError

COMMAND = (sys.executable, "-m", "threadkeep", "serve")
READY_S = 60.0
"""The longest a start may take; the first one makes a database."""
STOP_S = 30.0
"""The longest a stop may take after SIGTERM; then SIGKILL."""
LOG_LINES = 20
"""What is shown of the output of a server that failed to start."""


class NotStarted(StartupError):
    """The server did not become ready; the text ends with the last lines of its output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server process."""

    url: str
    process: Process
    log_path: Path

    async def kill(self) -> None:
        """SIGKILL, as a crash would: nothing is flushed or said goodbye to."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def serving(
    folder: Path, *, command: Sequence[str] = COMMAND, run_slots: int | None = None
) -> AsyncGenerator[Server]:
    """A server that is ready, with its data in `folder`; stopped at the end. NotStarted where it does not come up."""
    server = await _start(folder, command, run_slots)
    try:
        await _ready(server)
        yield server
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(server.process)


async def _start(folder: Path, command: Sequence[str], run_slots: int | None) -> Server:
    port = _free_port()
    log_path = folder / "server.log"
    async with await anyio.open_file(log_path, "ab") as log:
        process = await anyio.open_process(
            [*command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log.wrapped,
            stderr=subprocess.STDOUT,
            cwd=folder,  # a langgraph.json where the report is started would take the built-in agent's place
            env=_environment(folder, run_slots),
            start_new_session=True,  # Ctrl-C is for the report, which then stops the server
        )
    return Server(url=f"http://127.0.0.1:{port}", process=process, log_path=log_path)


def _environment(folder: Path, run_slots: int | None) -> dict[str, str]:
    """This process's environment, handed on: so a DATABASE_URI is used as it is. The model is always the offline one."""
    overrides = {"THREADKEEP_DATA_DIR": str(folder / "data"), "HOST": "127.0.0.1", "AUTH_TYPE": "none", "MODEL": ""}
    environment = os.environ | overrides
    return environment if run_slots is None else environment | {"THREADKEEP_RUN_SLOTS": str(run_slots)}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _ready(server: Server) -> None:
    """Wait for `GET /readyz` to answer 200."""
    async with httpx.AsyncClient(base_url=server.url, timeout=5, trust_env=False) as http:
        with anyio.move_on_after(READY_S):
            while server.process.returncode is None:
                if await _answers(http):
                    return
                await anyio.sleep(0.1)
    why = "was not ready in time" if server.process.returncode is None else f"ended with {server.process.returncode}"
    raise NotStarted(f"the server {why}; its last words:\n{await _last_words(server.log_path)}")


async def _answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz")).is_success
    except httpx.HTTPError:
        return False


async def _last_words(log_path: Path) -> str:
    text = await anyio.Path(log_path).read_text(errors="replace")
    return "\n".join(text.splitlines()[-LOG_LINES:])


async def _stop(process: Process) -> None:
    """SIGTERM and wait; a no-op on a process that has ended."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(STOP_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
    await process.wait()
