"""Keys, scopes and a project's own authentication, with a process of the role `api` and another one of the role `worker`."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx

from conftest import WAIT_S, MakeKey, compiled_graphs, serving
from faults import forks
from test_serve import serving_process
from threadkeep.graphs import as_loaded_graph
from threadkeep.project import Auth, GraphTarget, Project
from threadkeep.settings import Settings

LANGGRAPH_JSON = '{"dependencies": ["."], "graphs": {"who": "./who.py:graph"}}'
WITH_AUTH = '{"dependencies": ["."], "graphs": {"who": "./who.py:graph"}, "auth": {"path": "./door.py:auth"}}'
GRAPH = """
import os
from pathlib import Path
from typing import TypedDict

import anyio
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph


class Answer(TypedDict, total=False):
    identity: str
    scopes: list[str]
    team: str


async def begin(state: Answer) -> Answer:
    return {}


async def tell(state: Answer, config: RunnableConfig) -> Answer:
    with Path("entered").open("a") as entered:
        entered.write(f"{os.getpid()}\\n")
    while not Path("open").exists():
        await anyio.sleep(0.02)
    user = config["configurable"]["langgraph_auth_user"]
    return {"identity": user["identity"], "scopes": list(user["permissions"]), "team": dict(user).get("team", "")}


graph = StateGraph(Answer).add_sequence([begin, tell]).add_edge(START, "begin").compile()
"""
DOOR = """
import os
from pathlib import Path

from langgraph_sdk import Auth

auth = Auth()


@auth.authenticate
def authenticate(authorization):
    if not authorization:
        raise Auth.exceptions.HTTPException(401, "who are you?")
    with Path(__file__).with_name("asked").open("a") as asked:
        asked.write(f"{os.getpid()}\\n")
    return {"identity": authorization.removeprefix("Bearer "), "permissions": ["read"], "team": "blue"}


@auth.on
async def own(ctx, value):
    value.setdefault("metadata", {})["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}
"""
PROJECT = "split"
RUN = {"assistant_id": "who", "input": {}, "stream_resumable": True}
FAST = {"THREADKEEP_LEASE": "1", "THREADKEEP_SWEEP": "0.3", "THREADKEEP_MAX_ATTEMPTS": "9"}


def _worker(folder: Path, settings: Settings, **more: str) -> AbstractAsyncContextManager[Any]:
    """A process that executes runs."""
    (folder / "who.py").write_text(GRAPH)
    own = {"DATABASE_URI": str(settings.database_uri), "THREADKEEP_PROJECT": PROJECT}
    return serving_process(folder, **own, **FAST, **more, THREADKEEP_ROLE="worker")


@asynccontextmanager
async def _api(settings: Settings, project: Project | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that executes no runs."""
    chosen = settings.model_copy(update={"role": "api", "project": PROJECT})
    graphs = {"who": as_loaded_graph("who", compiled_graphs()["chain"], where="tests")}
    async with (
        serving(chosen, graphs, project) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S * 4) as http,
    ):
        yield http


def _as(key: str) -> dict[str, str]:
    return {"x-api-key": key}


async def _entered(folder: Path, times: int = 1) -> list[int]:
    """The processes in which the node has begun, when it has begun so often."""
    path = anyio.Path(folder / "entered")
    with anyio.fail_after(WAIT_S * 4):
        while not await path.exists() or len(pids := (await path.read_text()).split()) < times:
            await anyio.sleep(0.02)
    return [int(pid) for pid in pids]


async def _statuses(http: httpx.AsyncClient, run: str, headers: dict[str, str]) -> list[int]:
    """The statuses of a caller for reading, joining, streaming, cancelling and deleting a run."""
    operations = [("GET", run), ("GET", f"{run}/join"), ("GET", f"{run}/stream")]
    operations += [("POST", f"{run}/cancel"), ("DELETE", run)]
    return [(await http.request(method, path, headers=headers)).status_code for method, path in operations]


