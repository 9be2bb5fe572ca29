"""The plans of our statements on a filled database, by Postgres's own `auto_explain`.

The statements are those that a server sends while a client uses it, with their own parameters; none is copied here.
"""

import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import psycopg
import pytest

from conftest import TEMPLATE, WAIT_S, serving
from threadkeep.settings import Settings

THREADS = 20_000
LARGE = {"threads", "runs", "run_events", "checkpoints", "checkpoint_blobs", "checkpoint_writes", "store"}
"""Tables that grow with use. Read from one end to the other they make everything slow, the more the longer."""
FILL = """
    INSERT INTO threads (thread_id, project_id, metadata, status, ttl_strategy, ttl_minutes, created_at, updated_at)
    SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'threadkeep',
           jsonb_build_object('owner', 'user' || mod(n, 1000), 'topic', n),
           CASE WHEN mod(n, 1000) = 0 THEN 'interrupted' ELSE 'idle' END,
           CASE WHEN mod(n, 10) = 0 THEN 'delete' END, CASE WHEN mod(n, 10) = 0 THEN 1e6 END,
           now() - n * interval '1 minute', now() - n * interval '1 minute'
      FROM generate_series(1, %(threads)s) AS n;
    INSERT INTO runs (run_id, project_id, thread_id, assistant_id, graph_id, status, finished_at)
    SELECT gen_random_uuid(), project_id, thread_id, gen_random_uuid(), 'chain', 'success', now() FROM threads;
    INSERT INTO run_events (run_id, position, event, data)
    SELECT run_id, position, 'values', '{}' FROM runs, generate_series(1, 3) AS position;
    INSERT INTO checkpoints (thread_id, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT thread_id::text, '1ef00000-0000-6000-8000-00000000000' || n, NULL, '{"channel_versions": {}}', '{}'
      FROM threads, generate_series(1, 3) AS n;
    INSERT INTO checkpoint_blobs (thread_id, channel, version, type, blob)
    SELECT thread_id::text, 'items', n::text, 'msgpack', 'x' FROM threads, generate_series(1, 3) AS n;
    INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, type, blob)
    SELECT thread_id, checkpoint_id, 'task', 0, 'items', 'msgpack', 'x' FROM checkpoints;
    INSERT INTO store (prefix, key, value) SELECT 'user' || mod(n, 1000), n::text, '{}' FROM generate_series(1, 20000) AS n;
    ANALYZE;
"""
EXPLAINED = (
    "session_preload_libraries = 'auto_explain'",
    "auto_explain.log_min_duration = 0",
    "auto_explain.log_format = 'json'",
    "auto_explain.log_nested_statements = on",
)


