"""Servers: `threadkeep serve` as processes that are started, killed, stopped and continued, and programs beside them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import httpx

GRAPHS = Path(__file__).with_name("graphs.py")
START_S = 60.0
OURS = ("THREADKEEP_", "PG", "DATABASE_", "POSTGRES_", "LANGGRAPH_", "LANGSMITH_")
"""Settings of the machine's that are not to reach a server."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a scenario: its own folder and its own migrated database."""

    folder: Path
    database: str

    @property
    def journal(self) -> Path:
        """The lines that the graphs wrote."""
        return self.folder / "journal"

    def journal_lines(self) -> list[dict[str, str | float]]:
        """The lines of the journal."""
        return [json.loads(line) for line in self.journal.read_text().splitlines()] if self.journal.exists() else []


def _fresh(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "threadkeep", *arguments], **options)


@dataclass(slots=True)
class Replica:
    """One server on one port. It may be started again."""

    place: Place
    settings: dict[str, str]
    port: int
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    launch: ClassVar[Callable[..., subprocess.Popen[bytes]]] = staticmethod(_fresh)
    """Starts `threadkeep` with some arguments. The tests set it to `forks.start`, which takes a tenth of the CPU time."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.place.folder / f"log-{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self, *, wait: bool = True) -> float:
        """Start it and, unless told otherwise, wait until it is ready. Return the seconds."""
        began = time.monotonic()
        # A developer's own settings would change the results.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        environment |= {
            "DATABASE_URI": self.place.database,
            "FAULTS_JOURNAL": str(self.place.journal),
            # A server that looks for a data folder or a `.pgpass` must not find the developer's.
            "HOME": str(self.place.folder),
            "LOG_LEVEL": "info",
            "LOG_JSON": "true",
            "PORT": str(self.port),
            **self.settings,
        }
        with self.log.open("ab") as output:
            self.process = await anyio.to_thread.run_sync(
                lambda: Replica.launch(
                    *("serve", "--config", str(_project(self.place))),
                    cwd=self.place.folder,
                    env=environment,
                    stdout=output,
                    stderr=output,
                    # Ctrl-C in the terminal must not reach the servers before the scenario ends them.
                    start_new_session=True,
                )
            )
        if wait:
            await self.until_ready()
        self.starts += 1
        return time.monotonic() - began

    async def until_ready(self) -> None:
        """Wait until `/readyz` says so."""
        async with httpx.AsyncClient(base_url=self.url, timeout=5) as http:
            with anyio.fail_after(START_S):
                while not await self._is_ready(http):
                    await anyio.sleep(0.05)

    async def _is_ready(self, http: httpx.AsyncClient) -> bool:
        # A server that can't start would otherwise be waited for in vain. Its log has the reason.
        if self.process is None or self.process.poll() is not None:
            raise AssertionError(self.log.read_text()[-4000:])
        try:
            return (await http.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    def tell(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """`kill -9`, and wait for its end."""
        if self.process is not None:
            self.process.kill()
            await anyio.to_thread.run_sync(self.process.wait)

    async def exited(self, within_s: float) -> int | None:
        """Return its exit code, or None if it does not end in time."""
        assert self.process is not None
        process = self.process
        with anyio.move_on_after(within_s):
            while (code := process.poll()) is None:
                await anyio.sleep(0.02)
            return code
        return None


def _project(place: Place) -> Path:
    """A langgraph.json of the scenarios' graphs."""
    names = ("talking", "stepping", "counting", "inside", "dying", "telling")
    graphs = {name: f"./graphs.py:{name}" for name in names}
    file = place.folder / "langgraph.json"
    if not file.exists():
        (place.folder / "graphs.py").write_text(GRAPHS.read_text())
        file.write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))
    return file


@asynccontextmanager
async def program(
    command: Sequence[str], port: int, log: Path, *, stop: signal.Signals, **options: Any
) -> AsyncGenerator[None]:
    """A program beside the servers, from the time when it listens on `port` until the block ends. `stop` ends it."""
    with log.open("ab") as output:
        process = await anyio.to_thread.run_sync(
            lambda: subprocess.Popen(command, stdout=output, stderr=output, **options)
        )
    try:
        await _until_listening(process, port, log)
        yield
    finally:
        process.send_signal(stop)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(process.wait)


async def _until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    with anyio.fail_after(10):
        while True:
            if process.poll() is not None:
                raise AssertionError(await anyio.Path(log).read_text())
            try:
                await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
            except OSError:
                await anyio.sleep(0.05)
            else:
                return


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass(frozen=True, slots=True)
class Quick:
    """A lease and a sweep that a test can wait for."""

    lease_s: float = 2.0
    sweep_s: float = 0.5
    environment: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def settings(self) -> dict[str, str]:
        return {
            "THREADKEEP_LEASE": f"{self.lease_s:g}",
            "THREADKEEP_SWEEP": f"{self.sweep_s:g}",
            # The default of three attempts would end runs that are killed again and again.
            "THREADKEEP_MAX_ATTEMPTS": "30",
            **self.environment,
        }


@asynccontextmanager
async def replicas(place: Place, count: int, settings: dict[str, str]) -> AsyncGenerator[list[Replica]]:
    """Yield that many ready servers on one database, and kill them at the end."""
    fleet = [Replica(place, settings, free_port()) for _ in range(count)]
    try:
        async with anyio.create_task_group() as tasks:
            for replica in fleet:
                tasks.start_soon(replica.start)
        yield fleet
    finally:
        # Servers that stay after an interrupted scenario would hold its database and its ports.
        with anyio.CancelScope(shield=True):
            for replica in fleet:
                await replica.kill()
