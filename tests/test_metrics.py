"""Metrics: counts with bounded names, and the access to them."""

import math
import re
import socket
import time
from pathlib import Path
from typing import Literal

import anyio
import httpx
import psycopg
import pytest
from langgraph_sdk.client import LangGraphClient
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.api.ops.metrics import requires_authentication
from threadkeep.api.ops.scrape import CACHE_TTL_S
from threadkeep.auth.api_keys import generate_key
from threadkeep.base.metrics import LoadSnapshot, Metrics
from threadkeep.base.problems import StartupError
from threadkeep.settings import Settings
from threadkeep.tables import api_keys

RUN = {"assistant_id": "chain", "input": {"items": []}}
HELD_S = 0.2
"""How long a test keeps a response open."""
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "observability.md").read_text()
METRIC_ROW = re.compile(r"^\| `(\w+)(?:\{([^}]*)\})?` \| (counter|gauge|histogram) \|", re.MULTILINE)
NOT_OURS = ("process_", "python_gc_")
UNITS = ("_seconds", "_bytes", "_ratio")
COUNTS = ("_connections", "_count", "_depth", "_in_use", "_length", "_max", "_requests", "_size", "_slots", "_tasks")
"""Ends of the names of counts, which have no unit."""
NO_METRICS = {"threadkeep_bench", "threadkeep_tenant"}
"""A package and a role of Postgres, which pages name too."""
LABELS = {
    "db_collection_name",
    "db_client_connection_pool_name",
    "db_client_connection_state",
    "graph_id",
    "http_request_method",
    "http_response_status_code",
    "http_route",
    "outcome",
}
"""One label for one thing, named as in OpenTelemetry or in the logs."""
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


async def _samples(http: httpx.AsyncClient) -> Samples:
    """The samples of a scrape for which Postgres answered in time. A busy machine may need several."""
    with anyio.fail_after(WAIT_S):
        while True:
            samples = await _scraped(http)
            if not math.isnan(samples[_key("threadkeep_run_queue_depth")]):
                return samples
            await anyio.sleep(CACHE_TTL_S)


async def _scraped(http: httpx.AsyncClient) -> Samples:
    answer = await http.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in plain(answer.text)
        for sample in family.samples
    }


async def test_runs_are_counted_by_graph_and_outcome(http: httpx.AsyncClient) -> None:
    """Ours: how many runs end, how, and how long they take."""
    await http.post("/runs/wait", json=RUN)
    await http.post("/runs/wait", json={"assistant_id": "failing", "input": {"items": []}})

    found = await _samples(http)

    assert found[_key("threadkeep_runs_total", graph_id="chain", outcome="success")] == 1
    assert found[_key("threadkeep_runs_total", graph_id="failing", outcome="error")] == 1
    assert found[_key("threadkeep_runs_total", graph_id="chain", outcome="error")] == 0
    assert found[_key("threadkeep_run_duration_seconds_count", graph_id="chain")] == 1
    assert found[_key("threadkeep_run_time_to_first_event_seconds_count", graph_id="chain")] == 1
    assert found[_key("threadkeep_admission_wait_seconds_count")] == 2


async def test_requests_are_counted_by_route_and_status(http: httpx.AsyncClient) -> None:
    """OpenTelemetry: the route's template, the status code, and `_OTHER` for a method that HTTP does not define."""
    thread = (await http.post("/threads", json={})).json()
    await http.get(f"/threads/{thread['thread_id']}")
    await http.get("/threads/no-uuid")
    for number in range(3):
        await http.request("PROPFIND", f"/made/up/{number}")
        await http.get(f"/made/up/{number}")

    found = await _samples(http)

    route = {"http_request_method": "GET", "http_route": "/threads/{thread_id}"}
    counts = {
        tuple(value for _, value in labels): count
        for (name, labels), count in found.items()
        if name == "http_server_request_duration_seconds_count"
    }
    assert counts == {
        ("POST", "200", "/threads"): 1,
        ("GET", "200", route["http_route"]): 1,
        ("GET", "422", route["http_route"]): 1,
        ("_OTHER", "404", ""): 3,
        ("GET", "404", ""): 3,
    }
    assert found[_key("threadkeep_http_time_to_first_byte_seconds_count", **route)] == 2


async def test_a_request_lasts_until_the_end_of_its_response(http: httpx.AsyncClient, gate: Gate) -> None:
    """OpenTelemetry: the duration is the whole request's. Ours: the time to its first byte stands beside it."""
    labels = {"http_request_method": "POST", "http_route": "/runs/stream"}
    async with http.stream("POST", "/runs/stream", json=RUN | {"assistant_id": "gated"}) as answer:
        await gate.entered()
        began = time.monotonic()
        while time.monotonic() - began < HELD_S:
            await http.get("/ok")
        gate.open()
        await answer.aread()

    found = await _samples(http)

    ended = {**labels, "http_response_status_code": "200"}
    assert found[_key("http_server_request_duration_seconds_sum", **ended)] >= HELD_S
    assert found[_key("threadkeep_http_time_to_first_byte_seconds_count", **labels)] == 1
    first_byte_s = found[_key("threadkeep_http_time_to_first_byte_seconds_sum", **labels)]
    assert first_byte_s <= found[_key("http_server_request_duration_seconds_sum", **ended)] - HELD_S