@pytest.fixture(scope="module")
def database(postgres: str) -> Iterator[str]:
    """A database with `THREADS` threads in it, each connection to which logs its plans."""
    name = "test_plans"
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        uri = psycopg.conninfo.make_conninfo(postgres, dbname=name)
        with psycopg.connect(uri, autocommit=True) as filled, psycopg.ClientCursor(filled) as cursor:
            cursor.execute(FILL, {"threads": THREADS})
        for setting in EXPLAINED:
            conn.execute(f"ALTER DATABASE {name} SET {setting}")
        yield uri
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans since this object was created."""

    uri: str
    """Of a database whose plans are not logged."""
    begin: int

    def scans(self) -> set[tuple[str, str]]:
        """(table, statement) of each plan that reads a large table from one end to the other."""
        return {(table, text) for plan in self._all() for table, text in _scans(plan["Plan"], plan["Query Text"])}

    def tables(self) -> set[str]:
        """Large tables that some plan reads."""
        return {name for plan in self._all() for name in _tables(plan["Plan"])} & LARGE

    def conditions(self, table: str, query: str = "") -> list[str]:
        """The conditions by which each plan finds its rows in `table`. Only of statements that contain `query`."""
        plans = [plan["Plan"] for plan in self._all() if query in plan["Query Text"]]
        return [condition for plan in plans for condition in _conditions(plan, table)]

    def _all(self) -> list[dict[str, Any]]:
        with psycopg.connect(self.uri) as conn:
            row = conn.execute("SELECT pg_read_file('server.log', %s, 100000000)", [self.begin]).fetchone()
        assert row is not None
        found = re.findall(r"plan:\n((?:\t.*(?:\n|$))+)", row[0])
        return [json.loads("".join(line[1:] for line in text.splitlines())) for text in found]


def _scans(node: dict[str, Any], text: str) -> list[tuple[str, str]]:
    own = node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE
    below = [scan for one in node.get("Plans", []) for scan in _scans(one, text)]
    return [(node["Relation Name"], " ".join(text.split())), *below] if own else below


def _conditions(node: dict[str, Any], table: str) -> list[str]:
    own = [node.get("Index Cond", "")] if node.get("Relation Name") == table and "Scan" in node["Node Type"] else []
    return [*own, *(found for one in node.get("Plans", []) for found in _conditions(one, table))]


def _tables(node: dict[str, Any]) -> set[str]:
    return {node.get("Relation Name", "")}.union(*map(_tables, node.get("Plans", [])))


@pytest.fixture
def plans(postgres: str) -> Plans:
    """Of what follows."""
    with psycopg.connect(postgres) as conn:
        row = conn.execute("SELECT size FROM pg_stat_file('server.log')").fetchone()
    assert row is not None
    return Plans(postgres, row[0])


@asynccontextmanager
async def _asking(settings: Settings, **changed: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(settings.model_copy(update=changed)) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http,
    ):
        yield http


async def _asked(http: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
    answer = await http.request(method, path, json=body)
    assert answer.is_success, answer.text
    return answer


REPEATED = 8
"""Often enough for Postgres to choose a plan that holds for any parameters."""
RUN = {"assistant_id": "chain", "input": {"items": ["given"]}, "if_not_exists": "create"}
OLD = "00000000-0000-4000-8000-000000000007"


async def test_a_state_is_read_without_those_before_it(settings: Settings, plans: Plans) -> None:
    """Ours: the stock saver's statement reads the rows of every blob that the thread ever held, the more the longer."""
    thread_id = uuid.uuid4()
    async with _asking(settings) as http:
        await _asked(http, "POST", f"/threads/{thread_id}/runs/wait", RUN)
        for _ in range(REPEATED):
            await _asked(http, "GET", f"/threads/{thread_id}/state")
    found = plans.conditions("checkpoint_blobs")

    assert len(found) >= REPEATED
    assert all("(version = " in condition for condition in found)


async def test_a_run_scans_no_table(settings: Settings, plans: Plans) -> None:
    """Ours: open, checkpoint, stream and finish cost the same whatever else is in the database."""
    thread_id = uuid.uuid4()
    async with _asking(settings) as http:
        for _ in range(REPEATED):
            await _asked(http, "POST", f"/threads/{uuid.uuid4()}/runs/wait", RUN)
            await _asked(http, "POST", f"/threads/{thread_id}/runs/wait", RUN)
            await _asked(http, "POST", f"/threads/{thread_id}/runs/stream", RUN)
            await _asked(http, "POST", f"/threads/{thread_id}/runs/wait", RUN | {"multitask_strategy": "rollback"})
    by_statement = {name: plans.conditions("runs", name) for name in ("finished_run", "AS lease")}

    assert plans.scans() == set()
    assert {"threads", "runs", "checkpoints"} <= plans.tables()
    # By the run or its thread, not by an index of all runs that wait or execute.
    for conditions in by_statement.values():
        assert conditions
        assert [condition for condition in conditions if not re.search(r"\b(run_id|thread_id) = ", condition)] == []


async def test_a_background_run_and_its_events_scan_no_table(settings: Settings, plans: Plans) -> None:
    """Ours: claim, events, join and cancel go by index."""
    thread_id = uuid.uuid4()
    async with _asking(settings) as http:
        for _ in range(REPEATED):
            body = RUN | {"stream_resumable": True}
            run_id = (await _asked(http, "POST", f"/threads/{thread_id}/runs", body)).json()["run_id"]
            await _asked(http, "GET", f"/threads/{thread_id}/runs/{run_id}/join")
            await _asked(http, "GET", f"/threads/{thread_id}/runs/{run_id}/stream")
            await _asked(http, "GET", f"/threads/{thread_id}/runs/{run_id}")
            await http.post(f"/threads/{thread_id}/runs/{run_id}/cancel")
    assert plans.scans() == set()
    assert {"threads", "runs", "run_events"} <= plans.tables()


