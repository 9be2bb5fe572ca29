"""Assistants: graphs with a configuration: make one, change it, find it, go back to an earlier version."""

import uuid
from typing import Any

import anyio
import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import APIStatusError, BadRequestError, ConflictError, NotFoundError, UnprocessableEntityError
from langgraph_sdk.schema import Assistant, Config

from threadkeep.tables.assistants import system_id


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


NOBODY = "00000000-0000-4000-8000-000000000000"


async def test_new_assistant_is_untitled_and_has_its_first_version(client: LangGraphClient) -> None:
    """Protocol: POST /assistants, its defaults."""
    made = await client.assistants.create("chain")

    assert await client.assistants.get(made["assistant_id"]) == made
    assert _said(made) == {
        "graph_id": "chain",
        "config": {},
        "context": {},
        "metadata": {},
        "name": "Untitled",
        "version": 1,
        "description": None,
    }
    assert uuid.UUID(made["assistant_id"]).version == 4
    assert made["created_at"] == made["updated_at"]


async def test_an_assistant_keeps_its_fields(client: LangGraphClient) -> None:
    """Protocol: POST /assistants, every field."""
    assistant_id = str(uuid.uuid4())
    made = await client.assistants.create(
        "chain",
        {"tags": ["a"], "recursion_limit": 7},
        context={"model": "small"},
        metadata={"team": 1},
        assistant_id=assistant_id,
        name="Helper",
        description="It helps.",
    )

    assert made["assistant_id"] == assistant_id
    assert _said(made) == {
        "graph_id": "chain",
        "config": {"tags": ["a"], "recursion_limit": 7, "configurable": {"model": "small"}},
        "context": {"model": "small"},
        "metadata": {"team": 1},
        "name": "Helper",
        "version": 1,
        "description": "It helps.",
    }


async def test_configurable_and_context_show_the_same(client: LangGraphClient) -> None:
    """Protocol: each mirrors the other; the reference's 400 where both say something."""
    by_config = await client.assistants.create("chain", {"configurable": {"model": "small"}})
    by_context = await client.assistants.create("chain", context={"model": "small"})

    assert by_config["context"] == by_context["context"] == {"model": "small"}
    assert by_config["config"] == by_context["config"] == {"configurable": {"model": "small"}}
    with pytest.raises(BadRequestError, match="Cannot specify both configurable and context"):
        await client.assistants.create("chain", {"configurable": {"a": 1}}, context={"a": 1})


async def test_keys_that_only_the_server_sets_are_left_out(client: LangGraphClient) -> None:
    """Ours: an assistant is no way to another thread or another user."""
    sent = {"thread_id": NOBODY, "langgraph_auth_user": "root", "__pregel_x": 1, "model": "small"}
    made = await client.assistants.create("chain", context=sent)

    assert made["context"] == {"model": "small"}
    assert made["config"] == {"configurable": {"model": "small"}}


async def test_a_taken_id_is_a_conflict_unless_the_client_allows_it(client: LangGraphClient) -> None:
    """Protocol: `if_exists`."""
    made = await client.assistants.create("chain", name="first")
    taken = made["assistant_id"]

    with pytest.raises(ConflictError, match=f"Assistant {taken} already exists"):
        await client.assistants.create("chain", assistant_id=taken)

    assert await client.assistants.create("asking", assistant_id=taken, if_exists="do_nothing") == made


async def test_unknown_graph_is_not_found_and_the_known_ones_are_listed(client: LangGraphClient) -> None:
    """Protocol: 404 in POST and PATCH."""
    made = await client.assistants.create("chain")

    with pytest.raises(NotFoundError, match=r"Graph 'nope' not found\. Expected one of: \['asking', 'chain'"):
        await client.assistants.create("nope")
    with pytest.raises(NotFoundError, match="Graph 'nope' not found"):
        await client.assistants.update(made["assistant_id"], graph_id="nope")


async def test_graph_is_known_by_its_name_wherever_an_id_is(client: LangGraphClient) -> None:
    """Ours: the reference takes a graph's name in some of these paths only."""
    own = await client.assistants.get("chain")

    assert own["assistant_id"] == str(system_id("chain"))
    assert own["metadata"] == {"created_by": "system"}
    assert (await client.assistants.update("chain", name="Chain"))["version"] == 2
    assert [one["name"] for one in await client.assistants.get_versions("chain")] == ["Chain", "chain"]
    assert (await client.assistants.set_latest("chain", 1))["name"] == "chain"


async def test_change_merges_metadata_and_replaces_all_else(client: LangGraphClient) -> None:
    """Protocol: PATCH /assistants/{id}."""
    made = await client.assistants.create(
        "chain", {"recursion_limit": 7}, context={"a": 1}, metadata={"a": 1, "b": 1}, name="old", description="old"
    )

    changed = await client.assistants.update(
        made["assistant_id"],
        graph_id="asking",
        config={"tags": ["t"], "configurable": {"b": 2}},
        metadata={"b": 2, "c": 2},
        name="new",
        description="new",
    )

    assert await client.assistants.get(made["assistant_id"]) == changed
    assert _said(changed) == {
        "graph_id": "asking",
        "config": {"tags": ["t"], "configurable": {"b": 2}},
        "context": {"b": 2},
        "metadata": {"a": 1, "b": 2, "c": 2},
        "name": "new",
        "version": 2,
        "description": "new",
    }
    assert changed["created_at"] == made["created_at"]
    assert changed["updated_at"] > made["updated_at"]


