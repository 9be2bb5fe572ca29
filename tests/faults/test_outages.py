"""Postgres stopped, cut off, read-only and slow, under load; each with a Postgres of the test's own."""

from faults import outages
from faults.servers import Place


async def test_crash_of_postgres_loses_nothing_and_is_over_when_it_is_back(place: Place) -> None:
    """Ours: 503 with Retry-After meanwhile, alive and not ready, runs wait; the first success comes within 5 s."""
    found = await outages.stopped(place, mode="immediate", seconds=2)

    assert found.broken == []


async def test_cut_connections_are_noticed_by_nobody(place: Place) -> None:
    """Ours: runs go on, no request is answered 500, nothing is lost."""
    found = await outages.cut(place, times=2)

    assert found.broken == []


async def test_read_only_database_is_read_and_recovers_alone(place: Place) -> None:
    """Ours: writes are 503, reads 200, runs wait for it; the same process goes on."""
    found = await outages.read_only(place, seconds=1)

    assert found.broken == []


async def test_slow_postgres_is_only_slow(place: Place) -> None:
    """Ours: every request is answered, and well."""
    found = await outages.slow(place, seconds=1)

    assert found.broken == []
