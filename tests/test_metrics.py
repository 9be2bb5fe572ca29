"""Metrics: what is counted, under bounded names, and who may read it."""

import math
import socket
from typing import Literal

import anyio
import httpx
import psycopg
import pytest
from langgraph_sdk.client import LangGraphClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from conftest import serving
from graphs import Gate
from threadkeep.api.ops.metrics import is_guarded
from threadkeep.auth.api_keys import new_key
from threadkeep.base.metrics import Load, Metrics
from threadkeep.base.problems import StartRefused
from threadkeep.settings import Settings
from threadkeep.tables import api_keys

RUN = {"assistant_id": "chain", "input": {"items": []}}
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return f"threadkeep_{name}", tuple(sorted(labels.items()))


async def _samples(http: httpx.AsyncClient) -> Samples:
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

    assert found[_key("runs_total", graph="chain", outcome="success")] == 1
    assert found[_key("runs_total", graph="failing", outcome="error")] == 1
    assert found[_key("runs_total", graph="chain", outcome="error")] == 0
    assert found[_key("run_seconds_count", graph="chain")] == 1
    assert found[_key("run_first_event_seconds_count", graph="chain")] == 1
    assert found[_key("slot_wait_seconds_count")] == 2


async def test_requests_are_counted_by_route_and_class(http: httpx.AsyncClient) -> None:
    """Ours: ids are no labels, and what a client makes up is one."""
    thread = (await http.post("/threads", json={})).json()
    await http.get(f"/threads/{thread['thread_id']}")
    await http.get("/threads/no-uuid")
    for number in range(3):
        await http.request("PROPFIND", f"/made/up/{number}")

    found = await _samples(http)

    route = {"method": "GET", "route": "/threads/{thread_id}"}
    assert found[_key("http_requests_total", **route, status="2xx")] == 1
    assert found[_key("http_requests_total", **route, status="4xx")] == 1
    assert found[_key("http_answer_seconds_count", **route)] == 2
    assert found[_key("http_requests_total", method="none", route="none", status="4xx")] == 3


async def test_what_goes_on_now_is_told(http: httpx.AsyncClient, client: LangGraphClient, gate: Gate) -> None:
    """Ours: slots, the queue, the pools, streams and the heartbeat."""
    thread = await client.threads.create()
    await client.runs.create(thread["thread_id"], "gated", input={"items": []})
    await gate.entered()
    await client.runs.create(thread["thread_id"], "gated", input={"items": []}, multitask_strategy="enqueue")
    async with http.stream("GET", f"/threads/{thread['thread_id']}/stream"):
        found = await _samples(http)

    assert found[_key("slots")] == 12
    assert found[_key("slots_in_use")] == 1
    assert found[_key("line_waiting")] == 0
    assert found[_key("queue_depth")] == 1
    assert 0 <= found[_key("queue_oldest_seconds")] < 60
    assert found[_key("queue_wait_seconds_count")] == 1
    assert found[_key("sse_streams")] == 1
    assert 0 <= found[_key("heartbeat_age_seconds")] < 60
    for pool in ("api", "runs"):
        assert found[_key("pool_connections", pool=pool)] >= 1
        assert found[_key("pool_waiting", pool=pool)] == 0
    gate.open()


async def test_a_stream_that_ended_is_not_open(http: httpx.AsyncClient) -> None:
    """Ours: the gauge comes down again, and the events were counted."""
    await http.post("/runs/stream", json=RUN | {"stream_mode": "updates"})

    with anyio.fail_after(5):
        while (found := await _samples(http))[_key("sse_streams")] != 0:
            await anyio.sleep(0.01)
    assert found[_key("run_events_total")] == 3


async def test_group_commits_and_the_loop_are_measured(http: httpx.AsyncClient) -> None:
    """Ours: what a run waits for."""
    thread = (await http.post("/threads", json={})).json()
    await http.post(f"/threads/{thread['thread_id']}/runs/wait", json=RUN)

    with anyio.fail_after(5):
        while (found := await _samples(http))[_key("event_loop_lag_seconds_count")] == 0:
            await anyio.sleep(0.05)
    assert found[_key("commit_seconds_count")] >= 1
    assert found[_key("commit_writes_sum")] >= found[_key("commit_seconds_count")]
    assert found[_key("lease_takeovers_total")] == 0


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

        ended = _key("runs_total", graph="chain", outcome="success")
        assert ((await _samples(one))[ended], (await _samples(other))[ended]) == (1, 0)


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
        assert (await _samples(beside))[_key("slots")] == 12


async def test_guarded_metrics_are_for_known_callers(settings: Settings) -> None:
    """Ours: THREADKEEP_METRICS=auth, and unset on an address that others reach; the queue is all tenants'."""
    secret, row = new_key("prometheus", "test", (), None)
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
        await api_keys.create(conn, row)
    guarded = settings.model_copy(update={"metrics": "auth", "auth_type": "api_key"})
    async with serving(guarded) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/metrics")).status_code == 401
        http.headers["authorization"] = f"Bearer {secret}"
        assert (await _samples(http))[_key("queue_depth")] == 0


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
    """Ours: open on this machine, guarded elsewhere, unless somebody said otherwise."""
    assert is_guarded(Settings(host=host, metrics=metrics), has_door=True) is guarded


async def test_guarded_metrics_without_authentication_stop_the_start(settings: Settings) -> None:
    """Ours: nothing falls back to open."""
    with pytest.raises(StartRefused, match="nothing would guard"):
        async with serving(settings.model_copy(update={"metrics": "auth"})):
            pass


def test_a_queue_that_is_not_known_is_no_number() -> None:
    """Ours: a gauge never goes on telling what was true before Postgres went away."""
    metrics = Metrics()

    metrics.show(Load(slots=1, running=0, line=0, queued=None, oldest_s=None, heartbeat_s=0))

    value = metrics.registry.get_sample_value("threadkeep_queue_depth")
    assert value is not None
    assert math.isnan(value)