@pytest.mark.parametrize(
    ("change", "config", "context"),
    [
        ({"context": {"b": 2}}, {"recursion_limit": 7, "configurable": {"b": 2}}, {"b": 2}),
        ({"context": {}}, {"recursion_limit": 7}, {}),
        ({"config": {"recursion_limit": 9}}, {"recursion_limit": 9, "configurable": {"a": 1}}, {"a": 1}),
        ({"config": {"configurable": {}}}, {}, {}),
        ({"name": "new"}, {"recursion_limit": 7, "configurable": {"a": 1}}, {"a": 1}),
    ],
)
async def test_a_change_of_configurable_or_context_changes_the_other(
    client: LangGraphClient, change: dict[str, Any], config: Config, context: dict[str, Any]
) -> None:
    """Ours: the reference lets the two drift apart."""
    made = await client.assistants.create("chain", {"recursion_limit": 7, "configurable": {"a": 1}})

    changed = await client.assistants.update(made["assistant_id"], **change)

    assert (changed["config"], changed["context"]) == (config, context)


async def test_changes_at_once_lose_nothing(client: LangGraphClient) -> None:
    """Ours: each is a version of its own, and each one's metadata is in the last."""
    made = await client.assistants.create("chain")
    assistant_id = made["assistant_id"]

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(_change, client, assistant_id, number)

    last = await client.assistants.get(assistant_id)
    versions = await client.assistants.get_versions(assistant_id, limit=20)
    assert last["metadata"] == {str(number): number for number in range(12)}
    assert [one["version"] for one in versions] == list(range(13, 0, -1))


async def _change(client: LangGraphClient, assistant_id: str, number: int) -> None:
    await client.assistants.update(assistant_id, metadata={str(number): number})


async def test_versions_are_listed_newest_first(client: LangGraphClient) -> None:
    """Protocol: POST /assistants/{id}/versions, its filter and its page; no `updated_at`."""
    made = await client.assistants.create("chain", name="one")
    assistant_id = made["assistant_id"]
    await client.assistants.update(assistant_id, name="two", metadata={"good": True})
    await client.assistants.update(assistant_id, name="three")

    listed = await client.assistants.get_versions(assistant_id)
    good = await client.assistants.get_versions(assistant_id, metadata={"good": True})
    second = await client.assistants.get_versions(assistant_id, limit=1, offset=1)

    assert [(one["version"], one["name"]) for one in listed] == [(3, "three"), (2, "two"), (1, "one")]
    assert listed[2] == {key: value for key, value in made.items() if key != "updated_at"}
    assert good == listed[:2]
    assert second == [listed[1]]


async def test_earlier_version_comes_back_whole(client: LangGraphClient) -> None:
    """Protocol: POST /assistants/{id}/latest. Ours: the context and the graph too, which the reference leaves."""
    made = await client.assistants.create("chain", context={"a": 1}, metadata={"m": 1}, name="one", description="d")
    assistant_id = made["assistant_id"]
    await client.assistants.update(
        assistant_id, graph_id="asking", context={"b": 2}, metadata={"n": 2}, name="two", description="e"
    )

    restored = await client.assistants.set_latest(assistant_id, 1)

    assert _said(restored) == _said(made)
    assert await client.assistants.get(assistant_id) == restored
    assert (await client.assistants.update(assistant_id, name="three"))["version"] == 3
    with pytest.raises(NotFoundError, match=f"Version 99 not found for assistant {assistant_id}"):
        await client.assistants.set_latest(assistant_id, 99)


