"""Clients that connect and vanish: `make faults` sends 300."""

from faults import storms
from faults.servers import Place


async def test_clients_that_disconnect_leave_nothing_behind(place: Place) -> None:
    """Ours: slots, file handles, tasks and connections are as before, at any moment of the disconnect."""
    found = await storms.scenario(place, clients=56)

    assert found.broken == []
