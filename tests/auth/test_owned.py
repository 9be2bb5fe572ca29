"""Ownership: rows that a principal of the built-in authentication creates belong to it on every route."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypedDict

import anyio
import httpx
import psycopg
import pytest
from langgraph.config import get_config, get_store
from langgraph.graph import START, StateGraph

from conftest import WAIT_S, serving
from graphs import GRAPHS
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

MakeKey = Callable[..., Awaitable[str]]

STATUS = re.compile(rb"HTTP/1\.1 (\d+)")


class Said(TypedDict, total=False):
    """The note to remember, and all notes."""

    text: str
    remembered: list[str]


async def _remember(state: Said) -> Said:
    """As a chat app's graph does: by the user's id, below a label of the app's own."""
    user = get_config()["configurable"].get("user_id", "me")
    namespace = ("memories", user)
    await get_store().aput(namespace, state["text"], {"text": state["text"]})
    return {"remembered": sorted(item.key for item in await get_store().asearch(namespace))}


def _remember_in_a_thread(state: Said) -> Said:
    get_store().put(("memories", "me"), state["text"], {"text": state["text"]})
    return {"remembered": sorted(item.key for item in get_store().search(("memories",)))}


def _graph(node: Any) -> Any:
    builder: Any = StateGraph(Said)
    builder.add_node("remember", node)
    builder.add_edge(START, "remember")
    return builder.compile()


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """A server with graphs that remember, asking for keys."""
    graphs = {**GRAPHS, "remembering": _graph(_remember), "in_a_thread": _graph(_remember_in_a_thread)}
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in graphs.items()}
    async with serving(settings.model_copy(update={"auth_type": "api_key"}), loaded) as url:
        yield url


@pytest.fixture
async def ada(url: str, make_key: MakeKey) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers={"x-api-key": await make_key("ada")}) as http:
        yield http


@pytest.fixture
async def bob(url: str, make_key: MakeKey) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers={"x-api-key": await make_key("b.ob")}) as http:
        yield http


async def _ok(http: httpx.AsyncClient, method: str, path: str, body: object = None) -> Any:
    answer = await http.request(method, path, json=body)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


FORGED = {"metadata": {"owner": "bob", "created_by": "system", "mine": True}}
OWNED = {"owner": "ada", "created_by": "system", "mine": True}


async def test_the_owner_of_a_thread_can_not_be_forged(ada: httpx.AsyncClient) -> None:
    """Issue: the owner is set by the server alone: on create, patch and copy."""
    made = await _ok(ada, "POST", "/threads", FORGED)
    patched = await _ok(ada, "PATCH", f"/threads/{made['thread_id']}", {"metadata": {"owner": ["ada", "bob"], "x": 1}})
    copied = await _ok(ada, "POST", f"/threads/{made['thread_id']}/copy")

    assert made["metadata"] == OWNED
    assert patched["metadata"] == OWNED | {"x": 1}
    assert copied["metadata"] == OWNED | {"x": 1}


@pytest.mark.parametrize("path", ["/threads/{}/runs", "/runs"])
async def test_the_owner_of_a_run_can_not_be_forged(ada: httpx.AsyncClient, path: str) -> None:
    """Issue: a run's metadata too, by whichever field."""
    thread = await _ok(ada, "POST", "/threads", {})
    forged = {"assistant_id": "chain", "input": {"items": []}, **FORGED, "config": {"metadata": {"owner": "eve"}}}
    kept = {"on_completion": "keep"} if path == "/runs" else {}

    run = await _ok(ada, "POST", path.format(thread["thread_id"]), forged | kept)

    assert run["metadata"]["owner"] == "ada"
    assert (await _ok(ada, "GET", f"/threads/{run['thread_id']}"))["metadata"]["owner"] == "ada"


