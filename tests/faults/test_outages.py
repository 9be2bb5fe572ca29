"""Postgres cut off, read-only, slow and crashed, under load. `make faults` has each by itself, and for longer."""

from faults import outages
from faults.servers import Place


async def test_no_acknowledged_write_is_lost_in_outages_of_postgres(place: Place) -> None:
    """Ours: 503 with Retry-After meanwhile, alive, not ready where it is away; runs wait; a success within 5 s of its
    return; the same process; nothing lost, doubled, or answered 500."""
    found = await outages.one_after_the_other(place)

    assert found.broken == []
