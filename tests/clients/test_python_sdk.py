"""`langgraph_sdk` for Python: each of its methods is called, and what the server answers is what the SDK expects."""

import inspect
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, InternalServerError, NotFoundError, UnprocessableEntityError

from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.settings import Settings
from threadkeep.tables.assistants import system_id


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


RESOURCES = ("assistants.", "threads.", "runs.", "crons.", "store.")
ELSEWHERE = {"threads.stream"}
"""The protocol v2, which has tests of its own: `test_js_protocol.py`, `tests/api/test_protocol_python.py`."""
NOBODY = "00000000-0000-4000-8000-000000000000"
NEW_YEAR = "0 0 1 1 *"
DONE = {"items": ["first", "second"]}
EMPTY: dict[str, Any] = {"items": []}


async def thread_of(client: LangGraphClient) -> str:
    """A new thread's id."""
    return (await client.threads.create())["thread_id"]


async def events(parts: AsyncIterator[Any]) -> list[tuple[str, Any]]:
    """What a stream brought."""
    with anyio.fail_after(WAIT_S):
        return [(part.event, part.data) async for part in parts]


def test_every_method_of_the_sdk_is_called_here() -> None:
    """Ours: a release of the SDK with a new method fails here until the server offers it."""
    source = Path(__file__).read_text(encoding="utf-8")
    called = {name for name in re.findall(r"client\.(\w+\.\w+)\(", source) if name.startswith(RESOURCES)}
    client = get_client(url="http://localhost")
    offered = {
        resource + name
        for resource in RESOURCES
        for name, _ in inspect.getmembers(getattr(client, resource.removesuffix(".")), inspect.isroutine)
        if not name.startswith("_")
    }

    assert called == offered - ELSEWHERE


async def test_assistant_is_made_changed_found_and_deleted(client: LangGraphClient) -> None:
    """Protocol: the methods of `client.assistants` on one assistant."""
    made = await client.assistants.create("chain", context={"model": "small"}, name="Helper", metadata={"team": 1})
    assistant_id = made["assistant_id"]
    changed = await client.assistants.update(assistant_id, name="Helper 2", metadata={"floor": 2})

    assert (changed["version"], changed["name"], changed["metadata"]) == (2, "Helper 2", {"team": 1, "floor": 2})
    assert await client.assistants.get(assistant_id) == changed
    assert await client.assistants.search(metadata={"team": 1}, name="helper", graph_id="chain") == [changed]
    assert await client.assistants.count(metadata={"team": 1}) == 1
    assert [one["version"] for one in await client.assistants.get_versions(assistant_id)] == [2, 1]
    assert (await client.assistants.set_latest(assistant_id, 1))["name"] == "Helper"
    assert await client.assistants.delete(assistant_id) is None
    with pytest.raises(NotFoundError):
        await client.assistants.get(assistant_id)


async def test_listing_of_assistants_tells_where_it_goes_on(client: LangGraphClient) -> None:
    """Protocol: `X-Pagination-Next`, which the SDK hands out as `next`."""
    for name in ("a", "b", "c"):
        await client.assistants.create("chain", name=name, metadata={"team": 1})
    asked: dict[str, Any] = {"metadata": {"team": 1}, "limit": 2, "sort_by": "name", "sort_order": "asc"}

    first = await client.assistants.search(**asked, select=["name"], response_format="object")
    last = await client.assistants.search(**asked, select=["name"], response_format="object", offset=2)

    assert first == {"assistants": [{"name": "a"}, {"name": "b"}], "next": "2"}
    assert last == {"assistants": [{"name": "c"}], "next": None}


async def test_graph_of_an_assistant_is_drawn_and_described(client: LangGraphClient) -> None:
    """Protocol: graph, schemas and subgraphs."""
    assistant_id = str(system_id("parent"))

    drawn = await client.assistants.get_graph(assistant_id)
    deep = await client.assistants.get_graph(assistant_id, xray=True)
    schemas = await client.assistants.get_schemas(assistant_id)

    assert [node["id"] for node in drawn["nodes"]] == ["__start__", "child", "last", "__end__"]
    assert drawn["edges"] == [
        {"source": "__start__", "target": "child"},
        {"source": "child", "target": "last"},
        {"source": "last", "target": "__end__"},
    ]
    assert "child:inner" in [node["id"] for node in deep["nodes"]]
    assert (schemas["graph_id"], schemas["input_schema"]["properties"]["items"]["type"]) == ("parent", "array")
    assert list(await client.assistants.get_subgraphs(assistant_id)) == ["child"]
    assert list(await client.assistants.get_subgraphs(assistant_id, "child", recurse=True)) == ["child"]