async def test_the_owner_of_an_assistant_and_of_its_versions_can_not_be_forged(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    """Issue: nor can it be made everybody's."""
    made = await _ok(ada, "POST", "/assistants", {"graph_id": "chain", **FORGED})
    path = f"/assistants/{made['assistant_id']}"
    changed = await _ok(ada, "PATCH", path, {"name": "new", **FORGED})
    restored = await _ok(ada, "POST", f"{path}/latest", {"version": 1})
    versions = await _ok(ada, "POST", f"{path}/versions", {})

    assert [made["metadata"], changed["metadata"], restored["metadata"]] == [OWNED] * 3
    assert [one["metadata"] for one in versions] == [OWNED] * 2
    assert (await bob.get(path)).status_code == 404


async def test_the_owner_of_a_cron_and_of_its_runs_can_not_be_forged(ada: httpx.AsyncClient, database: str) -> None:
    """Issue: runs that a cron makes carry its owner."""
    body = {"assistant_id": "remembering", "input": {"text": "by cron"}, "schedule": "* * * * *"}
    made = await _ok(ada, "POST", "/runs/crons", body | FORGED | {"on_run_completed": "keep"})
    path = f"/runs/crons/{made['cron_id']}"
    patched = await _ok(ada, "PATCH", path, {"metadata": {"owner": "eve", "x": 1}})
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        await conn.execute("UPDATE crons SET next_run_date = now()")
        await conn.execute("NOTIFY threadkeep, 'crons'")
    with anyio.fail_after(2 * WAIT_S):
        while not (found := await _ok(ada, "POST", "/threads/search", {"status": "idle"})):
            await anyio.lowlevel.checkpoint()
    (run,) = await _ok(ada, "GET", f"/threads/{found[0]['thread_id']}/runs")

    assert (made["metadata"], patched["metadata"]) == (OWNED, OWNED | {"x": 1})
    assert run["metadata"]["owner"] == "ada"
    assert await _keys(ada, ["memories"]) == ["by cron"]


async def _keys(http: httpx.AsyncClient, prefix: list[str]) -> list[str]:
    found = await _ok(http, "POST", "/store/items/search", {"namespace_prefix": prefix})
    return sorted(item["key"] for item in found["items"])


async def test_the_assistants_of_graphs_are_everybodys_to_run_and_nobodys_to_change(ada: httpx.AsyncClient) -> None:
    """Protocol: an assistant that a graph has of its own is run by the graph's name."""
    (system,) = await _ok(ada, "POST", "/assistants/search", {"graph_id": "chain"})
    path = f"/assistants/{system['assistant_id']}"

    assert system["metadata"] == {"created_by": "system"}
    assert (await _ok(ada, "GET", path))["name"] == "chain"
    assert len(await _ok(ada, "POST", f"{path}/versions", {})) == 1
    assert await _ok(ada, "POST", "/assistants/count", {"graph_id": "chain"}) == 1
    assert (await ada.patch(path, json={"name": "mine"})).status_code == 404
    assert (await ada.post(f"{path}/latest", json={"version": 1})).status_code == 404
    assert (await ada.delete(path)).status_code == 404


@pytest.mark.parametrize("path", ["/threads/{}/runs/wait", "/runs/wait"], ids=["on a thread", "stateless"])
@pytest.mark.parametrize("graph", ["remembering", "in_a_thread"])
async def test_what_a_graph_remembers_its_user_reads_under_the_same_name_and_nobody_else_does(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient, graph: str, path: str
) -> None:
    """Ours: a run works in the part of the store that its owner's requests see."""
    for http, text in ((ada, "ada's"), (bob, "bob's")):
        thread = await _ok(http, "POST", "/threads", {})
        body = {"assistant_id": graph, "input": {"text": text}}
        ended = await _ok(http, "POST", path.format(thread["thread_id"]), body)

        assert ended["remembered"] == [text]
        assert await _keys(http, ["memories", "me"]) == [text]
        item = (await http.get("/store/items", params={"namespace": "memories.me", "key": text})).json()
        assert item["namespace"] == ["memories", "me"]
        assert await _ok(http, "POST", "/store/namespaces", {}) == {"namespaces": [["memories", "me"]]}


async def test_a_run_of_the_queue_remembers_for_its_owner(ada: httpx.AsyncClient) -> None:
    """Ours: whichever process executes it."""
    thread = await _ok(ada, "POST", "/threads", {})
    path = f"/threads/{thread['thread_id']}/runs"
    run = await _ok(ada, "POST", path, {"assistant_id": "remembering", "input": {"text": "later"}})

    assert (await _ok(ada, "GET", f"{path}/{run['run_id']}/join"))["remembered"] == ["later"]
    assert await _keys(ada, []) == ["later"]


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        ({}, [["a", "b", "c"], ["a", "x"], ["b"]]),
        ({"max_depth": 1}, [["a"], ["b"]]),
        ({"prefix": ["a"]}, [["a", "b", "c"], ["a", "x"]]),
        ({"prefix": ["*", "x"]}, [["a", "x"]]),
        ({"suffix": ["x"]}, [["a", "x"]]),
        ({"suffix": ["*", "b"]}, []),
        ({"suffix": ["b"]}, [["b"]]),
        ({"limit": 1, "offset": 1}, [["a", "x"]]),
    ],
    ids=str,
)
async def test_namespaces_are_listed_as_if_there_were_no_others(
    ada: httpx.AsyncClient, asked: dict[str, Any], listed: list[list[str]]
) -> None:
    """Ours: the label that keeps them apart never shows, nor does it count."""
    for namespace in (["a", "b", "c"], ["a", "x"], ["b"]):
        await _ok(ada, "PUT", "/store/items", {"namespace": namespace, "key": "k", "value": {}})

    assert await _ok(ada, "POST", "/store/namespaces", asked) == {"namespaces": listed}


