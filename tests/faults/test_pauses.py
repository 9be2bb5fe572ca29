"""A process that stands still for longer than its lease, and goes on."""

from faults import pauses
from faults.servers import Place


async def test_writes_of_a_process_without_a_lease_are_refused(place: Place) -> None:
    """Ours: the history stays linear, the outcome is recorded once, and the late process notices and is of use again."""
    found = await pauses.scenario(place, pause_s=0.4, rounds=1)

    assert found.broken == []
