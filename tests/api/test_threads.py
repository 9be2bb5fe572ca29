"""Threads: make one, read it, change it, copy it, prune it, delete it."""

import uuid
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import BadRequestError, ConflictError, NotFoundError, UnprocessableEntityError

from conftest import serving
from graphs import Gate, delta_graph
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


SUPERSTEPS: Any = [
    {"updates": [{"values": {"items": ["in"]}, "as_node": "__input__"}]},
    {"updates": [{"values": {"items": ["first"]}, "as_node": "first"}]},
]


async def test_new_thread_is_idle_and_empty(client: LangGraphClient) -> None:
    """Protocol: a thread before its first run."""
    made = await client.threads.create(metadata={"topic": "weather"})

    thread = await client.threads.get(made["thread_id"])

    assert thread == made
    assert (thread["status"], thread["values"], thread["interrupts"]) == ("idle", None, {})
    assert thread["metadata"] == {"topic": "weather"}
    assert uuid.UUID(thread["thread_id"]).version == 7


async def test_a_taken_id_is_a_conflict_unless_the_client_allows_it(client: LangGraphClient) -> None:
    """Protocol: `if_exists`."""
    thread_id = str(uuid.uuid4())
    made = await client.threads.create(thread_id=thread_id, metadata={"n": 1})

    with pytest.raises(ConflictError):
        await client.threads.create(thread_id=thread_id)

    assert await client.threads.create(thread_id=thread_id, if_exists="do_nothing") == made


@pytest.mark.parametrize(
    ("given", "strategy", "minutes"),
    [(90, "delete", 90), ({"ttl": 0.5}, "delete", 0.5), ({"ttl": 5, "strategy": "keep_latest"}, "keep_latest", 5)],
)
async def test_the_time_to_live_is_returned_on_request(
    client: LangGraphClient, given: Any, strategy: str, minutes: float
) -> None:
    """Protocol: `ttl`, and `include=ttl`, which the in-memory reference does not answer."""
    thread = await client.threads.create(ttl=given)
    ends = datetime.fromisoformat(str(thread["updated_at"])) + timedelta(minutes=minutes)

    shown: Any = await client.threads.get(thread["thread_id"], include=["ttl"])

    assert "ttl" not in thread
    ttl = shown.pop("ttl")
    assert (shown, ttl["strategy"], ttl["ttl_minutes"]) == (thread, strategy, minutes)
    assert datetime.fromisoformat(ttl["expires_at"]) == ends


async def test_a_thread_without_a_time_to_live_has_none(client: LangGraphClient) -> None:
    """Ours: null, not a missing field."""
    thread = await client.threads.create()

    shown: Any = await client.threads.get(thread["thread_id"], include=["ttl"])

    assert shown == {**thread, "ttl": None}


async def test_metadata_are_merged(client: LangGraphClient) -> None:
    """Protocol: PATCH, and with `Prefer: return=minimal` no body."""
    thread = await client.threads.create(metadata={"a": 1, "b": 1})

    changed = await client.threads.update(thread["thread_id"], metadata={"b": 2}, ttl=10)
    nothing = await client.threads.update(thread["thread_id"], metadata={"c": 3}, return_minimal=True)

    assert changed["metadata"] == {"a": 1, "b": 2}
    assert nothing is None
    shown: Any = await client.threads.get(thread["thread_id"], include=["ttl"])
    assert (shown["metadata"], shown["ttl"]["ttl_minutes"]) == ({"a": 1, "b": 2, "c": 3}, 10)
    assert shown["created_at"] == thread["created_at"]
    assert shown["updated_at"] > thread["updated_at"]


