"""Changes of a thread while a run executes on it, in this process or in another one."""

import itertools
import operator
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, NamedTuple, TypeAlias

import anyio
import httpx
import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from psycopg.rows import tuple_row
from typing_extensions import TypedDict

from conftest import WAIT_S, serving
from graphs import GRAPHS, Gate
from threadkeep.duties import cleanup
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "runs", "run_events", "crons", "webhook_deliveries")
Delete: TypeAlias = Callable[[httpx.AsyncClient, str, str], Awaitable[httpx.Response]]


class Items(TypedDict, total=False):
    items: Annotated[list[Any], operator.add]


async def _wait(state: Items) -> Items:
    if Gate.latest is not None:
        await Gate.latest.pass_through()
    return {"items": ["passed"]}


async def _ask_and_wait(state: Items) -> Items:
    answer = interrupt("first?")
    await _wait(state)
    return {"items": [answer]}


async def _ask_twice(state: Items) -> Items:
    return {"items": [interrupt("first?"), interrupt("second?")]}


async def _wait_before(state: Items) -> str:
    """Where a change of the state takes its time."""
    if Gate.latest is not None and "held" in state["items"]:
        await Gate.latest.pass_through()
    return END


def _graph(**nodes: Any) -> Any:
    graph = StateGraph(Items)
    for name, node in nodes.items():
        graph.add_node(name, node)
    for before, after in zip([START, *nodes], [*nodes, END], strict=True):
        graph.add_edge(before, after)
    return graph


def _holding() -> Any:
    graph = StateGraph(Items)
    graph.add_node("add", lambda _: {"items": ["added"]})
    graph.add_edge(START, "add")
    graph.add_conditional_edges("add", _wait_before, [END])
    return graph


def _first(state: Items) -> Items:
    return {"items": ["first"]}


async def _made_slowly(config: dict[str, Any]) -> Any:
    """A factory that takes its time for a thread, and none for a server that looks at its graphs when it starts."""
    if "thread_id" in config.get("configurable", {}):
        await _wait({})
    return _graph(first=_first)


MINE = {
    "made_slowly": _made_slowly,
    "stepping": _graph(first=_first, gate=_wait, last=_first),
    "answered": _graph(first=_first, ask=_ask_and_wait),
    "asking_then": _graph(ask=lambda _: {"items": [interrupt("first?")]}, gate=_wait),
    "asking_twice": _graph(ask=_ask_twice, gate=_wait),
    "holding": _holding(),
}


@asynccontextmanager
async def _server(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in {**GRAPHS, **MINE}.items()}
    async with (
        serving(settings, loaded) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http,
    ):
        yield http


