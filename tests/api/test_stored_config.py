"""Config and event ids as a first request stores them and a second one reads them: refused, or understood."""

import httpx
import pytest

from conftest import WAIT_S, serving
from threadkeep.settings import Settings

NO_OBJECTS = ["abc", [1], 5, True]


@pytest.mark.parametrize("configurable", NO_OBJECTS, ids=str)
@pytest.mark.parametrize(
    "path",
    ["/runs", "/runs/wait", "/runs/crons", "/threads/{}/runs", "/threads/{}/runs/wait", "/threads/{}/runs/crons"],
)
async def test_configurable_that_is_no_object_is_refused(settings: Settings, path: str, configurable: object) -> None:
    """Ours: a cron of it would be stored, and would fail each time."""
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        body = {"assistant_id": "chain", "schedule": "* * * * *", "config": {"configurable": configurable}}
        answer = await http.post(path.format(thread_id), json=body)

    assert answer.status_code == 422
    assert "configurable must be an object" in answer.json()["detail"]


async def test_configurable_of_an_assistant_must_be_an_object_too(settings: Settings) -> None:
    """Ours: every run of it would fail."""
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        made = [
            await http.post("/assistants", json={"graph_id": "chain", "config": {"configurable": each}})
            for each in NO_OBJECTS
        ]

    assert [answer.status_code for answer in made] == [422] * len(NO_OBJECTS)


async def test_event_id_that_no_run_had_is_told_as_a_gap(settings: Settings) -> None:
    """Ours: the stream goes on from now, and does not break."""
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        headers = {"last-event-id": "999999999999999-0"}
        async with http.stream("GET", f"/threads/{thread_id}/stream", headers=headers) as answer:
            lines = answer.aiter_lines()
            assert (answer.status_code, await anext(lines)) == (200, ": gap, the events from now on follow")
            await http.post(f"/threads/{thread_id}/runs", json={"assistant_id": "chain", "input": {"items": []}})
            async for line in lines:
                if line == "event: metadata":
                    break
            else:
                pytest.fail("the run's events did not follow")
