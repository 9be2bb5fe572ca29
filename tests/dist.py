"""Dist: builds the wheel and the source archive, checks both, and serves from the wheel (`make dist`).

The wheel is installed as a user does it: into a fresh environment, with the newest releases that pip finds. `--python` names
an interpreter to try, and may be given several times.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
START_S = 120
"""Seconds for a first start: Postgres makes its data, and migrations are applied."""
STOP_S = 60
STARTED = re.compile(r"^Threadkeep serves .+ on (http://\S+)$", re.MULTILINE)
ASSET = re.compile(r'(?:src|href)="([^"/][^":]*)"')


def main() -> None:
    """Build, check, and try the wheel with each interpreter. Exit with 1 at the first mistake."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--python", action="append", help="an interpreter to try; by default this one")
    interpreters: list[str] = parser.parse_args().python or [sys.executable]
    _run([sys.executable, "-m", "hatchling", "build", "--clean"])
    [wheel], [archive] = (ROOT / "dist").glob("*.whl"), (ROOT / "dist").glob("*.tar.gz")
    for built in (wheel, archive):
        _tell("built", f"dist/{built.name}, {built.stat().st_size // 1000} kB")
    _run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(archive)])
    _tell("checked", "twine check --strict finds nothing in either")
    _tell("compared", f"the source archive builds the same wheel of {_same_wheel(wheel, archive)} files")
    for python in interpreters:
        with tempfile.TemporaryDirectory() as folder:
            _try_wheel(wheel, python, Path(folder))


def _same_wheel(wheel: Path, archive: Path) -> int:
    """Build the wheel from the source archive as well. The number of files, which are the same."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        [source] = Path(folder).iterdir()
        command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
        _run(command, cwd=source)
        [rebuilt] = Path(folder).glob("*.whl")
        ours, theirs = contents(wheel), contents(rebuilt)
    if ours != theirs:
        raise SystemExit(f"the wheels differ: {sorted(name for name, _ in ours.items() ^ theirs.items())}")
    return len(ours)


def contents(wheel: Path) -> dict[str, int]:
    """The names of a wheel's files, each with the checksum of its content."""
    with zipfile.ZipFile(wheel) as packed:
        return {entry.filename: entry.CRC for entry in packed.infolist()}


def _try_wheel(wheel: Path, python: str, folder: Path) -> None:
    """Install the wheel into a fresh environment, and use what it installed."""
    began = time.monotonic()
    _run([python, "-m", "venv", str(folder / "venv")])
    programs = folder / "venv" / "bin"
    _run([str(programs / "python"), "-m", "pip", "-qq", "--disable-pip-version-check", "install", str(wheel)])
    version = _run([str(programs / "python"), "--version"]).strip()
    packages = _run([str(programs / "python"), "-m", "pip", "freeze"]).splitlines()
    seconds = time.monotonic() - began
    _tell("installed", f"{len(packages)} packages into a fresh environment of {version}, in {seconds:.0f} s")

    project = folder / "first"
    _ = _run([str(programs / "threadkeep"), "new", str(project)])
    _tell("written", "a project by `threadkeep new`")
    environment = {**_clean_environment(), "THREADKEEP_DATA_DIR": str(folder / "data")}
    with serving([str(programs / "threadkeep"), "serve", "--port", "0"], environment, folder) as url:
        asked = _json(f"{url}/query", {"query": "My name is Ada."})
        again = _json(f"{url}/query", {"query": "What is my name?", "thread_id": asked["thread_id"]})
        if again["response"] != "Your name is Ada.":
            raise SystemExit(f"/query does not remember: {again}")
        _tell("served", f"/query answers {again['response']!r} in the second turn")
        _tell("served", f"/console, a page of {_page_bytes(f'{url}/console/') // 1000} kB")
        migrated = _run([str(programs / "threadkeep"), "migrate", "--check"], env=environment)
        _tell("migrated", f"`threadkeep migrate --check`: {migrated.splitlines()[-1]}")


@contextlib.contextmanager
def serving(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[str]:
    """A server in a process of its own, which works in the folder. Its URL."""
    log = folder / "log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield _url(server, log)
    finally:
        server.terminate()
        if server.wait(STOP_S) != 0:
            sys.stderr.write(log.read_text())
        _stop_postgres(Path(environment["THREADKEEP_DATA_DIR"]) / "postgres" / "postmaster.pid")


def _stop_postgres(pid_file: Path) -> None:
    """Stop a Postgres that the server has left, which it does if a client is slow to leave. The data is deleted next."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
        deadline = time.monotonic() + STOP_S
        while pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)  # noqa: TID251 - no event loop runs here


def _url(server: subprocess.Popen[bytes], log: Path) -> str:
    """The URL that the server prints once it has started."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        if started := STARTED.search(log.read_text()):
            return started[1]
        with contextlib.suppress(subprocess.TimeoutExpired):
            _ = server.wait(0.2)
    raise SystemExit(f"the server does not start:\n{log.read_text()}")


def _page_bytes(url: str) -> int:
    """The size of a page with the files that it names."""
    page = _read(url)
    return len(page) + sum(len(_read(f"{url}{name}")) for name in ASSET.findall(page.decode()) if "," not in name)


def _json(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310
    return json.loads(_read(request))


def _read(request: urllib.request.Request | str) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=START_S) as response:  # noqa: S310 - our own server
            return response.read()
    except urllib.error.HTTPError as refused:
        raise SystemExit(f"{refused.url} answers {refused.code}: {refused.read()[:500]!r}") from None


def _run(command: list[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run a command, and return its output. If it fails, exit with that."""
    options: dict[str, Any] = {"cwd": cwd, "env": env or _clean_environment()}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}")
    return done.stdout


def _clean_environment() -> dict[str, str]:
    """The environment without what would let the checkout, or another server's settings, take the wheel's place."""
    kept = ("HOME", "LANG", "PATH", "TMPDIR")
    return {name: value for name, value in os.environ.items() if name in kept or name.startswith("PIP_")}


def _tell(verb: str, text: str) -> None:
    sys.stdout.write(f"{verb:<10} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