async def test_thread_is_made_changed_found_and_deleted(client: LangGraphClient) -> None:
    """Protocol: the methods of `client.threads` on rows."""
    thread_id = str(uuid.uuid4())
    made = await client.threads.create(thread_id=thread_id, metadata={"user": "ada"}, ttl=60)
    changed = await client.threads.update(thread_id, metadata={"topic": "tea"})
    copy: Any = await client.threads.copy(thread_id)

    assert await client.threads.get(thread_id) == changed
    assert changed == {**made, "metadata": {"user": "ada", "topic": "tea"}, "updated_at": changed["updated_at"]}
    assert copy["thread_id"] != thread_id
    assert await client.threads.search(ids=[thread_id], metadata={"user": "ada"}, status="idle") == [changed]
    assert await client.threads.count(metadata={"user": "ada"}, status="idle") == 2
    assert await client.threads.prune([copy["thread_id"]]) == {"pruned_count": 1}
    assert await client.threads.delete(thread_id) is None
    assert await client.threads.count() == 0


async def test_state_of_a_thread_is_read_and_written(client: LangGraphClient) -> None:
    """Protocol: the methods of `client.threads` on checkpoints."""
    thread_id = await thread_of(client)
    await client.runs.wait(thread_id, "chain", input={"items": ["in"]})

    written = await client.threads.update_state(thread_id, {"items": ["by hand"]}, as_node="first")
    state = await client.threads.get_state(thread_id)
    history = await client.threads.get_history(thread_id, limit=3)
    older = await client.threads.get_history(thread_id, limit=1, before=history[1]["checkpoint"])

    assert (state["values"], state["next"]) == ({"items": ["in", "first", "second", "by hand"]}, ["second"])
    assert state["checkpoint"] == written["checkpoint"]
    assert [one["values"]["items"][-1] for one in history] == ["by hand", "second", "first"]
    assert history[0] == state
    assert older == history[2:]
    assert await client.threads.get_state(thread_id, checkpoint_id=history[1]["checkpoint_id"]) == history[1]
    assert await client.threads.get_state(thread_id, checkpoint=history[1]["checkpoint"]) == history[1]


async def test_stream_of_a_thread_tells_of_its_runs(client: LangGraphClient) -> None:
    """Protocol: GET /threads/{id}/stream; `stream_mode` and `Last-Event-ID`."""
    thread_id = await thread_of(client)
    run = await client.runs.create(thread_id, "chain", input=EMPTY, stream_resumable=True)
    await client.runs.join(thread_id, run["run_id"])

    found: list[tuple[str, Any]] = []
    with anyio.fail_after(WAIT_S):
        async for part in await client.threads.join_stream(thread_id, last_event_id="-1", stream_mode="run_modes"):
            found.append((part.event, part.data))
            if part.event == "metadata" and part.data.get("status") == "run_done":
                break

    assert [data for name, data in found if name == "values"][-1] == DONE
    assert found[-1] == ("metadata", {"status": "run_done", "run_id": run["run_id"]})


async def test_run_is_left_joined_listed_and_deleted(client: LangGraphClient) -> None:
    """Protocol: the methods of `client.runs` for a run in the background."""
    thread_id = await thread_of(client)
    run = await client.runs.create(thread_id, "chain", input=EMPTY, stream_resumable=True, metadata={"n": 1})
    run_id = run["run_id"]

    assert await client.runs.join(thread_id, run_id) == DONE
    done = await client.runs.get(thread_id, run_id)
    assert (done["status"], done["metadata"]["n"], done["multitask_strategy"]) == ("success", 1, "enqueue")
    assert await client.runs.list(thread_id, status="success") == [done]
    assert await client.runs.list(thread_id, select=["run_id"]) == [{"run_id": run_id}]
    replayed = await events(client.runs.join_stream(thread_id, run_id, stream_mode="values", last_event_id="-1"))
    assert replayed[-1] == ("values", DONE)
    assert await client.runs.delete(thread_id, run_id) is None
    assert await client.runs.list(thread_id) == []


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_run_is_cancelled(client: LangGraphClient, gate: Gate, action: Any) -> None:
    """Protocol: `cancel`, with and without `wait`, and `cancel_many`; only `wait` answers with a body."""
    one, two, three = [await thread_of(client) for _ in range(3)]
    runs = {each: await client.runs.create(each, "gated", input=EMPTY) for each in (one, two, three)}
    await gate.entered(3)

    with anyio.fail_after(WAIT_S):
        assert await client.runs.cancel(one, runs[one]["run_id"], wait=True, action=action) == {}
        assert await client.runs.cancel(two, runs[two]["run_id"], action=action) is None
        assert await client.runs.cancel_many(thread_id=three, run_ids=[runs[three]["run_id"]], action=action) is None
        for each in (two, three):
            while (await client.threads.get(each))["status"] == "busy":
                await anyio.sleep(0.01)

    left = [[run["status"] for run in await client.runs.list(each)] for each in (one, two, three)]
    assert left == ([["interrupted"]] * 3 if action == "interrupt" else [[]] * 3)


