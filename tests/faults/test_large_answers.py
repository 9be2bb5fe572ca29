"""Large answers: `make faults` asks for 100 MB."""

from faults import large_answers
from faults.servers import Place


async def test_large_answers_are_not_held_in_memory(place: Place) -> None:
    """Issue 15: one history made the process grow by a gigabyte."""
    found = await large_answers.scenario(place, total_mb=70)

    # Beside other tests, the times of `/livez` are those of a busy machine.
    assert [promise for promise in found.broken if "/livez" not in promise] == []
