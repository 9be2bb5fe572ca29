"""The user in graphs: a graph gets the user of its run in any process, and no other caller does."""

from collections.abc import AsyncIterator
from typing import Any, TypedDict

import anyio
import httpx
import psycopg
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import get_runtime
from langgraph_sdk.runtime import ServerRuntime

import seen
from conftest import WAIT_S, serving
from threadkeep.auth.api_keys import generate_key
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings
from threadkeep.tables import api_keys


class Told(TypedDict):
    by_config: dict[str, Any]
    by_runtime: str


def look(state: Told, config: RunnableConfig) -> Told:
    """What a node can know of its user; the whole of it is what the test is about, so it is put into the state."""
    configurable = config["configurable"]
    user = configurable.get("langgraph_auth_user")
    info = get_runtime().server_info
    return {
        "by_config": {
            "item": user and user["identity"],
            "attribute": user and user.identity,
            "shown": user and user.display_name,
            "id": configurable.get("langgraph_auth_user_id"),
            "permissions": configurable.get("langgraph_auth_permissions"),
        },
        "by_runtime": info.user.identity if info and info.user else "",
    }


looking = StateGraph(Told).add_node("look", look).add_edge(START, "look").compile()


def making(runtime: ServerRuntime) -> Any:
    """A factory, which may ask too."""
    seen.GIVEN.append({"access": runtime.access_context, "user": runtime.user and runtime.user.identity})

    def tell(state: Told) -> Told:
        return {"by_config": {}, "by_runtime": runtime.user.identity if runtime.user else ""}

    return StateGraph(Told).add_node("tell", tell).add_edge(START, "tell").compile()


ADA = {"item": "ada", "attribute": "ada", "shown": "ada", "id": "ada", "permissions": []}
NOBODY = {"item": None, "attribute": None, "shown": None, "id": "", "permissions": []}
RUN = {"assistant_id": "looking", "input": {"by_runtime": ""}}


def graphs() -> dict[str, Any]:
    return {
        name: as_loaded_graph(name, graph, where="tests")
        for name, graph in {"looking": looking, "making": making}.items()
    }


@pytest.fixture
async def key(database: str) -> str:
    secret, row = generate_key("ada", "laptop", (), None)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        await api_keys.create(conn, row)
    return secret


@pytest.fixture
async def ada(settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    keyed = settings.model_copy(update={"auth_type": "api_key"})
    async with (
        serving(keyed, graphs()) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers={"x-api-key": key}) as http,
    ):
        yield http


async def test_graph_knows_its_user_however_it_is_run(ada: httpx.AsyncClient) -> None:
    """Protocol: `langgraph_auth_user`, its id, its permissions, and `runtime.server_info.user`."""
    thread_id = (await ada.post("/threads", json={})).json()["thread_id"]

    stateless = (await ada.post("/runs/wait", json=RUN)).json()
    waited = (await ada.post(f"/threads/{thread_id}/runs/wait", json=RUN)).json()
    run = (await ada.post(f"/threads/{thread_id}/runs", json=RUN)).json()
    queued = (await ada.get(f"/threads/{thread_id}/runs/{run['run_id']}/join")).json()
    made = (await ada.post("/runs/wait", json=RUN | {"assistant_id": "making"})).json()

    assert stateless == waited == queued == {"by_config": ADA, "by_runtime": "ada"}
    assert made["by_runtime"] == "ada"


async def test_factory_knows_who_looks_at_its_graph(ada: httpx.AsyncClient) -> None:
    """Protocol: `runtime.user` is there in every access."""
    thread_id = (await ada.post("/threads", json={})).json()["thread_id"]
    await ada.post(f"/threads/{thread_id}/runs/wait", json=RUN | {"assistant_id": "making"})
    seen.GIVEN.clear()

    for path in (f"/threads/{thread_id}/state", f"/threads/{thread_id}/history", "/assistants/making/schemas"):
        assert (await ada.get(path)).status_code == 200
    await ada.post(f"/threads/{thread_id}/state", json={"values": {"by_runtime": "x"}})

    assert {one["user"] for one in seen.GIVEN} == {"ada"}
    assert {one["access"] for one in seen.GIVEN} == {"threads.read", "threads.update", "assistants.read"}


