"""`kill -9` in the middle of runs: `make faults` does it for 20 rounds, to one server and to two."""

from faults import kills
from faults.servers import Place, Quick


async def test_acknowledged_runs_are_executed_once_although_servers_are_killed(place: Place) -> None:
    """Ours: every run ends, every message is there once, no thread stays busy, and that within lease and sweep."""
    found = await kills.scenario(place, rounds=2, count=2, quick=Quick(lease_s=1.5, sweep_s=0.3))

    assert found.broken == []


async def test_a_run_that_kills_its_process_is_retried_a_limited_number_of_times(place: Place) -> None:
    """Ours: the attempt is counted before the graph begins. After the last one the run is an error, and the thread is free."""
    found = await kills.fatal(place, attempts=2)

    assert found.broken == []
