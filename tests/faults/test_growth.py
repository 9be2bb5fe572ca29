"""Retention under load: `make faults` makes 5,000 runs, and any number by `--runs`."""

from faults import growth
from faults.servers import Place


async def test_stateless_runs_leave_no_rows(place: Place) -> None:
    """Issue: events and idempotency keys stayed, and the database grew with the number of runs."""
    found = await growth.scenario(place, runs=40)

    assert found.broken == []
