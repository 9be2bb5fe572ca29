"""Servers: the reference and ours, each on a free loopback port and in a folder of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx

PROJECT = Path(__file__).with_name("project")
START_S = 90.0
"""The longest that a server may take to start: ours makes a database."""
STOP_S = 20.0
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
"""What the servers get of this environment: nothing that would set them up differently."""
QUIET = {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1", "LOG_LEVEL": "warning"}


@contextmanager
def reference(folder: Path, program: Path, served: Path = PROJECT) -> Generator[str]:
    """The URL of LangGraph's development server; it writes beside its project, so it gets a copy."""
    project = shutil.copytree(
        served, folder / "project", ignore=shutil.ignore_patterns("__pycache__", ".langgraph_api")
    )
    port = _free_port()
    command = [str(program), "dev", "--no-browser", "--no-reload", "--n-jobs-per-worker", "10", "--port", str(port)]
    with _running(command, port, project, folder / "reference.log", QUIET) as url:
        yield url


@contextmanager
def ours(folder: Path) -> Generator[str]:
    """The URL of this server, on a new embedded database."""
    port = _free_port()
    command = [sys.executable, "-m", "threadkeep", "serve", "--port", str(port)]
    env = {"THREADKEEP_DATA_DIR": str(folder / "data"), "LOG_LEVEL": "warning"}
    with _running(command, port, PROJECT, folder / "ours.log", env) as url:
        yield url


@contextmanager
def _running(command: list[str], port: int, cwd: Path, log: Path, env: dict[str, str]) -> Generator[str]:
    url = f"http://127.0.0.1:{port}"
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, env=kept | env, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_up(process, url, log)
            yield url
        finally:
            _stop(process)


def _wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/ok", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)  # noqa: TID251 - a plain program, without an event loop
    raise RuntimeError(f"{url} did not start:\n{log.read_text(errors='replace')[-4000:]}")


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