async def test_runs_are_left_in_a_batch(client: LangGraphClient) -> None:
    """Protocol: POST /runs/batch."""
    payload: Any = {"assistant_id": "chain", "input": EMPTY, "on_completion": "keep"}

    runs = await client.runs.create_batch([payload, payload])

    assert [await client.runs.join(run["thread_id"], run["run_id"]) for run in runs] == [DONE, DONE]
    assert len({run["thread_id"] for run in runs}) == 2


async def test_stream_is_the_same_in_both_versions(client: LangGraphClient) -> None:
    """Protocol: the SDK makes `version="v2"` out of the events' names; a subgraph's namespace is in them."""
    options: Any = {"input": EMPTY, "stream_mode": ["values", "updates"], "stream_subgraphs": True}
    first = await events(client.runs.stream(await thread_of(client), "parent", **options))
    second = [part async for part in client.runs.stream(None, "parent", version="v2", **options)]

    assert [name.split("|")[0] for name, _ in first] == [part["type"] for part in second]
    assert [data for _, data in first[1:]] == [part["data"] for part in second[1:]]
    (namespace,) = {tuple(part["ns"]) for part in second if part["ns"]}
    assert [one.split(":")[0] for one in namespace] == ["child"]


@pytest.mark.parametrize("on_thread", [True, False])
async def test_every_way_to_start_a_run_tells_its_ids_at_once(client: LangGraphClient, *, on_thread: bool) -> None:
    """Protocol: Content-Location. Ours: with the thread for a stateless run too, where the reference sends null."""
    thread_id = await thread_of(client) if on_thread else None
    told: list[Any] = []

    run = await client.runs.create(thread_id, "chain", input=EMPTY, on_run_created=told.append)
    await client.runs.wait(thread_id, "chain", input=EMPTY, on_run_created=told.append)
    streamed = await events(client.runs.stream(thread_id, "chain", input=EMPTY, on_run_created=told.append))

    assert [one["run_id"] for one in (told[0], told[2])] == [run["run_id"], streamed[0][1]["run_id"]]
    assert [uuid.UUID(one["thread_id"]).version for one in told] == [7, 7, 7]
    assert len({one["thread_id"] for one in told}) == (1 if on_thread else 3)


async def test_cron_is_made_changed_found_and_deleted(client: LangGraphClient) -> None:
    """Protocol: the methods of `client.crons`. The SDK calls a new cron a run."""
    thread_id = await thread_of(client)
    made: Any = await client.crons.create("chain", schedule=NEW_YEAR, input=EMPTY, metadata={"team": 1})
    bound: Any = await client.crons.create_for_thread(thread_id, "chain", schedule=NEW_YEAR, input=EMPTY)
    changed = await client.crons.update(made["cron_id"], enabled=False)

    assert changed == {
        **made,
        "enabled": False,
        "payload": {**made["payload"], "enabled": False},
        "updated_at": changed["updated_at"],
    }
    assert await client.crons.search(thread_id=thread_id) == [bound]
    assert await client.crons.search(enabled=False, select=["cron_id"]) == [{"cron_id": made["cron_id"]}]
    assert await client.crons.count(metadata={"team": 1}) == 1
    assert await client.crons.delete(made["cron_id"]) is None
    assert [cron["cron_id"] for cron in await client.crons.search()] == [bound["cron_id"]]


