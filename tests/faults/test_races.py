"""Many runs at once through two servers: `make faults` sends 50 to one thread and 500 to 100."""

from faults import races
from faults.servers import Place


async def test_runs_of_a_thread_go_on_one_at_a_time_and_in_order_on_two_servers(place: Place) -> None:
    """Ours: histories are linear, nothing is lost, and never do two go on at once on a thread."""
    found = await races.scenario(place, on_one=15, on_many=60, threads=12)

    assert found.broken == []
