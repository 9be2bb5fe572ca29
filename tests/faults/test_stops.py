"""SIGTERM under load: `make faults` does it under 100 streams, and to three servers in turn."""

from faults import stops
from faults.servers import Place


async def test_sigterm_under_open_streams_ends_them_in_order(place: Place) -> None:
    """Ours: exit code 0 within the grace. Every run has finished, or is requeued and finishes elsewhere."""
    found = await stops.terminated(place, count=24, drain_s=1)

    assert found.broken == []


async def test_no_request_fails_while_servers_are_restarted_in_turn(place: Place) -> None:
    """Ours: for a client that asks again after 503 and a refused connection."""
    found = await stops.rolling(place, count=2, clients=4)

    assert found.broken == []