async def test_what_goes_on_now_is_told(http: httpx.AsyncClient, client: LangGraphClient, gate: Gate) -> None:
    """Ours: slots, the queue, the pools, streams and the heartbeat."""
    thread = await client.threads.create()
    await client.runs.create(thread["thread_id"], "gated", input={"items": []})
    await gate.entered()
    await client.runs.create(thread["thread_id"], "gated", input={"items": []}, multitask_strategy="enqueue")
    async with http.stream("GET", f"/threads/{thread['thread_id']}/stream"):
        found = await _samples(http)

    assert found[_key("threadkeep_run_slots")] == 12
    assert found[_key("threadkeep_run_slots_in_use")] == 1
    assert found[_key("threadkeep_admission_queue_length")] == 0
    assert found[_key("threadkeep_run_queue_depth")] == 1
    assert 0 <= found[_key("threadkeep_run_queue_oldest_age_seconds")] < 60
    assert found[_key("threadkeep_run_queue_wait_seconds_count")] == 1
    assert found[_key("threadkeep_sse_connections")] == 1
    assert 0 <= found[_key("threadkeep_heartbeat_age_seconds")] < 60
    for name in ("api", "runs"):
        pool = {"db_client_connection_pool_name": name}
        idle, used = (
            found[_key("db_client_connection_count", **pool, db_client_connection_state=state)]
            for state in ("idle", "used")
        )
        assert 1 <= idle + used <= found[_key("db_client_connection_max", **pool)]
        assert found[_key("db_client_connection_pending_requests", **pool)] == 0
    gate.open()


async def test_a_stream_that_ended_is_not_open(http: httpx.AsyncClient) -> None:
    """Ours: the gauge comes down again, and the events were counted."""
    await http.post("/runs/stream", json=RUN | {"stream_mode": "updates"})

    with anyio.fail_after(5):
        while (found := await _samples(http))[_key("threadkeep_sse_connections")] != 0:
            await anyio.sleep(0.01)
    assert found[_key("threadkeep_run_events_total")] == 3


async def test_group_commits_and_the_loop_are_measured(http: httpx.AsyncClient) -> None:
    """Ours: the waits of a run."""
    thread = (await http.post("/threads", json={})).json()
    await http.post(f"/threads/{thread['thread_id']}/runs/wait", json=RUN)

    with anyio.fail_after(5):
        while (found := await _samples(http))[_key("threadkeep_event_loop_lag_seconds_count")] == 0:
            await anyio.sleep(0.05)
    assert found[_key("threadkeep_group_commit_duration_seconds_count")] >= 1
    assert (
        found[_key("threadkeep_group_commit_batch_size_sum")]
        >= found[_key("threadkeep_group_commit_duration_seconds_count")]
    )
    assert found[_key("threadkeep_run_recoveries_total")] == 0


async def test_openmetrics_is_told_to_who_accepts_it(http: httpx.AsyncClient) -> None:
    """OpenMetrics 1.0: by content negotiation."""
    answer = await http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "threadkeep_runs" in {family.name for family in openmetrics(answer.text)}


async def test_two_servers_in_one_process_count_apart(settings: Settings) -> None:
    """Ours: nothing is made at import."""
    async with (
        serving(settings) as first,
        serving(settings) as second,
        httpx.AsyncClient(base_url=first) as one,
        httpx.AsyncClient(base_url=second) as other,
    ):
        await one.post("/runs/wait", json=RUN)

        ended = _key("threadkeep_runs_total", graph_id="chain", outcome="success")
        assert ((await _samples(one))[ended], (await _samples(other))[ended]) == (1, 0)


async def test_the_rows_of_each_table_are_estimated(http: httpx.AsyncClient, database: str) -> None:
    """Issue: a table that grows must show. The journals of migrations don't grow."""
    async with await psycopg.AsyncConnection.connect(database) as conn:
        cursor = await conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
        )
        tables = {row[0] for row in await cursor.fetchall()}
    sample = 'threadkeep_table_row_count{db_collection_name="'
    lines = (await http.get("/metrics")).text.splitlines()
    measured = {line.removeprefix(sample).partition('"')[0] for line in lines if line.startswith(sample)}

    assert {table for table in tables if not table.endswith(("_migrations", "_functions"))} == measured


