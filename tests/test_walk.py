"""How many files a request enters: docs/design.md tells, and a stranger has to read them."""

from pathlib import Path

import walk
from threadkeep.settings import Settings


async def test_a_stateless_run_enters_at_most_24_files(settings: Settings, tmp_path: Path) -> None:
    """Issue: the way of the simplest run stays short enough to be read in one sitting."""
    async with walk.serving(str(settings.database_uri), tmp_path) as http:
        files = await walk.walk(http, walk.runs_wait)

    assert len(files) <= 24, "\n".join(files)