async def test_an_unknown_thread_id_is_not_found(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Protocol: 404 wherever a thread is named, 422 where that is no UUID."""
    nobody = str(uuid.uuid4())
    methods: list[Any] = [
        client.threads.get(nobody),
        client.threads.update(nobody, metadata={}),
        client.threads.delete(nobody),
        client.threads.copy(nobody),
        client.threads.get_state(nobody),
        client.threads.get_state(nobody, {"checkpoint_ns": ""}),
        client.threads.get_history(nobody),
        client.threads.update_state(nobody, {}),
    ]
    for call in methods:
        with pytest.raises(NotFoundError):
            await call
    assert (await http.get(f"/threads/{nobody}/storage")).status_code == 404

    refused = await http.get("/threads/zz")
    assert (refused.status_code, refused.json()["detail"]) == (422, "Invalid thread ID: must be a UUID")


async def test_deleted_thread_is_gone_with_its_state(client: LangGraphClient) -> None:
    """Protocol: DELETE /threads/{id}."""
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "chain", input={"items": ["in"]})

    await client.threads.delete(thread["thread_id"])

    with pytest.raises(NotFoundError):
        await client.threads.get(thread["thread_id"])
    with pytest.raises(NotFoundError):
        await client.threads.get_state(thread["thread_id"])
    again = await client.threads.create(thread_id=thread["thread_id"], graph_id="chain")
    assert await client.threads.get_history(again["thread_id"]) == []


async def test_thread_is_made_in_the_state_that_supersteps_leave(client: LangGraphClient) -> None:
    """Protocol: `supersteps`. The row agrees with the state."""
    made = await client.threads.create(supersteps=SUPERSTEPS, graph_id="chain")

    state = await client.threads.get_state(made["thread_id"])

    assert (made["status"], made["values"], made["interrupts"]) == ("interrupted", {"items": ["first"]}, {})
    assert (state["values"], state["next"]) == ({"items": ["first"]}, ["second"])
    assert await client.threads.get(made["thread_id"]) == made
    assert await client.runs.wait(made["thread_id"], "chain", input=None) == {"items": ["first", "second"]}


async def test_superstep_may_be_a_command(client: LangGraphClient) -> None:
    """Protocol: `updates[].command`."""
    command = {"values": None, "command": {"update": {"items": ["told"]}, "goto": "second"}, "as_node": "first"}

    made = await client.threads.create(supersteps=[SUPERSTEPS[0], {"updates": [command]}], graph_id="chain")

    assert made["values"] == {"items": ["told"]}
    state = await client.threads.get_state(made["thread_id"])
    assert set(state["next"]) == {"second"}


async def test_supersteps_that_fail_leave_no_thread(client: LangGraphClient) -> None:
    """Ours: the reference answers 201 with an error in it, and leaves a thread."""
    thread_id = str(uuid.uuid4())
    wrong = [*SUPERSTEPS, {"updates": [{"values": {"items": ["x"]}, "as_node": "zz"}]}]

    with pytest.raises(BadRequestError, match="'graph_id'"):
        await client.threads.create(thread_id=thread_id, supersteps=SUPERSTEPS)
    with pytest.raises(NotFoundError, match="Graph 'nope' not found"):
        await client.threads.create(thread_id=thread_id, supersteps=SUPERSTEPS, graph_id="nope")
    with pytest.raises(BadRequestError, match="Node zz does not exist"):
        await client.threads.create(thread_id=thread_id, supersteps=wrong, graph_id="chain")

    assert await client.threads.count() == 0
    await client.threads.create(thread_id=thread_id, graph_id="chain")
    assert await client.threads.get_history(thread_id) == []


async def test_supersteps_do_not_touch_a_thread_that_is_there(client: LangGraphClient) -> None:
    """Ours: `do_nothing` does nothing; the reference applies them once more."""
    made = await client.threads.create(supersteps=SUPERSTEPS, graph_id="chain")

    again = await client.threads.create(
        thread_id=made["thread_id"], if_exists="do_nothing", supersteps=SUPERSTEPS, graph_id="chain"
    )

    assert again == made


async def test_copy_has_the_state_and_goes_its_own_way(client: LangGraphClient) -> None:
    """Protocol: POST …/copy: checkpoints keep their ids; the status is that of the state, which the reference forgets."""
    source = await client.threads.create(metadata={"topic": "weather"}, ttl=60)
    await client.runs.wait(source["thread_id"], "asking", input={"items": ["in"]})
    before = await client.threads.get(source["thread_id"])

    copy: Any = await client.threads.copy(source["thread_id"])

    told = ("metadata", "status", "values", "interrupts", "error", "config")
    assert {name: copy[name] for name in told} == {name: before[name] for name in told}
    histories = [await client.threads.get_history(one["thread_id"], limit=100) for one in (source, copy)]
    ids = [[state["checkpoint"]["checkpoint_id"] for state in history] for history in histories]
    assert ids[0] == ids[1]
    assert {state["checkpoint"]["thread_id"] for state in histories[1]} == {copy["thread_id"]}
    answer = await client.runs.wait(copy["thread_id"], "asking", command={"resume": "this"})
    assert answer == {"items": ["in", "first", "this", "second"]}
    assert await client.threads.get(source["thread_id"]) == before
    assert await client.runs.list(copy["thread_id"], limit=10) != await client.runs.list(source["thread_id"], limit=10)


async def test_copy_of_a_busy_thread_is_not_busy(client: LangGraphClient, gate: Gate) -> None:
    """Ours: it has what the run has written so far, and its row says the same."""
    source = await client.threads.create()
    await client.runs.create(source["thread_id"], "gated", input={"items": ["in"]}, durability="sync")
    await gate.entered()

    copy: Any = await client.threads.copy(source["thread_id"])

    state = await client.threads.get_state(copy["thread_id"])
    assert (copy["status"], copy["values"], state["next"]) == ("interrupted", {"items": ["in"]}, ["gate"])
    assert (await client.threads.get(source["thread_id"]))["status"] == "busy"


async def test_prune_deletes_threads_that_are_there(client: LangGraphClient) -> None:
    """Protocol: POST /threads/prune."""
    one, two = await client.threads.create(), await client.threads.create()

    pruned = await client.threads.prune([one["thread_id"], str(uuid.uuid4())])

    assert pruned == {"pruned_count": 1}
    assert [thread["thread_id"] for thread in await client.threads.search()] == [two["thread_id"]]


async def test_prune_may_keep_the_newest_checkpoint(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Protocol: `keep_latest`, which the in-memory reference refuses."""
    thread_id = (await client.threads.create())["thread_id"]
    for _ in range(2):
        await client.runs.wait(thread_id, "asking", input={"items": ["in"]})
    before = await client.threads.get_state(thread_id)
    held = (await http.get(f"/threads/{thread_id}/storage")).json()

    assert await client.threads.prune([thread_id], strategy="keep_latest") == {"pruned_count": 1}

    after = await client.threads.get_state(thread_id)
    assert {**after, "parent_checkpoint": None, "parent_checkpoint_id": None} == {
        **before,
        "parent_checkpoint": None,
        "parent_checkpoint_id": None,
    }
    assert len(await client.threads.get_history(thread_id, limit=100)) == 1
    kept = (await http.get(f"/threads/{thread_id}/storage")).json()
    assert kept["checkpoints"]["count"] == 1 < held["checkpoints"]["count"]
    assert kept["total_bytes"] < held["total_bytes"]
    answer = await client.runs.wait(thread_id, "asking", command={"resume": "this"})
    assert answer["items"][-2:] == ["this", "second"]


async def test_busy_thread_keeps_its_checkpoints(client: LangGraphClient, gate: Gate) -> None:
    """Ours: a run does not lose the checkpoint that it continues from."""
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.create(thread_id, "gated", input={"items": ["in"]})
    await gate.entered()

    assert await client.threads.prune([thread_id], strategy="keep_latest") == {"pruned_count": 0}


async def test_thread_whose_values_are_spread_over_its_checkpoints_is_not_pruned(settings: Settings) -> None:
    """Ours: LangGraph can't prune a DeltaChannel. The client gets an error, and nothing is lost."""
    graphs = {"delta": as_loaded_graph("delta", delta_graph(), where="tests")}
    async with serving(settings, graphs) as url, get_client(url=url, api_key=None) as client:
        thread_id = (await client.threads.create())["thread_id"]
        values = await client.runs.wait(thread_id, "delta", input={"items": ["in"]})

        with pytest.raises(UnprocessableEntityError, match="DeltaChannel"):
            await client.threads.prune([thread_id], strategy="keep_latest")

        assert (await client.threads.get_state(thread_id))["values"] == values


async def test_storage_is_listed_by_table_and_channel(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Protocol: GET …/storage."""
    thread_id = (await client.threads.create())["thread_id"]
    empty = (await http.get(f"/threads/{thread_id}/storage")).json()
    await client.runs.wait(thread_id, "chain", input={"items": ["in"]})

    storage = (await http.get(f"/threads/{thread_id}/storage")).json()

    assert empty == {
        "thread_id": thread_id,
        "total_bytes": 0,
        "checkpoints": {"count": 0, "bytes": 0},
        "channel_values": {"count": 0, "bytes": 0, "by_channel": {}},
        "pending_writes": {"count": 0, "bytes": 0},
    }
    assert storage["checkpoints"]["count"] == 4
    channels = storage["channel_values"]
    assert channels["by_channel"]["items"]["versions"] == 3
    assert channels["count"] == sum(channel["versions"] for channel in channels["by_channel"].values())
    parts = ("checkpoints", "channel_values", "pending_writes")
    assert storage["total_bytes"] == sum(storage[part]["bytes"] for part in parts)