async def test_metrics_that_are_off_are_not_there(settings: Settings) -> None:
    """Ours: THREADKEEP_METRICS=off."""
    async with (
        serving(settings.model_copy(update={"metrics": "off"})) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        assert (await http.get("/metrics")).status_code == 404


async def test_metrics_have_a_port_of_their_own(settings: Settings, free_port: int) -> None:
    """Ours: THREADKEEP_METRICS_PORT; nothing else is there, and they are not on the other port."""
    async with (
        serving(settings.model_copy(update={"metrics_port": free_port})) as url,
        httpx.AsyncClient(base_url=url) as http,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port}") as beside,
    ):
        assert (await http.get("/metrics")).status_code == 404
        assert (await beside.get("/info")).status_code == 404
        assert (await _samples(beside))[_key("threadkeep_run_slots")] == 12


async def test_guarded_metrics_are_for_known_callers(settings: Settings) -> None:
    """Ours: THREADKEEP_METRICS=auth, and unset on an address that others reach; the queue is all tenants'."""
    secret, row = generate_key("prometheus", "test", (), None)
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
        await api_keys.create(conn, row)
    guarded = settings.model_copy(update={"metrics": "auth", "auth_type": "api_key"})
    async with serving(guarded) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/metrics")).status_code == 401
        http.headers["authorization"] = f"Bearer {secret}"
        assert (await _samples(http))[_key("threadkeep_run_queue_depth")] == 0


@pytest.mark.parametrize(
    ("host", "metrics", "guarded"),
    [
        ("127.0.0.1", None, False),
        ("0.0.0.0", None, True),  # noqa: S104 - nobody listens there
        ("0.0.0.0", "public", False),  # noqa: S104
        ("127.0.0.1", "auth", True),
    ],
)
def test_who_gets_metrics_follows_from_the_address(
    host: str, metrics: Literal["public", "auth"] | None, guarded: bool
) -> None:
    """Ours: open on this machine, guarded elsewhere, unless a setting says otherwise."""
    assert requires_authentication(Settings(host=host, metrics=metrics), has_authenticator=True) is guarded


async def test_guarded_metrics_without_authentication_stop_the_start(settings: Settings) -> None:
    """Ours: nothing falls back to open."""
    with pytest.raises(StartupError, match="nothing would guard"):
        async with serving(settings.model_copy(update={"metrics": "auth"})):
            pass


def test_a_queue_that_is_not_known_is_no_number() -> None:
    """Ours: a gauge never goes on telling what was true before Postgres went away."""
    metrics = Metrics()

    metrics.set_load(
        LoadSnapshot(
            slots=1, running=0, admission_waiting=0, queue_depth=None, queue_oldest_age_s=None, heartbeat_age_s=0
        )
    )

    value = metrics.registry.get_sample_value("threadkeep_run_queue_depth")
    assert value is not None
    assert math.isnan(value)


@pytest.fixture
async def families(http: httpx.AsyncClient) -> list[Metric]:
    """Every metric at `/metrics` after a run, except those of Python and of the process."""
    await http.post("/runs/wait", json=RUN)
    served = list(plain((await http.get("/metrics")).text))
    return [
        family for family in served if not family.name.startswith(NOT_OURS) and not family.name.endswith("_created")
    ]


def _labels(family: Metric) -> list[str]:
    return sorted({name for sample in family.samples for name in sample.labels} - {"le"})


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


async def test_metrics_are_named_by_the_conventions(families: list[Metric]) -> None:
    """Prometheus: a prefix, the unit in full as a suffix, `_total` for counters. OpenTelemetry: its own names."""
    assert families
    for family in families:
        name = _name(family)
        assert re.fullmatch(r"(threadkeep|http_server|db_client)(_[a-z]+)+", name), name
        assert name.endswith("_total") == (family.type == "counter"), name
        assert name.endswith(("_total", *UNITS, *COUNTS)), name
        assert name.endswith("_seconds") == ("Time" in family.documentation), name
        assert set(_labels(family)) <= LABELS, name


async def test_the_page_lists_the_metrics_that_there_are(families: list[Metric]) -> None:
    """Ours: each with its labels and its kind, and no other."""
    shown = sorted((name, sorted(re.findall(r"\w+", labels)), kind) for name, labels, kind in METRIC_ROW.findall(PAGE))

    assert shown == sorted((_name(family), _labels(family), family.type) for family in families)


@pytest.mark.parametrize("page", ["docs/how-to/observability.md", "docs/operations.md", "docs/design.md"])
async def test_pages_name_no_metric_that_is_not_there(families: list[Metric], page: str) -> None:
    """Ours: an alert on a metric that was renamed never fires."""
    samples = {sample.name for family in families for sample in family.samples} | {family.name for family in families}
    named = re.findall(r"\b(?:threadkeep|http_server|db_client)_[a-z_]+", (ROOT / page).read_text())

    assert set(named) - samples - LABELS - NO_METRICS == set()