async def test_a_search_pages_through_all_matches(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Protocol: POST /assistants/search, newest first, with pagination headers. Ours: the total is the true one."""
    made = [await client.assistants.create("chain", metadata={"mine": True}) for _ in range(5)]

    page = await client.assistants.search(metadata={"mine": True}, limit=2, response_format="object")
    response = await http.post("/assistants/search", json={"metadata": {"mine": True}, "limit": 2, "offset": 2})
    last = await http.post("/assistants/search", json={"metadata": {"mine": True}, "limit": 2, "offset": 4})

    assert page == {"assistants": made[:2:-1], "next": "2"}
    assert response.json() == made[2:0:-1]
    assert (response.headers["x-pagination-total"], response.headers["x-pagination-next"]) == ("5", "4")
    assert last.headers["x-pagination-total"] == "5"
    assert "x-pagination-next" not in last.headers


async def test_search_finds_by_name_and_graph_and_sorts_and_selects(client: LangGraphClient) -> None:
    """Protocol: a part of the name in any case, `graph_id`, `sort_by`, `sort_order`, `select`."""
    for graph_id, name in [("chain", "Weather today"), ("asking", "weather man"), ("chain", "100% other")]:
        await client.assistants.create(graph_id, name=name, metadata={"mine": True})

    by_name = await client.assistants.search(name="WEATHER", sort_by="graph_id", sort_order="asc", select=["name"])
    by_graph = await client.assistants.search(graph_id="chain", metadata={"mine": True}, select=["name", "version"])
    by_sign = await client.assistants.search(name="%", select=["name"])

    assert by_name == [{"name": "weather man"}, {"name": "Weather today"}]
    assert by_graph == [{"name": "100% other", "version": 1}, {"name": "Weather today", "version": 1}]
    assert by_sign == [{"name": "100% other"}]
    with pytest.raises(UnprocessableEntityError):
        await client.assistants.search(select=["secret"])  # pyright: ignore[reportArgumentType] - on purpose


async def test_count_is_of_all_that_match(client: LangGraphClient) -> None:
    """Protocol: POST /assistants/count, a bare number."""
    for number in range(12):
        await client.assistants.create("chain", name=f"Number {number}", metadata={"even": number % 2 == 0})

    assert await client.assistants.count(graph_id="chain") == 13
    assert await client.assistants.count(metadata={"even": True}) == 6
    assert await client.assistants.count(name="number 1") == 3


async def test_deleted_assistant_is_gone_and_its_threads_stay(client: LangGraphClient) -> None:
    """Protocol: DELETE /assistants/{id}."""
    made = await client.assistants.create("chain")
    assistant_id = made["assistant_id"]
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], assistant_id, input={"items": []})

    await client.assistants.delete(assistant_id)

    with pytest.raises(NotFoundError):
        await client.assistants.get(assistant_id)
    with pytest.raises(NotFoundError):
        await client.runs.create(None, assistant_id)
    assert (await client.threads.get(thread["thread_id"]))["metadata"]["assistant_id"] == assistant_id


async def test_threads_of_a_deleted_assistant_are_deleted_on_request(client: LangGraphClient) -> None:
    """Protocol: `?delete_threads=true`: those whose metadata names it, and no others."""
    made = await client.assistants.create("chain")
    its, others = await client.threads.create(), await client.threads.create()
    await client.runs.wait(its["thread_id"], made["assistant_id"], input={"items": []})
    await client.runs.wait(others["thread_id"], "chain", input={"items": []})

    await client.assistants.delete(made["assistant_id"], delete_threads=True)

    with pytest.raises(NotFoundError):
        await client.threads.get(its["thread_id"])
    assert (await client.threads.get_state(others["thread_id"]))["values"] == {"items": ["first", "second"]}


async def test_graphs_own_assistant_can_be_deleted(client: LangGraphClient) -> None:
    """Protocol: a system assistant's deletion succeeds; its graph then has no assistant by name."""
    await client.assistants.delete("chain")

    with pytest.raises(NotFoundError):
        await client.runs.create(None, "chain")


async def test_change_reaches_the_next_run(client: LangGraphClient) -> None:
    """Ours: what runs remember of an assistant is forgotten with each change."""
    made = await client.assistants.create("chain")
    assistant_id = made["assistant_id"]
    await client.runs.wait(None, assistant_id, input={"items": []})

    await client.assistants.update(assistant_id, graph_id="writing")
    assert await client.runs.wait(None, assistant_id, input={"items": []}) == {"items": ["written"]}

    await client.assistants.set_latest(assistant_id, 1)
    assert await client.runs.wait(None, assistant_id, input={"items": []}) == {"items": ["first", "second"]}


@pytest.mark.parametrize(
    ("named", "status"), [(NOBODY, 404), ("no-id-and-no-graph", 422)], ids=["nobody's", "malformed"]
)
async def test_an_unknown_id_is_not_found_and_an_invalid_one_is_refused(
    client: LangGraphClient, named: str, status: int
) -> None:
    """Protocol: 404 and 422, in every path."""
    assistants = client.assistants
    calls = [
        assistants.get(named),
        assistants.update(named, name="new"),
        assistants.delete(named),
        assistants.delete(named, delete_threads=True),
        assistants.get_versions(named),
        assistants.set_latest(named, 1),
        assistants.get_graph(named),
        assistants.get_schemas(named),
        assistants.get_subgraphs(named),
        assistants.get_subgraphs(named, namespace="child"),
    ]
    for each in calls:
        with pytest.raises(APIStatusError) as refused:
            await each
        assert refused.value.status_code == status


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"graph_id": "chain", "assistant_id": "x"},
        {"graph_id": "chain", "config": {"tags": "a"}},
        {"graph_id": "chain", "config": {"configurable": []}},
    ],
)
async def test_body_of_the_wrong_form_is_refused(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """Protocol: 422."""
    assert (await http.post("/assistants", json=body)).status_code == 422


def _said(assistant: Assistant) -> dict[str, Any]:
    """All of it but its id and its times."""
    return {key: value for key, value in assistant.items() if key not in {"assistant_id", "created_at", "updated_at"}}
