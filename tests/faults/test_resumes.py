"""A stream that is read half on one server and half on another."""

from faults import resumes
from faults.servers import Place


async def test_stream_goes_on_at_another_server_when_the_first_is_killed(place: Place) -> None:
    """Ours: no gap and no repeat, or an event for the restart. For an ended, a running and a queued run."""
    found = await resumes.scenario(place, pause_s=0.04)

    assert found.broken == []
