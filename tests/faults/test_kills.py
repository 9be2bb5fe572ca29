"""`kill -9` in the middle of runs: `make faults` does it for 20 rounds."""

import pytest

from faults import kills
from faults.servers import Place, Quick


@pytest.mark.parametrize(("count", "rounds"), [(1, 1), (2, 2)])
async def test_what_was_acknowledged_is_done_once_though_servers_are_killed(
    place: Place, count: int, rounds: int
) -> None:
    """Ours: every run ends, every message is there once, no thread stays busy, and that within lease and sweep."""
    found = await kills.scenario(place, rounds=rounds, count=count, quick=Quick(lease_s=1.5, sweep_s=0.3))

    assert found.broken == []
