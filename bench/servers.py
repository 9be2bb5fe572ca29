"""The measured servers: ours and its peers, each as a process on a free loopback port, and their costs."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from threadkeep.auth.api_keys import generate_key
from threadkeep.tables import api_keys

GRAPHS = Path(__file__).parent / "graphs"
REFERENCE = Path(__file__).parent.parent / ".venv-reference" / "bin" / "langgraph"
AEGRA = Path(__file__).parent.parent / ".venv-peers" / "bin" / "uvicorn"
START_S = 90.0
STOP_S = 30.0
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
"""Variables of this process that a server gets. Any other one might configure it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One that is ready."""

    name: str
    port: int
    process: psutil.Process
    start_s: float
    """From the start of its process to its first answer."""
    keys: tuple[str, ...] = ()
    """API keys, if it asks for them, each of an identity of its own."""

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def memory_mb(self) -> float:
        """Resident memory, its children's too."""
        return sum(process.memory_info().rss for process in self._family()) / 1e6

    def cpu_s(self) -> float:
        """CPU seconds so far, its children's too."""
        return sum(sum(process.cpu_times()[:2]) for process in self._family())


@dataclass(frozen=True, slots=True)
class Postgres:
    """Its processes, if it runs on this machine."""

    postmaster: psutil.Process

    def cpu_s(self) -> float:
        """CPU seconds so far, those of connections that have ended too."""
        own = self.postmaster.cpu_times()
        # The first four are user, system, and those of children that have ended.
        return sum(own[:4]) + sum(map(_own_cpu_s, self.postmaster.children()))


def _own_cpu_s(process: psutil.Process) -> float:
    """The time of a process that has ended counts with its parent."""
    try:
        return sum(process.cpu_times()[:2])
    # The process of a connection that ended since. Its time counts with the postmaster.
    except psutil.NoSuchProcess:
        return 0


def postgres(uri: str) -> Postgres | None:
    """Return the Postgres of `uri`, or None if it belongs to another machine or user."""
    with psycopg.connect(uri) as conn:
        row = conn.execute("SELECT pg_backend_pid()").fetchone()
        try:
            parent = psutil.Process(row[0]).parent() if row else None
        except psutil.Error:
            return None
        return Postgres(parent) if parent and "postgres" in parent.name() else None


@contextmanager
def ours(uri: str, *, keys: tuple[str, ...] = (), **settings: str) -> Generator[Server]:
    """Run this server on the database `uri`. With `keys` it authenticates by API keys."""
    port = _free_port()
    command = [sys.executable, "-m", "threadkeep", "serve", "--config", str(GRAPHS / "langgraph.json")]
    env = {"DATABASE_URI": uri, "PORT": str(port), "LOG_LEVEL": "info", "LOG_JSON": "true", **settings}
    if path := os.environ.get("PYTHONPATH"):  # to measure another version of it
        env["PYTHONPATH"] = path
    if keys:  # counted as always, with a limit that no load reaches
        env |= {"AUTH_TYPE": "api_key", "THREADKEEP_PRINCIPAL_REQUESTS": "1000000000"}
    with _running("ours", command, port, GRAPHS, env, keys=keys) as server:
        yield server


async def make_keys(uri: str, number: int) -> tuple[str, ...]:
    """API keys of as many identities."""
    made = [generate_key(f"caller {each}", "bench", (), None) for each in range(number)]
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as conn:
        for _, row in made:
            await api_keys.create(conn, row)
    return tuple(secret for secret, _ in made)


@contextmanager
def dev_server(folder: Path) -> Generator[Server]:
    """Run LangGraph's development server, which keeps everything in memory. It writes beside its project, so it gets a copy."""
    project = shutil.copytree(GRAPHS, folder / "dev", ignore=shutil.ignore_patterns("__pycache__"))
    port = _free_port()
    options = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "12", "--port", str(port)]
    env = {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1", "LOG_LEVEL": "warning"}
    with _running("dev server", [str(REFERENCE), "dev", *options], port, project, env) as server:
        yield server


@contextmanager
def aegra(folder: Path, uri: str) -> Generator[Server]:
    """Run Aegra on its own database in the same Postgres. Its queue is in process, because it has no Redis here."""
    project = shutil.copytree(GRAPHS, folder / "aegra", ignore=shutil.ignore_patterns("__pycache__"))
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS aegra WITH (FORCE)")
        conn.execute("CREATE DATABASE aegra")
    port = _free_port()
    env = {
        "DATABASE_URL": _url(uri, "aegra"),
        "AEGRA_CONFIG": str(project / "aegra.json"),
        "REDIS_BROKER_ENABLED": "false",
        "AUTH_TYPE": "noop",
        "LOG_LEVEL": "WARNING",
        "ENV_MODE": "PRODUCTION",
    }
    options = ["aegra_api.main:app", "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
    with _running("Aegra", [str(AEGRA), *options], port, project, env) as server:
        yield server


def _url(uri: str, name: str) -> str:
    """The database `name` of the same Postgres, as SQLAlchemy reads it too."""
    parts = conninfo_to_dict(uri)
    user, password, host = (quote(str(parts.get(key) or ""), safe="") for key in ("user", "password", "host"))
    who = f"{user}:{password}" if password else user
    # A folder of sockets has to be a parameter, because a slash ends the host of a URL.
    if host.startswith("%2F"):
        return f"postgresql://{who}@/{name}?host={unquote(host)}"
    return f"postgresql://{who}@{host}:{parts.get('port') or 5432}/{name}"


@contextmanager
def _running(
    name: str, command: Sequence[str], port: int, cwd: Path, env: Mapping[str, str], *, keys: tuple[str, ...] = ()
) -> Generator[Server]:
    inherited = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    began = time.monotonic()
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, cwd=cwd, env=inherited | dict(env), stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            if not _is_up(process, port, keys):
                raise RuntimeError(f"{name} did not start: {_last_words(log)}")
            took = time.monotonic() - began
            yield Server(name=name, port=port, process=psutil.Process(process.pid), start_s=took, keys=keys)
        finally:
            _stop(process)


def _is_up(process: subprocess.Popen[bytes], port: int, keys: tuple[str, ...]) -> bool:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        if _answers(port, keys):
            return True
        time.sleep(0.05)  # noqa: TID251 - no event loop here
    return False


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")[-2000:]


def _answers(port: int, keys: tuple[str, ...]) -> bool:
    """Whether it can run a graph: some answer `/ok` before they can."""
    body = json.dumps({"assistant_id": "echo", "input": {"messages": [{"role": "user", "content": "hi"}]}}).encode()
    head = {"content-type": "application/json", **({"x-api-key": keys[0]} if keys else {})}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/runs/wait", data=body, headers=head)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return b"echo: hi" in answer.read()
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
