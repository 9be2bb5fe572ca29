"""A process that stands still for longer than its lease, and goes on."""

from faults import pauses
from faults.servers import Place


async def test_what_a_process_writes_after_its_lease_is_refused(place: Place) -> None:
    """Ours: the history stays linear, the outcome is recorded once, and the late process notices and is of use again."""
    found = await pauses.scenario(place, pause_s=0.4, rounds=1)

    assert found.broken == []