async def test_a_thread_is_made_in_the_state_that_its_owners_supersteps_leave(ada: httpx.AsyncClient) -> None:
    """Ours: row-level security hid the new thread's checkpoints from the request that made it, so that it had no values."""
    steps = [{"updates": [{"values": {"items": ["first"]}, "as_node": "first"}]}]

    made = await ada.post("/threads", json={"supersteps": steps, "metadata": {"graph_id": "chain"}})

    assert (made.status_code, made.json()["values"], made.json()["status"]) == (
        200,
        {"items": ["first"]},
        "interrupted",
    )


async def test_requests_on_one_connection_see_what_is_their_own_callers(
    url: str, ada: httpx.AsyncClient, make_key: MakeKey
) -> None:
    """Ours: uvicorn begins a pipelined request in the context of the one before it, which decides nothing."""
    thread = (await ada.post("/threads", json={})).json()["thread_id"]
    address = httpx.URL(url)
    keys = [await make_key("bob"), ada.headers["x-api-key"], await make_key("bob"), ada.headers["x-api-key"]]
    async with await anyio.connect_tcp(address.host, address.port or 80) as stream:
        await stream.send(b"".join(_asking(thread, key) for key in keys))
        answers = b""
        with anyio.fail_after(WAIT_S):
            while len(statuses := STATUS.findall(answers)) < len(keys):
                answers += await stream.receive()

    assert statuses == [b"404", b"200", b"404", b"200"]


def _asking(thread: str, key: str) -> bytes:
    """A request for a thread's state, by hand: no client pipelines."""
    return f"GET /threads/{thread}/state HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\n\r\n".encode()


async def test_titles_of_others_are_not_found(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    """Issue 17: a search for words finds the caller's threads alone, under row-level security too."""
    hers = (await ada.post("/threads", json={"metadata": {"title": "secret plans"}})).json()["thread_id"]
    his = (await bob.post("/threads", json={"metadata": {"title": "secret garden"}})).json()["thread_id"]
    found = [(await http.post("/threads/search", json={"query": "secret"})).json() for http in (ada, bob)]
    counts = [(await http.post("/threads/count", json={"query": "secret"})).json() for http in (ada, bob)]

    assert [[thread["thread_id"] for thread in threads] for threads in found] == [[hers], [his]]
    assert counts == [1, 1]