@pytest.fixture
async def http(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with _server(settings) as http:
        yield http


@pytest.fixture
async def elsewhere(settings: Settings, http: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Another process that claims no runs, so runs execute in the process that starts them."""
    async with _server(settings) as elsewhere:
        yield elsewhere


async def _sql(settings: Settings, statement: Any, *parameters: object) -> list[tuple[Any, ...]]:
    conn = await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True, row_factory=tuple_row)
    async with conn:
        cursor = await conn.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []


async def _left(settings: Settings, thread_id: str) -> dict[str, int]:
    """How many rows of a thread there are, by table."""
    left: dict[str, int] = {}
    for table in TABLES:
        where = "thread_id::text = %s"
        if table == "run_events":
            where = "NOT EXISTS (SELECT FROM runs WHERE runs.run_id = run_events.run_id) OR %s = ''"
        [(left[table],)] = await _sql(settings, f"SELECT count(*) FROM {table} WHERE {where}", thread_id)
    return left


async def _until_idle(http: httpx.AsyncClient, thread_id: str) -> dict[str, Any]:
    with anyio.fail_after(WAIT_S):
        while (thread := (await http.get(f"/threads/{thread_id}")).json())["status"] == "busy":
            await anyio.sleep(0.02)
    return thread


async def _delete(http: httpx.AsyncClient, thread_id: str, assistant_id: str) -> httpx.Response:
    return await http.delete(f"/threads/{thread_id}")


async def _prune(http: httpx.AsyncClient, thread_id: str, assistant_id: str) -> httpx.Response:
    return await http.post("/threads/prune", json={"thread_ids": [thread_id], "strategy": "delete"})


async def _delete_assistant(http: httpx.AsyncClient, thread_id: str, assistant_id: str) -> httpx.Response:
    return await http.delete(f"/assistants/{assistant_id}", params={"delete_threads": "true"})


class Deletion(NamedTuple):
    """How a thread is deleted, in the process of its run or in another one, and when the run writes its checkpoints."""

    delete: Delete
    here: bool
    durability: str


@pytest.mark.parametrize(
    "deletion",
    [
        Deletion(*each)
        for each in itertools.product([_delete, _prune, _delete_assistant], [True, False], ["sync", "async", "exit"])
    ],
    ids=lambda deletion: f"{deletion.delete.__name__}-{deletion.here}-{deletion.durability}",
)
async def test_thread_deleted_during_a_run_leaves_nothing(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, settings: Settings, gate: Gate, deletion: Deletion
) -> None:
    """Ours: the run is cancelled, its later writes are refused, and a new thread with the same id is empty."""
    delete, here, durability = deletion
    assistant = (await http.post("/assistants", json={"graph_id": "stepping"})).json()["assistant_id"]
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run = {"assistant_id": assistant, "input": {"items": ["secret"]}, "durability": durability}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: http.post(f"/threads/{thread_id}/runs/wait", json=run))
        await gate.entered()
        answer = await delete(http if here else elsewhere, thread_id, assistant)
        assert answer.is_success, answer.text
        with anyio.fail_after(WAIT_S):
            while gate.inside:
                await anyio.sleep(0.01)

    assert await _left(settings, thread_id) == dict.fromkeys(TABLES, 0)
    made = await http.post("/threads", json={"thread_id": thread_id, "metadata": {"graph_id": "stepping"}})
    assert made.json()["values"] is None
    assert (await http.get(f"/threads/{thread_id}/state")).json()["values"] == {}


async def test_thread_that_expires_leaves_nothing(
    http: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: an unsent webhook is deleted with its thread. The thread of a stateless run waits for the webhook."""
    monkeypatch.setattr(cleanup, "CLEANUP_S", 0.05)
    with_webhook = {"assistant_id": "chain", "input": {"items": []}, "webhook": "https://nowhere.invalid/"}
    kept = (await http.post("/threads", json={"ttl": 60})).json()["thread_id"]
    await http.post(f"/threads/{kept}/runs/wait", json=with_webhook)
    ended = (await http.post("/runs", json=with_webhook)).json()
    await http.get(f"/threads/{ended['thread_id']}/runs/{ended['run_id']}/join")
    await _sql(
        settings,
        "INSERT INTO webhook_deliveries (run_id, thread_id, project_id, url, body, send_after)"
        " SELECT gen_random_uuid(), thread_id, project_id, 'https://nowhere.invalid/', '{}', now() + interval '1 h' FROM threads",
    )

    assert (await http.delete(f"/threads/{kept}")).is_success
    assert await _left(settings, kept) == dict.fromkeys(TABLES, 0)

    await _sql(settings, "UPDATE threads SET ephemeral_until = now()")
    await anyio.sleep(0.3)  # several rounds
    assert (await http.get(f"/threads/{ended['thread_id']}")).is_success
    await _sql(settings, "DELETE FROM webhook_deliveries")
    with anyio.fail_after(WAIT_S):
        while (await http.get(f"/threads/{ended['thread_id']}")).status_code != 404:
            await anyio.sleep(0.02)
    assert await _left(settings, ended["thread_id"]) == dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize(
    ("graph", "answers"), [("answered", ["a"]), ("asking_then", ["a"]), ("asking_twice", ["a", "b"])]
)
async def test_a_rolled_back_answer_leaves_no_trace(
    http: httpx.AsyncClient, settings: Settings, gate: Gate, graph: str, answers: list[str], durability: str
) -> None:
    """Ours: LangGraph writes an answer to the checkpoint of the run that asked; a rollback takes it back from there."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    base = {"assistant_id": graph, "durability": durability}
    await http.post(f"/threads/{thread_id}/runs/wait", json=base | {"input": {"items": ["in"]}})
    for answer in answers[:-1]:
        await http.post(f"/threads/{thread_id}/runs/wait", json=base | {"command": {"resume": answer}})
    before = (await http.get(f"/threads/{thread_id}/state")).json()
    row = await _until_idle(http, thread_id)
    writes = await _sql(settings, "SELECT * FROM checkpoint_writes ORDER BY 1, 2, 3, 4, 5")

    resumed = base | {"command": {"resume": answers[-1]}}
    run = (await http.post(f"/threads/{thread_id}/runs", json=resumed)).json()
    await gate.entered()
    path = f"/threads/{thread_id}/runs/{run['run_id']}/cancel"
    assert (await http.post(path, params={"action": "rollback", "wait": "true"})).is_success

    assert (await http.get(f"/threads/{thread_id}/state")).json() == before
    assert await _sql(settings, "SELECT * FROM checkpoint_writes ORDER BY 1, 2, 3, 4, 5") == writes
    assert await _sql(settings, "SELECT * FROM run_undo_log") == []
    after = await _until_idle(http, thread_id)
    changing = {"updated_at", "state_updated_at"}
    assert {k: v for k, v in after.items() if k not in changing} == {k: v for k, v in row.items() if k not in changing}

    gate.open()
    other = base | {"command": {"resume": "other"}}
    values = (await http.post(f"/threads/{thread_id}/runs/wait", json=other)).json()
    assert "other" in values["items"]
    assert answers[-1] not in values["items"]
    assert await _sql(settings, "SELECT * FROM run_undo_log") == []


async def test_a_rollback_waits_for_a_write_in_progress(
    http: httpx.AsyncClient, settings: Settings, gate: Gate
) -> None:
    """Ours: with durability `sync` a checkpoint may be committed after its graph was cancelled."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run = {"assistant_id": "stepping", "input": {"items": ["rolled back"]}, "durability": "sync"}
    started = (await http.post(f"/threads/{thread_id}/runs", json=run)).json()["run_id"]
    await gate.entered()
    cancelled: list[httpx.Response] = []

    async def cancel() -> None:
        path = f"/threads/{thread_id}/runs/{started}/cancel"
        cancelled.append(await http.post(path, params={"action": "rollback", "wait": "true"}))

    conn = await psycopg.AsyncConnection.connect(str(settings.database_uri))
    async with anyio.create_task_group() as tasks, conn:
        await conn.execute("SELECT FROM workers FOR UPDATE")  # a commit of checkpoints waits for it
        gate.open()
        await _until_blocked(settings, "INTO checkpoint")
        tasks.start_soon(cancel)
        with anyio.fail_after(WAIT_S):
            while not await _sql(settings, "SELECT 1 FROM runs WHERE cancel_action = 'rollback'"):
                await anyio.sleep(0.01)
        await anyio.sleep(0.2)  # the graph is cancelled, and its write is still on its way
        await conn.rollback()

    assert [answer.status_code for answer in cancelled] == [200]
    assert await _left(settings, thread_id) == dict.fromkeys(TABLES, 0)


async def _until_blocked(settings: Settings, text: str) -> None:
    with anyio.fail_after(WAIT_S):
        while not await _sql(
            settings,
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            " AND position(%s IN query) > 0",
            text,
        ):
            await anyio.sleep(0.01)


async def test_delayed_run_that_comes_due_during_a_change_begins_after_it(
    http: httpx.AsyncClient, settings: Settings, gate: Gate
) -> None:
    """Ours: both are in the history, one after the other."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run = {"assistant_id": "holding", "input": {"items": ["run"]}}
    await http.post(f"/threads/{thread_id}/runs/wait", json=run)
    delayed = (await http.post(f"/threads/{thread_id}/runs", json=run | {"after_seconds": 3600})).json()["run_id"]
    updated: list[httpx.Response] = []

    async def update() -> None:
        change = {"values": {"items": ["held"]}, "as_node": "add"}
        updated.append(await http.post(f"/threads/{thread_id}/state", json=change))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(update)
        await gate.entered()
        await _sql(settings, "UPDATE runs SET run_after = now() WHERE run_id = %s", delayed)
        await _sql(settings, "NOTIFY threadkeep, 'pending'")
        await anyio.sleep(0.5)  # a worker looks several times
        assert await _sql(settings, "SELECT status FROM runs WHERE run_id = %s", delayed) == [("pending",)]
        gate.open()
    with anyio.fail_after(WAIT_S):
        await http.get(f"/threads/{thread_id}/runs/{delayed}/join")

    assert [answer.status_code for answer in updated] == [200]
    values = (await http.get(f"/threads/{thread_id}/state")).json()["values"]
    assert values["items"] == ["run", "added", "held", "run", "added"]
    forks = """
        SELECT parent_checkpoint_id FROM checkpoints WHERE parent_checkpoint_id IS NOT NULL
         GROUP BY parent_checkpoint_id HAVING count(*) > 1
    """
    assert await _sql(settings, forks) == []


async def test_supersteps_of_which_one_fails_leave_nothing(http: httpx.AsyncClient, settings: Settings) -> None:
    """Ours: thread and checkpoints are one transaction."""
    thread_id = str(uuid.uuid4())
    steps = [{"values": {"items": ["a"]}, "as_node": name} for name in ("first", "nobody")]
    body = {"thread_id": thread_id, "metadata": {"graph_id": "chain"}, "supersteps": [{"updates": [s]} for s in steps]}

    answer = await http.post("/threads", json=body)

    assert answer.status_code == 400, answer.text
    assert (await http.get(f"/threads/{thread_id}")).status_code == 404
    assert await _left(settings, thread_id) == dict.fromkeys(TABLES, 0)


async def test_run_at_a_checkpoint_that_is_gone_fails_and_loses_nothing(http: httpx.AsyncClient) -> None:
    """Ours: the run does not start from an empty state instead."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run = {"assistant_id": "stepping", "input": {"items": ["kept"]}}
    before = (await http.post(f"/threads/{thread_id}/runs/wait", json=run)).json()
    gone = str(uuid.uuid4())

    answer = (await http.post(f"/threads/{thread_id}/runs/wait", json=run | {"checkpoint_id": gone})).json()

    assert answer["__error__"] == {"error": "NotFound", "message": f"Checkpoint {gone} not found"}
    assert (await http.get(f"/threads/{thread_id}/state")).json()["values"] == before


@pytest.mark.parametrize("path", ["runs", "runs/wait"])
async def test_run_creates_its_thread_again_if_a_deletion_comes_first(
    http: httpx.AsyncClient, settings: Settings, path: str
) -> None:
    """Ours: the thread is there when the run looks for it, and gone when its row is locked."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run = {"assistant_id": "stepping", "input": {"items": ["run"]}, "if_not_exists": "create"}
    created: list[httpx.Response] = []

    async def create() -> None:
        created.append(await http.post(f"/threads/{thread_id}/{path}", json=run))

    async with await psycopg.AsyncConnection.connect(str(settings.database_uri)) as holder:
        await holder.execute("SELECT FROM threads WHERE thread_id = %s FOR UPDATE", [thread_id])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(create)
            await _until_blocked(settings, "create_run")
            await holder.execute("DELETE FROM threads WHERE thread_id = %s", [thread_id])
            await holder.commit()

    assert [answer.status_code for answer in created] == [200], created[0].text
    assert (await _until_idle(http, thread_id))["values"]["items"] == ["run", "first", "passed", "first"]


async def test_change_is_made_by_the_graph_that_the_thread_has_then(
    http: httpx.AsyncClient, settings: Settings, gate: Gate
) -> None:
    """Ours: while the graph is opened, the thread is deleted and created again, without a graph."""
    thread_id = str(uuid.uuid4())
    await http.post("/threads", json={"thread_id": thread_id, "metadata": {"graph_id": "made_slowly"}})
    answers: list[httpx.Response] = []

    async def change() -> None:
        body = {"values": {"items": ["changed"]}, "as_node": "first"}
        answers.append(await http.post(f"/threads/{thread_id}/state", json=body))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(change)
        await gate.entered()
        await http.delete(f"/threads/{thread_id}")
        await http.post("/threads", json={"thread_id": thread_id})
        gate.open()

    assert [answer.status_code for answer in answers] == [400]
    assert (await http.get(f"/threads/{thread_id}")).json()["values"] is None
    assert await _left(settings, thread_id) == dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_answer_on_an_empty_thread_leaves_no_write_without_its_checkpoint(
    http: httpx.AsyncClient, settings: Settings, durability: str
) -> None:
    """Ours: LangGraph writes it to a checkpoint that it never saves."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run = {"assistant_id": "chain", "command": {"resume": "nobody asked"}, "durability": durability}

    answer = await http.post(f"/threads/{thread_id}/runs/wait", json=run)

    assert answer.status_code == 200, answer.text
    strays = """
        SELECT channel FROM checkpoint_writes
         WHERE checkpoint_id NOT IN (SELECT checkpoint_id FROM checkpoints)
    """
    assert await _sql(settings, strays) == []


async def test_assistant_is_deleted_without_a_thread_that_another_took_over(
    http: httpx.AsyncClient, settings: Settings
) -> None:
    """Ours: the assistant is compared when the thread's row is locked, not before."""
    assistant = (await http.post("/assistants", json={"graph_id": "stepping"})).json()["assistant_id"]
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    await http.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": assistant, "input": {"items": []}})
    deleted: list[httpx.Response] = []

    async def delete() -> None:
        deleted.append(await _delete_assistant(http, thread_id, assistant))

    async with await psycopg.AsyncConnection.connect(str(settings.database_uri)) as holder:
        await holder.execute("SELECT FROM threads WHERE thread_id = %s FOR UPDATE", [thread_id])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete)
            await _until_blocked(settings, "delete_threads")
            other = "jsonb_set(metadata, '{assistant_id}', to_jsonb(gen_random_uuid()::text))"
            await holder.execute(f"UPDATE threads SET metadata = {other} WHERE thread_id = %s", [thread_id])
            await holder.commit()

    assert [answer.status_code for answer in deleted] == [204]
    assert (await http.get(f"/threads/{thread_id}")).status_code == 200