async def test_reads_of_a_thread_scan_no_table(settings: Settings, plans: Plans) -> None:
    """Ours: reading or copying a thread costs as much as the thread holds."""
    thread_id = uuid.uuid4()
    async with _asking(settings) as http:
        await _asked(http, "POST", f"/threads/{thread_id}/runs/wait", RUN)
        for _ in range(REPEATED):
            await _asked(http, "GET", f"/threads/{thread_id}")
            await _asked(http, "GET", f"/threads/{thread_id}/state")
            await _asked(http, "POST", f"/threads/{thread_id}/history", {"limit": 5})
            await _asked(http, "GET", f"/threads/{thread_id}/runs")
            await _asked(http, "PATCH", f"/threads/{thread_id}", {"metadata": {"seen": True}})
            await _asked(http, "POST", f"/threads/{thread_id}/state", {"values": {"items": ["x"]}, "as_node": "first"})
            copy = (await _asked(http, "POST", f"/threads/{thread_id}/copy", {})).json()["thread_id"]
            await _asked(http, "DELETE", f"/threads/{copy}")
    assert plans.scans() == set()
    assert {"threads", "runs", "checkpoints", "checkpoint_blobs", "checkpoint_writes"} <= plans.tables()


@pytest.mark.parametrize(
    "wanted",
    [{"metadata": {"topic": 7}}, {"metadata": {"owner": "user7"}}, {"ids": [OLD]}],
    ids=["metadata", "owner", "ids"],
)
async def test_threads_are_found_by_index(wanted: dict[str, Any], settings: Settings, plans: Plans) -> None:
    """Ours: a search that narrows does not look at every thread, nor does its count."""
    async with _asking(settings) as http:
        for _ in range(REPEATED):
            found = await _asked(http, "POST", "/threads/search", {"limit": 10, **wanted})
            assert found.json()
            if "ids" not in wanted:  # the count knows none
                await _asked(http, "POST", "/threads/count", wanted)
    assert plans.scans() == set()


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"status": "running"},
        {"status": "pending"},
        {"thread_id": OLD},
        {"graph_id": "chain", "created_after": "2026-01-01T00:00:00Z"},
    ],
    ids=["all", "running", "pending", "thread", "graph"],
)
async def test_runs_are_found_by_index(wanted: dict[str, Any], settings: Settings, plans: Plans) -> None:
    """Issue 17: a page of runs does not read them all."""
    async with _asking(settings) as http:
        for _ in range(REPEATED):
            await _asked(http, "POST", "/runs/search", {"limit": 10, **wanted})
    assert plans.scans() == set()
    assert "runs" in plans.tables()


async def test_a_turn_changes_no_index_of_threads(database: str) -> None:
    """Ours: a turn changes these columns of its thread twice, in place only while no index has them.

    So a search by status alone looks at every thread.
    """
    async with await psycopg.AsyncConnection.connect(database) as conn:
        found = await conn.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'threads'")
        indexes = [row[0] for row in await found.fetchall()]
    assert [
        one for one in indexes if re.search(r"\b(status|updated_at|state_updated_at|values|interrupts)\b", one)
    ] == []


async def test_the_store_scans_no_table(settings: Settings, plans: Plans) -> None:
    """Ours: items and namespaces are found by prefix."""
    async with _asking(settings) as http:
        for number in range(REPEATED):
            item = {"namespace": ["user7"], "key": str(number), "value": {}}
            await _asked(http, "PUT", "/store/items", item)
            await _asked(http, "GET", f"/store/items?namespace=user7&key={number}")
            await _asked(http, "POST", "/store/items/search", {"namespace_prefix": ["user7"], "limit": 10})
    assert plans.scans() == set()


async def test_sweeps_scan_no_table(settings: Settings, plans: Plans) -> None:
    """Ours: periodic searches for expired threads, lost runs and due work use an index."""
    async with _asking(settings, reaper_interval_s=0.1, lease_s=1.0):
        with anyio.fail_after(WAIT_S):
            while not {"threads", "runs"} <= plans.tables():
                await anyio.sleep(0.2)
    assert plans.scans() == set()
