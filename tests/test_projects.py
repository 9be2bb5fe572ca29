"""Which process runs a graph: servers that serve different graphs, as real processes on one database."""

import ast
import json
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import psycopg
import pytest

from conftest import free_port
from faults import forks
from threadkeep import tables

LEASE_S = 2.0
GRAPHS = """
import asyncio
import os
from typing import Annotated, TypedDict
import operator
from langgraph.graph import StateGraph, START, END

class State(TypedDict, total=False):
    by: Annotated[list, operator.add]
    gate: str

async def work(state):
    while state.get("gate") and not os.path.exists(state["gate"]):
        await asyncio.sleep(0.02)
    return {"by": ["NAME"]}

builder = StateGraph(State)
builder.add_node("work", work)
builder.add_edge(START, "work")
builder.add_edge("work", END)
graph = builder.compile()
"""


@dataclass(slots=True)
class Server:
    """A server process and its client."""

    folder: Path
    http: httpx.AsyncClient
    process: subprocess.Popen[bytes]

    async def log(self) -> list[dict[str, Any]]:
        """What it has logged."""
        text = await anyio.Path(self.folder / "log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    async def stop(self) -> None:
        """As an operator stops it."""
        self.process.terminate()
        await anyio.to_thread.run_sync(self.process.wait, 30)


def write_graphs(folder: Path, names: Sequence[str]) -> None:
    """A langgraph.json of these graphs, each of which says its name."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.py").write_text(GRAPHS.replace("NAME", name))
    targets = {name: f"./{name}.py:graph" for name in names}
    (folder / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": targets}))


@asynccontextmanager
async def running(folder: Path, database: str, **environment: str) -> AsyncIterator[Server]:
    """`threadkeep serve` in a folder; killed at the end, if it still runs."""
    port = free_port()
    said = {
        **os.environ,
        "HOME": str(folder),
        "PORT": str(port),
        "DATABASE_URI": database,
        "LOG_JSON": "true",
        "THREADKEEP_LEASE": str(LEASE_S),
        "THREADKEEP_SWEEP": "0.5",
        "THREADKEEP_LINGER": "0.5",
        **environment,
    }
    command = ("serve", "--config", str(folder / "langgraph.json"))
    with (folder / "log").open("ab") as output:
        process = await anyio.to_thread.run_sync(
            lambda: forks.start(*command, cwd=folder, env=said, stdout=output, stderr=output)
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            server = Server(folder, http, process)
            await _ready(server)
            yield server
    finally:
        process.kill()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(process.wait)


async def _ready(server: Server) -> None:
    with anyio.fail_after(60):
        while True:
            if server.process.poll() is not None:
                raise AssertionError(await anyio.Path(server.folder / "log").read_text())
            try:
                if (await server.http.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await anyio.sleep(0.05)


async def _sql(database: str, statement: Any, *parameters: object) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        cursor = await conn.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []


async def _enqueue(server: Server, graph: str, **inputs: Any) -> dict[str, Any]:
    """A background run on a thread of its own."""
    thread_id = (await server.http.post("/threads", json={})).json()["thread_id"]
    body = {"assistant_id": graph, "input": {"by": [], **inputs}}
    answer = await server.http.post(f"/threads/{thread_id}/runs", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _metrics(server: Server) -> str:
    return (await server.http.get("/metrics")).text


async def _until_rows(database: str, statement: Any, number: int) -> None:
    with anyio.fail_after(60):
        while len(await _sql(database, statement)) < number:
            await anyio.sleep(0.1)


async def _statuses(database: str) -> set[tuple[str, str]]:
    return {(graph, status) for graph, status in await _sql(database, "SELECT graph_id, status FROM runs")}


async def _until_ended(database: str) -> None:
    with anyio.fail_after(60):
        while await _sql(database, "SELECT 1 FROM runs WHERE finished_at IS NULL LIMIT 1"):
            await anyio.sleep(0.1)


async def _values(database: str) -> set[tuple[str, str]]:
    """Of each thread, its graph and what that said."""
    rows = await _sql(database, """SELECT metadata ->> 'graph_id', "values" ->> 'by' FROM threads""")
    return set(rows)


async def test_two_projects_on_one_database_do_not_meet(database: str, tmp_path: Path) -> None:
    """Issue: 12 of 12 background runs of two projects on one database ended as KeyError."""
    cats, dogs = tmp_path / "cats", tmp_path / "dogs"
    write_graphs(cats, ["cat", "shared"])
    write_graphs(dogs, ["dog", "shared"])
    async with running(cats, database) as one, running(dogs, database) as other:
        for _ in range(6):
            for server, graph in ((one, "cat"), (other, "dog"), (one, "shared"), (other, "shared")):
                await _enqueue(server, graph)
        for server, graph in ((one, "cat"), (other, "dog")):
            cron = {"assistant_id": graph, "schedule": "0 0 1 1 *", "input": {"by": []}, "on_run_completed": "keep"}
            assert (await server.http.post("/runs/crons", json=cron)).status_code == 200
        await _sql(database, "UPDATE crons SET next_run_date = now()")
        await _sql(database, "NOTIFY threadkeep, 'crons'")
        await _until_rows(database, "SELECT 1 FROM runs", 26)
        await _until_ended(database)

        lists = [
            {found["graph_id"] for found in (await server.http.post("/assistants/search", json={})).json()}
            for server in (one, other)
        ]
        threads = [
            {found["metadata"]["graph_id"] for found in (await server.http.post("/threads/search", json={})).json()}
            for server in (one, other)
        ]
        crons = [(await server.http.post("/runs/crons/count", json={})).json() for server in (one, other)]
        foreign = (await _sql(database, "SELECT thread_id FROM threads WHERE project_id = 'dogs' LIMIT 1"))[0][0]
        seen = [(await server.http.get(f"/threads/{foreign}")).status_code for server in (one, other)]
        deleted = (await one.http.delete(f"/threads/{foreign}")).status_code

    assert await _statuses(database) == {(graph, "success") for graph in ("cat", "dog", "shared")}
    assert await _values(database) == {(graph, f'["{graph}"]') for graph in ("cat", "dog", "shared")}
    owners = await _sql(database, "SELECT DISTINCT project_id, graph_id FROM runs ORDER BY 1, 2")
    assert owners == [("cats", "cat"), ("cats", "shared"), ("dogs", "dog"), ("dogs", "shared")]
    assert lists == [{"cat", "shared"}, {"dog", "shared"}]
    assert threads == [{"cat", "shared"}, {"dog", "shared"}]
    assert crons == [1, 1]
    assert (seen, deleted) == ([404, 200], 404)


async def test_run_is_executed_by_a_process_that_serves_its_graph(database: str, tmp_path: Path) -> None:
    """Issue: of one project too, as during a rolling deploy."""
    left, right = tmp_path / "left", tmp_path / "right"
    write_graphs(left, ["cat", "shared"])
    write_graphs(right, ["dog", "shared"])
    project = {"THREADKEEP_PROJECT": "zoo"}
    async with running(left, database, **project) as one, running(right, database, **project) as other:
        for _ in range(5):
            for server, graph in ((one, "cat"), (other, "dog"), (one, "shared"), (other, "shared")):
                await _enqueue(server, graph)
        await _until_ended(database)
        ended = await _enqueue(one, "cat")
        thread = f"/threads/{ended['thread_id']}"
        joined = await other.http.get(f"{thread}/runs/{ended['run_id']}/join")
        assistants = (await one.http.post("/assistants/search", json={"graph_id": "cat"})).json()
        refused = [
            await other.http.post(f"{thread}/runs/wait", json={"assistant_id": assistants[0]["assistant_id"]}),
            await other.http.post("/runs", json={"assistant_id": assistants[0]["assistant_id"]}),
            await other.http.post("/runs/stream", json={"assistant_id": "cat"}),
            await other.http.get(f"{thread}/state"),
            await other.http.post(f"{thread}/state", json={"values": {"by": ["x"]}}),
        ]
        lists = [(await server.http.post("/assistants/count", json={})).json() for server in (one, other)]

    assert await _statuses(database) == {(graph, "success") for graph in ("cat", "dog", "shared")}
    assert await _values(database) == {(graph, f'["{graph}"]') for graph in ("cat", "dog", "shared")}
    assert joined.json() == {"by": ["cat"]}
    assert [answer.status_code for answer in refused] == [404, 404, 422, 404, 404]
    assert all("cat" in answer.json()["detail"] for answer in refused)
    assert lists == [2, 2]


async def test_runs_and_crons_of_a_killed_process_wait_for_one_that_serves_their_graph(
    database: str, tmp_path: Path
) -> None:
    """Issue: the others take over what they serve. A log line and a metric tell of the rest."""
    left, right, gate = tmp_path / "left", tmp_path / "right", tmp_path / "gate"
    write_graphs(left, ["cat", "shared"])
    write_graphs(right, ["dog", "shared"])
    project = {"THREADKEEP_PROJECT": "zoo"}
    async with running(left, database, **project) as one:
        for graph in ("cat", "shared"):
            cron = {"assistant_id": graph, "schedule": "0 0 1 1 *", "input": {"by": []}, "on_run_completed": "keep"}
            assert (await one.http.post("/runs/crons", json=cron)).status_code == 200
        for graph in ("cat", "shared", "cat"):
            await _enqueue(one, graph, gate=str(gate))
        await _until_rows(database, "SELECT 1 FROM runs WHERE status = 'running'", 3)
        async with running(right, database, **project) as other:
            one.process.kill()
            await _sql(database, "UPDATE crons SET next_run_date = now()")
            gate.touch()
            await _until_rows(database, "SELECT 1 FROM runs WHERE graph_id = 'shared' AND status = 'success'", 2)
            await _until_rows(database, "SELECT 1 FROM runs WHERE graph_id = 'cat' AND status = 'pending'", 2)
            with anyio.fail_after(60):
                while 'threadkeep_run_queue_unserved_depth{graph_id="cat"} 3.0' not in await _metrics(other):
                    await anyio.sleep(0.2)
            warned = {line["graph_id"] for line in await other.log() if "no live process" in line["message"]}
            async with running(left, database, **project):
                await _until_rows(database, "SELECT 1 FROM runs WHERE status = 'success'", 5)
                with anyio.fail_after(60):
                    while 'threadkeep_run_queue_unserved_depth{graph_id="cat"}' in await _metrics(other):
                        await anyio.sleep(0.2)

    assert warned == {"cat"}
    assert sorted(await _sql(database, "SELECT graph_id, status FROM runs")) == [
        *[("cat", "success")] * 3,
        *[("shared", "success")] * 2,
    ]
    assert await _values(database) == {(graph, f'["{graph}"]') for graph in ("cat", "shared")}


@dataclass(slots=True)
class Load:
    """Background runs that are asked for all the time, and what was refused."""

    servers: list[Server] = field(default_factory=list[Server])
    graphs: tuple[str, ...] = ("cat", "dog")
    sent: int = 0
    refused: list[str] = field(default_factory=list[str])

    async def send(self) -> None:
        """Until cancelled. A server that stops is asked no more."""
        while True:
            for server in list(self.servers):
                for graph in self.graphs:
                    await self._ask(server, graph)
            await anyio.sleep(0.02)

    async def _ask(self, server: Server, graph: str) -> None:
        try:
            answer = await server.http.post(
                "/runs", json={"assistant_id": graph, "input": {"by": []}, "on_completion": "keep"}
            )
        except httpx.TransportError:
            if server in self.servers:
                raise
            return
        self.sent += answer.status_code == 200
        if answer.status_code >= 400 and server in self.servers:
            self.refused.append(answer.text)


async def test_a_rolling_deploy_adds_and_removes_a_graph_under_load(database: str, tmp_path: Path) -> None:
    """Issue: a rolling deploy that adds a graph failed 13 of 20 runs."""
    folder = tmp_path / "zoo"
    write_graphs(folder, ["cat", "dog"])
    load = Load()
    async with (
        running(folder, database) as first,
        running(folder, database) as second,
        anyio.create_task_group() as tasks,
    ):
        load.servers = [first, second]
        tasks.start_soon(load.send)

        write_graphs(folder, ["cat", "dog", "bird"])
        async with running(folder, database) as third:  # it serves a graph that the other two don't know
            for _ in range(10):
                await _enqueue(third, "bird")
            load.servers = [second, third]
            await first.stop()
            async with running(folder, database) as fourth:
                load.servers = [third, fourth]
                await second.stop()
                load.graphs = ("cat", "bird")

                write_graphs(folder, ["cat", "bird"])
                async with running(folder, database) as fifth, running(folder, database) as sixth:
                    load.servers = [fifth, sixth]
                    with anyio.fail_after(60):  # before the last process that serves it stops
                        while await _sql(database, "SELECT 1 FROM runs WHERE graph_id = 'dog' AND finished_at IS NULL"):
                            await anyio.sleep(0.05)
                    await third.stop()
                    await fourth.stop()
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await _until_ended(database)

    assert load.refused == []
    assert load.sent > 50
    assert await _statuses(database) == {(graph, "success") for graph in ("cat", "dog", "bird")}


@pytest.mark.parametrize("named", [True, False])
async def test_the_start_tells_of_the_project(database: str, tmp_path: Path, named: bool) -> None:
    """Ours: and warns where its threads seem to be gone, because it was renamed or moved."""
    before, after = tmp_path / "before", tmp_path / "after"
    write_graphs(before, ["cat"])
    write_graphs(after, ["cat"])
    if named:
        (after / "pyproject.toml").write_text('[project]\nname = "renamed"\n')
    async with running(before, database) as server:
        await _enqueue(server, "cat")
        assert not [line for line in await server.log() if "other projects" in line["message"]]

    async with running(after, database) as server:
        told = {line["message"]: line for line in await server.log()}

    assert told["project served"]["project"] == ("renamed" if named else "after")
    [warning] = [line for message, line in told.items() if "other projects" in message]
    assert warning["other_projects"] == ["before"]


def test_every_statement_on_a_tenants_rows_names_the_project() -> None:
    """Ours: the condition on the project stands wherever that on the metadata does."""
    forgotten: list[str] = []
    for file in sorted(Path(tables.__path__[0]).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if "%(match)s" in text and "%(project)s" not in text:
                forgotten.append(f"{file.name}:{node.lineno}")

    assert forgotten == []
