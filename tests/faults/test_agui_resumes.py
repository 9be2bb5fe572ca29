"""Pages that come back to a run whose process was killed."""

from typing import Any
from uuid import uuid4

import httpx

from agui.pages import Page, check, of_type, types, user
from faults.servers import Place, Quick, Replica, free_port, replicas

EVENTS = 12
"""Read before the process is killed."""


async def test_a_page_comes_back_to_a_run_after_a_kill(place: Place) -> None:
    """Contract, Coming back: at any replica and after a kill: all events from the start, then what follows."""
    run_id = str(uuid4())
    async with replicas(place, 1, Quick().settings) as (first,), _client(first) as here:
        page, seen = Page(here, "telling", messages=[user("hello")]), list[dict[str, Any]]()
        async with page.stream(runId=run_id) as events:
            async for event in events:
                seen.append(event)
                if len(seen) == EVENTS:
                    break
            second = Replica(place, Quick().settings, free_port())
            await second.start()
            try:
                await first.kill()
                async with _client(second) as elsewhere:
                    back = Page(elsewhere, "telling", thread_id=page.thread_id, messages=page.messages)
                    whole = await back.run(runId=run_id)
                    again = await back.run(runId=run_id)
            finally:
                await second.kill()

    check(whole)
    assert whole[:EVENTS] == seen
    assert again == whole
    assert types(whole)[-1] == "RUN_FINISHED"
    cut, told = of_type(whole, "TEXT_MESSAGE_START")
    assert [message["id"] for message in back.messages if message["role"] == "assistant"] == [told["messageId"]]
    assert cut["messageId"] != told["messageId"]


def _client(replica: Replica) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=replica.url, timeout=60)
