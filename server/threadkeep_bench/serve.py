"""A server that the report starts on a free loopback port, and kills or stops."""

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
"""Seconds for a start. The first start creates a database."""
STOP_S = 30.0
"""Seconds for a stop after SIGTERM. Then SIGKILL."""
LOG_LINES = 20
"""The number of output lines that are shown if a server fails to start."""


class NotStarted(StartupError):
    """The server did not become ready. The text ends with the last lines of its output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server process."""

    url: str
    process: Process
    log_path: Path

    async def kill(self) -> None:
        """Send SIGKILL. As in a crash, nothing is flushed and no connection is closed in order."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def serving(
    folder: Path, *, command: Sequence[str] = COMMAND, run_slots: int | None = None
) -> AsyncGenerator[Server]:
    """Yield a ready server with its data in `folder`, and stop it at the end. Raise NotStarted if it does not become ready."""
    server = await _start(folder, command, run_slots)
    try:
        await _ready(server)
        yield server
    finally:
        # A server must not outlive its report, also if the report is cancelled.
        with anyio.CancelScope(shield=True):
            await _stop(server.process)


async def _start(folder: Path, command: Sequence[str], run_slots: int | None) -> Server:
    port = _free_port()
    log_path = folder / "server.log"
    # Appended: the second start must not delete the output of the first one, which was killed.
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
    """Return this process's environment for the server, including a DATABASE_URI. The model is always the offline model."""
    overrides = {"THREADKEEP_DATA_DIR": str(folder / "data"), "HOST": "127.0.0.1", "AUTH_TYPE": "none", "MODEL": ""}
    # `MODEL` is empty and not left out: a developer's own variable would call a real model.
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
    raise NotStarted(f"the server {why}. Its last lines:\n{await _last_words(server.log_path)}")


async def _answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz")).is_success
    except httpx.HTTPError:
        return False


async def _last_words(log_path: Path) -> str:
    text = await anyio.Path(log_path).read_text(errors="replace")
    return "\n".join(text.splitlines()[-LOG_LINES:])


async def _stop(process: Process) -> None:
    """Send SIGTERM and wait. Do nothing if the process has ended."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(STOP_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
    await process.wait()
