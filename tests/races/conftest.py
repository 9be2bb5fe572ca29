"""Where a race happens: the test's own folder and database."""

import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from faults.servers import Place


@pytest.fixture
def place(database: str) -> Generator[Place]:
    """Not below pytest's own folder, which a session beside this one closes to the user that Postgres runs as."""
    with tempfile.TemporaryDirectory() as folder:
        yield Place(Path(folder), database)