async def test_run_that_another_process_executes_knows_its_user(settings: Settings, key: str) -> None:
    """Issue: the user survives the queue."""
    keyed = settings.model_copy(update={"auth_type": "api_key"})
    headers = {"x-api-key": key}
    async with serving(keyed, graphs()) as url, httpx.AsyncClient(base_url=url, headers=headers) as http:
        later = RUN | {"after_seconds": 1.5}
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        run_id = (await http.post(f"/threads/{thread_id}/runs", json=later)).json()["run_id"]
    async with serving(keyed, graphs()) as url, httpx.AsyncClient(base_url=url, headers=headers) as http:
        with anyio.fail_after(WAIT_S * 2):
            answer = await http.get(f"/threads/{thread_id}/runs/{run_id}/join", timeout=WAIT_S * 2)

    assert answer.json() == {"by_config": ADA, "by_runtime": "ada"}


async def test_a_client_cannot_set_its_own_identity(ada: httpx.AsyncClient, settings: Settings) -> None:
    """Promise: reserved `configurable` keys are overwritten, and dropped where authentication is off."""
    forged = {
        "langgraph_auth_user": {"identity": "eve"},
        "langgraph_auth_user_id": "eve",
        "langgraph_auth_permissions": ["all"],
    }
    body = RUN | {"config": {"configurable": forged}}
    by_context = RUN | {"context": forged}
    told = [(await ada.post("/runs/wait", json=one)).json() for one in (body, by_context)]
    async with serving(settings, graphs()) as url, httpx.AsyncClient(base_url=url) as http:
        off = [(await http.post("/runs/wait", json=one)).json() for one in (body, by_context)]

    assert told == [{"by_config": ADA, "by_runtime": "ada"}] * 2
    assert off == [{"by_config": NOBODY, "by_runtime": ""}] * 2


async def test_the_user_is_shown_to_no_other_caller(
    ada: httpx.AsyncClient, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise: not in runs, events, checkpoints or logs."""
    caplog.set_level("DEBUG", logger="threadkeep")
    thread_id = (await ada.post("/threads", json={})).json()["thread_id"]
    modes = ["values", "updates", "messages", "custom", "debug", "tasks", "checkpoints", "events"]
    quiet = {"assistant_id": "making", "input": {"by_runtime": ""}, "stream_mode": modes, "stream_resumable": True}
    async with ada.stream("POST", f"/threads/{thread_id}/runs/stream", json=quiet) as answer:
        streamed = (await answer.aread()).decode()
    shown = [
        (await ada.get(f"/threads/{thread_id}/runs")).text,
        (await ada.get(f"/threads/{thread_id}/state")).text,
        (await ada.post(f"/threads/{thread_id}/history", json={"limit": 100})).text,
        streamed,
        *(
            record.getMessage() + str(record.__dict__)
            for record in caplog.records
            if record.name.startswith("threadkeep")
        ),
    ]
    async with await psycopg.AsyncConnection.connect(database) as conn:
        cursor = await conn.execute("SELECT c::text FROM checkpoints AS c")
        shown += [text for (text,) in await cursor.fetchall()]

    assert "by_runtime" in streamed
    for text in shown:
        assert "langgraph_auth" not in text
        assert "display_name" not in text
        assert ada.headers["x-api-key"] not in text


async def test_the_user_of_a_cron_is_its_creator(ada: httpx.AsyncClient) -> None:
    """Ours: a run on a schedule is its owner's too."""
    thread_id = (await ada.post("/threads", json={})).json()["thread_id"]
    cron = await ada.post(f"/threads/{thread_id}/runs/crons", json=RUN | {"schedule": "* * * * * *"})
    assert "display_name" not in cron.text
    with anyio.fail_after(WAIT_S):
        while not (found := (await ada.get(f"/threads/{thread_id}/runs")).json()):
            await anyio.sleep(0.05)
    answer = await ada.get(f"/threads/{thread_id}/runs/{found[-1]['run_id']}/join")
    await ada.delete(f"/runs/crons/{cron.json()['cron_id']}")

    assert answer.json() == {"by_config": ADA, "by_runtime": "ada"}