async def test_a_run_of_a_key_with_scopes_is_followed_over_the_death_of_its_worker(
    settings: Settings, tmp_path: Path, make_key: MakeKey
) -> None:
    """Ours: the worker knows whose run it is and with which scopes, and the api process decides on each request."""
    (tmp_path / "langgraph.json").write_text(LANGGRAPH_JSON)
    secured = settings.model_copy(update={"auth_type": "api_key"})
    ada, bob = _as(await make_key("ada")), _as(await make_key("bob"))
    starter, reader = [_as(await make_key("ada", scope)) for scope in ("threads.create_run", "threads.read")]
    async with _api(secured) as http, _worker(tmp_path, settings, AUTH_TYPE="api_key") as (worker, _):
        thread = f"/threads/{(await http.post('/threads', json={}, headers=ada)).json()['thread_id']}"
        started = await http.post(f"{thread}/runs", json=RUN, headers=starter)
        run = f"{thread}/runs/{started.json()['run_id']}"
        assert await _entered(tmp_path) == [worker.pid]

        assert await _statuses(http, run, bob) == [404] * 5
        assert await _statuses(http, run, starter) == [403] * 5
        assert (await http.post(f"{thread}/runs", json=RUN, headers=bob)).status_code == 404
        assert [(await http.request(method, path, headers=reader)).status_code for method, path in (
            ("GET", run), ("POST", f"{run}/cancel"), ("DELETE", run)
        )] == [200, 403, 403]  # fmt: skip
        assert (await http.post(f"{thread}/runs", json=RUN, headers=reader)).status_code == 403

        answers: dict[str, httpx.Response] = {}

        async def follow(path: str) -> None:
            answers[path] = await http.get(f"{run}/{path}", headers=reader)

        async with anyio.create_task_group() as tasks:
            for path in ("join", "stream"):
                tasks.start_soon(follow, path)
            worker.send_signal(signal.SIGKILL)
            await anyio.to_thread.run_sync(worker.wait)
            async with _worker(tmp_path, settings, AUTH_TYPE="api_key") as (successor, _):
                assert await _entered(tmp_path, times=2) == [worker.pid, successor.pid]
                (tmp_path / "open").touch()
                with anyio.fail_after(WAIT_S * 4):
                    while len(answers) < 2:
                        await anyio.sleep(0.02)
        ended = await http.get(run, headers=reader)

    told = {"identity": "ada", "scopes": ["threads.create_run"], "team": ""}
    assert (answers["join"].status_code, answers["join"].json()) == (200, told)
    assert answers["stream"].text.count('"identity":"ada"') == 1
    assert ended.json()["status"] == "success"


async def test_a_project_authenticates_in_the_api_process_and_its_user_reaches_the_worker(
    settings: Settings, tmp_path: Path
) -> None:
    """Ours: its handlers are asked where requests come in, and never by a run."""
    (tmp_path / "langgraph.json").write_text(WITH_AUTH)
    (tmp_path / "door.py").write_text(DOOR)
    ada, bob, nobody = {"authorization": "Bearer ada"}, {"authorization": "Bearer bob"}, {}
    project = Project(
        root=tmp_path, graphs={"who": GraphTarget(path="./who.py:graph")}, auth=Auth(path="./door.py:auth")
    )
    async with _api(settings, project) as http, _worker(tmp_path, settings) as (worker, _):
        thread = f"/threads/{(await http.post('/threads', json={}, headers=ada)).json()['thread_id']}"
        run = f"{thread}/runs/{(await http.post(f'{thread}/runs', json=RUN, headers=ada)).json()['run_id']}"
        assert await _entered(tmp_path) == [worker.pid]

        assert await _statuses(http, run, bob) == [404] * 5
        assert await _statuses(http, run, nobody) == [401] * 5
        (tmp_path / "open").touch()
        joined = await http.get(f"{run}/join", headers=ada)

    asked = set((tmp_path / "asked").read_text().split())
    assert joined.json() == {"identity": "ada", "scopes": ["read"], "team": "blue"}
    assert asked == {str(os.getpid())}


async def test_a_revoked_key_ends_in_each_of_several_processes(
    database: str, tmp_path: Path, make_key: MakeKey
) -> None:
    """Ours: both have it in their memory, and both hold streams that were opened with it."""
    own = {"DATABASE_URI": database, "AUTH_TYPE": "api_key"}
    key, other = await make_key("ada"), _as(await make_key("bob"))
    ada = _as(key)
    ended: list[str] = []
    async with serving_process(tmp_path, **own, THREADKEEP_WORKERS="2") as (supervisor, http):
        path = f"/threads/{(await http.post('/threads', json={}, headers=ada)).json()['thread_id']}/stream"

        async def follow() -> None:
            async with httpx.AsyncClient(base_url=http.base_url, timeout=WAIT_S * 4, headers=ada) as client:
                ended.append((await client.get(path)).text)

        async def status(headers: dict[str, str]) -> int:
            async with httpx.AsyncClient(base_url=http.base_url, timeout=WAIT_S) as client:
                return (await client.get("/threads/" + path.split("/")[2], headers=headers)).status_code

        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(follow)
            with anyio.fail_after(WAIT_S * 4):
                while "threadkeep_sse_connections 12.0" not in (await http.get("/metrics", headers=other)).text:
                    await anyio.sleep(0.05)
            assert [await status(ada) for _ in range(12)] == [200] * 12
            revoked = await anyio.to_thread.run_sync(
                lambda: forks.run("keys", "revoke", key[:11], cwd=tmp_path, env={"DATABASE_URI": database})
            )
            assert revoked.returncode == 0, revoked.stderr
            with anyio.fail_after(WAIT_S + 1):
                while len(ended) < 12:
                    await anyio.sleep(0.05)
        # The process that read the key last has it in its cache for up to 4 s.
        with anyio.fail_after(WAIT_S + 1):
            while {await status(ada) for _ in range(12)} != {401}:
                await anyio.sleep(0.05)
        assert [await status(ada) for _ in range(12)] == [401] * 12
        supervisor.terminate()
        await anyio.to_thread.run_sync(supervisor.wait)

    assert ["the token is not valid" in text for text in ended] == [True] * 12