async def test_item_is_put_found_and_deleted(client: LangGraphClient) -> None:
    """Protocol: the methods of `client.store`."""
    await client.store.put_item(["users", "ada"], key="tea", value={"sugar": 2}, ttl=60)
    await client.store.put_item(["users", "bob"], key="tea", value={"sugar": 0})

    item = await client.store.get_item(["users", "ada"], key="tea")
    found = await client.store.search_items(["users"], filter={"sugar": {"$gt": 1}})

    assert (item["namespace"], item["key"], item["value"]) == (["users", "ada"], "tea", {"sugar": 2})
    assert [(one["namespace"], one["value"]) for one in found["items"]] == [(["users", "ada"], {"sugar": 2})]
    assert await client.store.list_namespaces(["users"]) == {"namespaces": [["users", "ada"], ["users", "bob"]]}
    assert await client.store.delete_item(["users", "ada"], key="tea") is None
    assert await client.store.get_item(["users", "ada"], key="tea") is None


async def test_refusals_come_as_the_errors_of_the_sdk(client: LangGraphClient) -> None:
    """Protocol: the status chooses the error, `detail` is its message."""
    thread_id = await thread_of(client)

    with pytest.raises(NotFoundError) as unknown:
        await client.threads.get(NOBODY)
    with pytest.raises(ConflictError) as taken:
        await client.threads.create(thread_id=thread_id)
    with pytest.raises(UnprocessableEntityError) as wrong:
        await client.threads.get("no-uuid")
    with pytest.raises(UnprocessableEntityError) as no_graph:
        await events(client.runs.stream(thread_id, "nope", input=EMPTY))

    assert unknown.value.message == f"Thread with ID {NOBODY} not found"
    assert (unknown.value.code, unknown.value.body) == (
        "not-found",
        {"detail": unknown.value.message, "code": "not-found"},
    )
    assert taken.value.message == f"Thread with ID {thread_id} already exists"
    assert wrong.value.message == "Invalid thread ID: must be a UUID"
    assert no_graph.value.message.startswith("Invalid assistant: 'nope'")


async def test_refused_wait_says_why_in_a_note(client: LangGraphClient) -> None:
    """Protocol: `wait` and `join` raise httpx's own error, with the answer as a note."""
    with pytest.raises(httpx.HTTPStatusError) as refused:
        await client.runs.wait(NOBODY, "chain", input=EMPTY)

    assert refused.value.response.status_code == 404
    assert "not found" in refused.value.__notes__[0]


async def test_failed_run_raises_only_where_the_client_wants_it(client: LangGraphClient) -> None:
    """Protocol: `__error__`, which the SDK raises unless `raise_error` is false; `error`, the stream's last event."""
    answer = await client.runs.wait(None, "failing", input=EMPTY, raise_error=False)
    streamed = await events(client.runs.stream(None, "failing", input=EMPTY))

    assert answer == {"__error__": {"error": "ValueError", "message": "the node failed"}}
    assert streamed[-1] == ("error", answer["__error__"])
    with pytest.raises(Exception, match="ValueError: the node failed"):
        await client.runs.wait(None, "failing", input=EMPTY)


async def test_full_server_is_an_error_of_the_server(settings: Settings, gate: Gate) -> None:
    """Ours: 503 before a stream begins, so that the client can come again."""
    full = settings.model_copy(update={"run_slots": 1, "max_waiting": 0})
    async with serving(full) as url, get_client(url=url, api_key=None) as client:
        running = await client.runs.create(None, "gated", input=EMPTY)
        await gate.entered()

        with pytest.raises(InternalServerError) as refused:
            await events(client.runs.stream(None, "chain", input=EMPTY))
        await client.runs.cancel(running["thread_id"], running["run_id"], wait=True)

    assert (refused.value.status_code, refused.value.code) == (503, "overloaded")
    assert int(refused.value.response.headers["retry-after"]) >= 1


async def test_synchronous_client_is_served_alike(url: str) -> None:
    """Protocol: `get_sync_client`, of the same methods."""

    def talk() -> list[Any]:
        with get_sync_client(url=url, api_key=None) as client:
            thread_id = client.threads.create()["thread_id"]
            streamed = [part.data for part in client.runs.stream(thread_id, "chain", input=EMPTY)]
            client.store.put_item(["a"], key="k", value={"n": 1})
            return [
                streamed[-1],
                client.runs.wait(thread_id, "chain", input=EMPTY),
                client.threads.get_state(thread_id)["values"],
                client.threads.get_history(thread_id, limit=1)[0]["values"],
                client.store.get_item(["a"], key="k")["value"],
                client.assistants.search(graph_id="chain")[0]["name"],
                client.threads.delete(thread_id),
            ]

    twice = {"items": DONE["items"] * 2}
    assert await anyio.to_thread.run_sync(talk) == [DONE, twice, twice, twice, {"n": 1}, "chain", None]
