"""Where the scenarios happen: the test's own folder and database."""

from pathlib import Path

import pytest

from faults.servers import Place


@pytest.fixture
def place(database: str, tmp_path: Path) -> Place:
    return Place(tmp_path, database)
