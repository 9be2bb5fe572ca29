"""Responses in the background whose process is killed."""

from typing import Any

from openai import AsyncOpenAI

from faults.servers import Place, Quick, Replica, free_port, replicas

EVENTS = 16
"""Read before the process is killed."""


async def test_a_takeover_does_not_renumber_the_events_of_a_response(place: Place) -> None:
    """Issue 18: sequence numbers that were sent before a crash stay the same in every process."""
    async with replicas(place, 1, Quick().settings) as (first,), _client(first) as here:
        seen: list[Any] = []
        stream = await here.responses.create(model="telling", input="hello", background=True, stream=True)
        async for event in stream:
            seen.append(event)
            if len(seen) == EVENTS:
                break
        second = Replica(place, Quick().settings, free_port())
        try:
            await second.start()
            await first.kill()
            async with _client(second) as elsewhere:
                run_id = seen[0].response.id
                last = seen[-1].sequence_number
                followed = await elsewhere.responses.retrieve(run_id, stream=True, starting_after=last)
                rest = [event async for event in followed]
                whole = [event async for event in await elsewhere.responses.retrieve(run_id, stream=True)]
                found = await elsewhere.responses.retrieve(run_id)
        finally:
            await second.kill()

    assert [event.model_dump() for event in [*seen, *rest]] == [event.model_dump() for event in whole]
    assert [event.sequence_number for event in whole] == [*range(len(whole))]
    assert [item.status for item in found.output] == ["incomplete", "completed"]  # type: ignore[union-attr]
    assert found.model_dump() == whole[-1].response.model_dump()  # type: ignore[union-attr]


def _client(replica: Replica) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="any", max_retries=0, timeout=60)
