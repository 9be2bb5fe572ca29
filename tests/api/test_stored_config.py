"""Config and event ids as a first request stores them and a second one reads them: refused, or understood."""

import httpx
import pytest

from conftest import WAIT_S


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


NO_OBJECTS = ["abc", [1], 5, True]


@pytest.mark.parametrize("configurable", NO_OBJECTS, ids=str)
@pytest.mark.parametrize(
    "path",
    ["/runs", "/runs/wait", "/runs/crons", "/threads/{}/runs", "/threads/{}/runs/wait", "/threads/{}/runs/crons"],
)
async def test_configurable_that_is_no_object_is_refused(url: str, path: str, configurable: object) -> None:
    """Ours: a cron of it would be stored, and would fail each time."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        body = {"assistant_id": "chain", "schedule": "* * * * *", "config": {"configurable": configurable}}
        answer = await http.post(path.format(thread_id), json=body)

    assert answer.status_code == 422
    assert "configurable must be an object" in answer.json()["detail"]


async def test_configurable_of_an_assistant_must_be_an_object_too(url: str) -> None:
    """Ours: every run of it would fail."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        made = [
            await http.post("/assistants", json={"graph_id": "chain", "config": {"configurable": each}})
            for each in NO_OBJECTS
        ]

    assert [answer.status_code for answer in made] == [422] * len(NO_OBJECTS)


async def test_an_unknown_event_id_is_reported_as_a_gap(url: str) -> None:
    """Ours: the stream goes on from now, and does not break."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
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


@pytest.mark.parametrize(
    "config",
    [{"tags": "abc"}, {"tags": [1]}, {"metadata": "abc"}, {"metadata": [1]}, "abc", [1], None],
    ids=str,
)
async def test_config_with_parts_of_another_type_is_refused(url: str, config: object) -> None:
    """Issue: wherever a run's config stands: each run of it would fail."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        body = {"assistant_id": "chain", "schedule": "* * * * *", "config": config}
        paths = ("/runs", f"/threads/{thread_id}/runs/wait", f"/threads/{thread_id}/runs/stream", "/runs/crons")
        results = [(await http.post(path, json=body)).status_code for path in paths]
        results.append((await http.post("/runs/batch", json=[body])).status_code)
        command = {"id": 1, "method": "run.start", "params": body}
        reply = (await http.post(f"/threads/{thread_id}/commands", json=command)).json()

    assert results == [422] * 5
    assert (reply["type"], reply["error"]) == ("error", "invalid_argument")


@pytest.mark.parametrize("limit", [0, -1, 10**9, True, "5"])
async def test_recursion_limit_of_an_assistant_is_capped_too(url: str, limit: int) -> None:
    """Issue: the cap holds whichever way it comes; every run of the assistant would fail."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        body = {"graph_id": "chain", "config": {"recursion_limit": limit}}
        made = (await http.post("/assistants", json={"graph_id": "chain"})).json()["assistant_id"]
        results = [await http.post("/assistants", json=body), await http.patch(f"/assistants/{made}", json=body)]

    assert [answer.status_code for answer in results] == [422, 422]


@pytest.mark.parametrize("config", [*NO_OBJECTS, *({"configurable": each} for each in NO_OBJECTS)], ids=str)
async def test_config_of_a_thread_must_be_an_object_too(url: str, config: object) -> None:
    """Issue: where it has no effect, one that is no object is a mistake all the same."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread_id = (await http.post("/threads", json={"metadata": {"graph_id": "chain"}})).json()["thread_id"]
        results = [
            await http.post("/threads", json={"config": config}),
            await http.patch(f"/threads/{thread_id}", json={"metadata": {}, "config": config}),
            await http.post(f"/threads/{thread_id}/state", json={"values": {"items": []}, "config": config}),
        ]
        before = [
            await http.post(f"/threads/{thread_id}/history", json={"before": {"configurable": each}})
            for each in NO_OBJECTS
        ]

    assert [answer.status_code for answer in (*results, *before)] == [422] * 7


@pytest.mark.parametrize("config", [*NO_OBJECTS, *({"configurable": each} for each in NO_OBJECTS)], ids=str)
async def test_config_of_an_answer_must_be_an_object_too(url: str, config: object) -> None:
    """Issue: an answer by the protocol v2 goes on with the config of the run that asked."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        run = {"assistant_id": "asking", "input": {"items": []}, "config": {"configurable": {"kept": 1}}}
        asked = (await http.post(f"/threads/{thread_id}/runs/wait", json=run)).json()
        params = {"interrupt_id": asked["__interrupt__"][0]["id"], "response": 1, "config": config}
        command = {"id": 1, "method": "input.respond", "params": params}
        reply = await http.post(f"/threads/{thread_id}/commands", json=command)

    assert reply.status_code == 200
    assert (reply.json()["type"], reply.json()["error"]) == ("error", "invalid_argument")


async def test_a_state_that_its_graph_refuses_is_reported(url: str) -> None:
    """409 with the reason while the thread has an input that its reducer refuses. The next run mends it."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread = f"/threads/{(await http.post('/threads', json={})).json()['thread_id']}"
        bad = {"assistant_id": "chain", "input": {"items": "no list"}}
        failed = (await http.post(f"{thread}/runs/wait", json=bad)).json()
        state, history = await http.get(f"{thread}/state"), await http.get(f"{thread}/history")
        later = await http.post(f"{thread}/runs/wait", json=bad | {"input": {"items": ["x"]}})
        mended = await http.get(f"{thread}/state")

    assert failed["__error__"]["error"] == "TypeError"
    assert (state.status_code, state.json()["code"]) == (409, "state-invalid")
    assert "can only concatenate list" in state.json()["detail"]
    assert [kept["values"] for kept in history.json()] == [{"items": []}]
    assert later.json()["items"] == ["x", "first", "second"]
    assert mended.json()["values"]["items"] == ["x", "first", "second"]


async def test_cron_with_a_number_above_64_bits_can_be_changed(url: str) -> None:
    """jsonb gives 1e308 back as an integer, which has to be written again."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        body = {"assistant_id": "chain", "schedule": "0 0 1 1 *", "input": {"items": [1e308]}}
        made = (await http.post("/runs/crons", json=body)).json()
        changed = await http.patch(f"/runs/crons/{made['cron_id']}", json={"enabled": False})

    assert changed.status_code == 200
    assert changed.json()["payload"]["input"] == made["payload"]["input"]
    assert changed.json()["enabled"] is False
