"""The change stream: a caller gets the changes of its own threads and runs only, by any process."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import httpx
import psycopg
import pytest
from psycopg_pool import PoolTimeout

from conftest import WAIT_S, MakeKey, serving
from graphs import Gate
from threadkeep.postgres.connection import Change
from threadkeep.postgres.listen import NotificationHub
from threadkeep.postgres.pool import open_api_pool, open_runs_pool
from threadkeep.project import Project
from threadkeep.settings import Settings
from threadkeep.threads import change_stream
from threadkeep.threads.change_stream import LOG_CHANGES, MAX_BATCH, UNKNOWN, ChangeFeed, ChangeLog, payloads

RUN = {"assistant_id": "chain", "input": {"items": []}}


class Events:
    """The events of one stream: name, data and id of each."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any, str]] = []
        self._fresh = anyio.Event()

    async def read(self, answer: httpx.Response) -> None:
        name, data, event_id = "", "", ""
        async for line in answer.aiter_lines():
            field, _, value = line.partition(": ")
            name, data = (value, data) if field == "event" else (name, value if field == "data" else data)
            event_id = value if field == "id" else event_id
            if not line and name:
                self.told.append((name, json.loads(data), event_id))
                name, event_id = "", ""
                self._fresh.set()

    async def until(self, is_told: Callable[["Events"], bool]) -> None:
        with anyio.fail_after(WAIT_S):
            while not is_told(self):
                self._fresh = anyio.Event()
                await self._fresh.wait()

    def names(self) -> list[str]:
        return [name for name, _, _ in self.told]

    def threads(self) -> set[str]:
        return {data["thread_id"] for name, data, _ in self.told if name != "gap"}

    def runs(self) -> dict[str, str]:
        """The last status of each run in the stream."""
        return {data["run_id"]: data["status"] for name, data, _ in self.told if name == "run"}

    @property
    def last_id(self) -> str:
        return [event_id for _, _, event_id in self.told if event_id][-1]


@asynccontextmanager
async def following(http: httpx.AsyncClient, **headers: str) -> AsyncIterator[Events]:
    events = Events()
    async with anyio.create_task_group() as tasks, http.stream("GET", "/events", headers=headers) as answer:
        assert answer.status_code == 200
        tasks.start_soon(events.read, answer)
        if "last-event-id" not in headers:
            await events.until(lambda each: each.names() == ["gap"])
        yield events
        tasks.cancel_scope.cancel()


async def _new(http: httpx.AsyncClient, **metadata: object) -> str:
    return (await http.post("/threads", json={"metadata": metadata})).json()["thread_id"]


@asynccontextmanager
async def _keyed(url: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers={"x-api-key": key}, timeout=WAIT_S) as http:
        yield http


async def test_the_changes_of_a_thread_and_its_run_are_streamed(http: httpx.AsyncClient, gate: Gate) -> None:
    """Issue 17: the values are those of now, with the title."""
    async with following(http) as events:
        thread_id = await _new(http, title="Notes")
        await events.until(lambda each: each.threads() == {thread_id})
        assert events.told[-1][0] == "thread"
        assert events.told[-1][1] | {"updated_at": None} == {
            "thread_id": thread_id,
            "status": "idle",
            "updated_at": None,
            "title": "Notes",
        }
        gated = {"assistant_id": "gated", "input": {"items": []}}
        run_id = (await http.post(f"/threads/{thread_id}/runs", json=gated)).json()["run_id"]
        await events.until(lambda each: each.runs() == {run_id: "running"})
        gate.open()
        await events.until(lambda each: each.runs() == {run_id: "success"})
        assert ("thread", "busy") in {(name, data["status"]) for name, data, _ in events.told if name == "thread"}


async def test_changes_of_another_process_are_streamed(replicas: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> None:
    """Issue 17: a process that began to note only when this one asked."""
    here, there = replicas
    async with following(here) as events:
        thread_id = await _new(there)
        await events.until(lambda each: thread_id in each.threads())
        run_id = (await there.post(f"/threads/{thread_id}/runs", json=RUN)).json()["run_id"]
        await events.until(lambda each: each.runs().get(run_id) == "success")


async def test_changes_of_a_process_that_starts_later_are_streamed_too(
    settings: Settings, http: httpx.AsyncClient
) -> None:
    """Ours: it asks whether a process has a stream."""
    async with (
        following(http) as events,
        serving(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as there,
    ):
        await anyio.sleep(0.3)  # until its question is answered
        thread_id = await _new(there)
        await events.until(lambda each: thread_id in each.threads())


@pytest.mark.parametrize("change", ["patch", "state", "copy", "delete run", "cancel", "conversation"])
async def test_every_kind_of_change_is_streamed(http: httpx.AsyncClient, change: str) -> None:
    """Issue 17: whatever route changes a thread or a run."""
    thread_id = await _new(http)
    run = (await http.post(f"/threads/{thread_id}/runs", json=RUN)).json()
    await http.get(f"/threads/{thread_id}/runs/{run['run_id']}/join")
    later = (await http.post(f"/threads/{thread_id}/runs", json=RUN | {"after_seconds": 3600})).json()
    changes: dict[str, Callable[[], Awaitable[httpx.Response]]] = {
        "patch": lambda: http.patch(f"/threads/{thread_id}", json={"metadata": {"title": "Other"}}),
        "state": lambda: http.post(
            f"/threads/{thread_id}/state", json={"values": {"items": ["new"]}, "as_node": "first"}
        ),
        "copy": lambda: http.post(f"/threads/{thread_id}/copy"),
        "delete run": lambda: http.delete(f"/threads/{thread_id}/runs/{run['run_id']}"),
        "cancel": lambda: http.post(f"/threads/{thread_id}/runs/{later['run_id']}/cancel"),
        "conversation": lambda: http.post("/v1/conversations", json={}),
    }
    async with following(http) as events:
        answer = await changes[change]()
        assert answer.is_success, answer.text
        new = {"copy": "thread_id", "conversation": "id"}.get(change)
        shown = answer.json()[new].removeprefix("conv_").replace("-", "") if new else thread_id.replace("-", "")
        await events.until(lambda each: shown in {told.replace("-", "") for told in each.threads()})
        if change == "cancel":
            assert events.runs() == {later["run_id"]: "interrupted"}


async def test_a_deleted_thread_is_streamed(replicas: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> None:
    """Issue 17: its id, once, on the process that deleted it and on the other one."""
    here, there = replicas
    thread_id = await _new(here)
    async with following(here) as events, following(there) as elsewhere:
        await there.delete(f"/threads/{thread_id}")
        for each in (events, elsewhere):
            await each.until(lambda each: "thread_deleted" in each.names())
            assert each.told[-1][:2] == ("thread_deleted", {"thread_id": thread_id})


async def test_two_keys_see_only_their_own(settings: Settings, make_key: MakeKey) -> None:
    """Issue 17: ownership as on all routes; a deletion tells nothing either."""
    keyed = settings.model_copy(update={"auth_type": "api_key"})
    ada_key, bob_key = await make_key("ada"), await make_key("bob")
    async with serving(keyed) as url, _keyed(url, ada_key) as ada, _keyed(url, bob_key) as bob:
        async with following(ada) as of_ada, following(bob) as of_bob:
            adas, deleted = await _new(ada), await _new(ada)
            run_id = (await ada.post(f"/threads/{adas}/runs", json=RUN)).json()["run_id"]
            await of_ada.until(lambda each: each.runs() == {run_id: "success"})
            await ada.delete(f"/threads/{deleted}")
            await of_ada.until(lambda each: "thread_deleted" in each.names())
            bobs = await _new(bob)
            await of_bob.until(lambda each: bobs in each.threads())
            await bob.delete(f"/threads/{bobs}")
            await of_bob.until(lambda each: "thread_deleted" in each.names())
        assert of_bob.threads() == {bobs}
        assert of_bob.runs() == {}
        assert of_ada.threads() == {adas, deleted}


async def test_a_key_without_the_scope_is_refused(settings: Settings, make_key: MakeKey) -> None:
    """Issue 17: the policy of the route table."""
    keyed = settings.model_copy(update={"auth_type": "api_key"})
    key = await make_key("ada", "store.get")
    async with serving(keyed) as url, _keyed(url, key) as http:
        assert (await http.get("/events")).status_code == 403


async def test_streams_of_a_principal_are_bounded(settings: Settings, make_key: MakeKey) -> None:
    """Issue 17: they count as its other streams do."""
    keyed = settings.model_copy(update={"auth_type": "api_key", "max_streams_per_principal": 2})
    key = await make_key("ada")
    async with serving(keyed) as url, _keyed(url, key) as http, following(http), following(http):
        assert (await http.get("/events")).status_code == 429


async def test_a_stream_goes_on_after_its_last_event(http: httpx.AsyncClient) -> None:
    """Issue 17: the stream has the changes since the last event, and no earlier ones."""
    async with following(http) as events:
        first = await _new(http)
        await events.until(lambda each: first in each.threads())
    second = await _new(http)
    async with following(http, **{"last-event-id": events.last_id}) as again:
        await again.until(lambda each: second in each.threads())
    assert again.names() == ["thread"]


@pytest.mark.parametrize("event_id", ["0", "x", "deadbeef-1", "deadbeef-99999999999999999999", "-1"])
async def test_an_unknown_last_event_is_a_gap(http: httpx.AsyncClient, event_id: str) -> None:
    """Issue 17: a client that comes from another process reads everything again."""
    async with following(http, **{"last-event-id": event_id}) as events:
        await events.until(lambda each: each.names() == ["gap"])


async def test_more_changes_than_a_stream_may_hold_are_a_gap(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 17: bounded in bytes."""
    monkeypatch.setattr(change_stream, "MAX_NOTES", 3)
    async with following(http) as events:
        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(_new, http)
        await events.until(lambda each: each.names().count("gap") > 1)


async def test_a_large_thread_is_deleted_with_a_gap(http: httpx.AsyncClient) -> None:
    """Ours: its metadata would not fit into a notification."""
    thread_id = await _new(http, text="long " * 1000)
    async with following(http) as events:
        await http.delete(f"/threads/{thread_id}")
        await events.until(lambda each: each.names() == ["gap", "gap"])


def test_a_log_reports_dropped_changes() -> None:
    """Ours: the newest changes are kept. A reader that is further behind gets a gap."""
    log = ChangeLog()
    log.add([Change()] * (LOG_CHANGES + 10))
    position = log.last
    log.add([Change(deleted_metadata=str(each)) for each in range(3)])

    assert [change.deleted_metadata for change in log.after(position)] == ["0", "1", "2"]
    assert log.after(log.last) == []
    assert log.after(log.last - MAX_BATCH - 1) == [UNKNOWN]
    assert log.after(0) == [UNKNOWN]
    assert log.position_of(log.event_id) == log.last
    assert log.position_of(f"{log.epoch}-{log.last + 1}") is None


async def test_changes_that_could_not_be_sent_are_a_gap(settings: Settings) -> None:
    """Ours: for the streams of other processes, after a round without a free connection."""
    uri = str(settings.database_uri)
    single = settings.model_copy(update={"api_connections": 1})
    async with (
        open_api_pool(single, uri) as api,
        open_runs_pool(settings, uri) as runs,
        await psycopg.AsyncConnection.connect(uri, autocommit=True) as other,
    ):
        feed = ChangeFeed(api, runs, NotificationHub())
        await feed.run_once()
        await other.execute("LISTEN threadkeep")
        feed._note([Change(thread_id=UUID(int=1))])
        api.timeout = 0.2
        async with api.connection():
            with pytest.raises(PoolTimeout):
                await feed.run_once()
        feed._note([Change(thread_id=UUID(int=2))])
        await feed.run_once()
        sent = [notify.payload async for notify in other.notifies(timeout=WAIT_S, stop_after=1)]

    [[lost, noted]] = [json.loads(payload.partition(" ")[2])[1] for payload in sent]
    assert (lost, noted) == ([None, None, None], [str(UUID(int=2)), None, None])


def test_notifications_fit_into_postgres_limit() -> None:
    """Ours: 8,000 bytes with the topic, whatever the metadata."""
    notes = [Change(deleted_metadata=json.dumps({"name": "ü" * 450})) for _ in range(100)]

    sent = payloads("project", notes)

    assert max(len(payload.encode()) for payload in sent) < 8000
    assert sum(len(json.loads(payload.partition(" ")[2])[1]) for payload in sent) == 100


@pytest.mark.parametrize("switch", ["disable_runs", "disable_threads"])
async def test_without_threads_or_runs_there_are_no_events(settings: Settings, switch: str, tmp_path: Path) -> None:
    """Issue 17: off where either is switched off."""
    project = Project.model_validate({"root": tmp_path, "graphs": {"g": "g.py:g"}, "http": {switch: True}})
    async with serving(settings, project=project) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/events")).status_code == 404


async def test_changes_of_several_runs_share_a_notification(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 17: a run costs no statement and no NOTIFY more; a process sends its notes together."""
    sent: list[int] = []
    notify = change_stream.ChangeFeed._notify

    async def counted(feed: Any, messages: list[str]) -> None:
        sent.append(len(messages))
        await notify(feed, messages)

    monkeypatch.setattr(change_stream.ChangeFeed, "_notify", counted)
    thread_id = await _new(http)
    async with following(http) as events:
        sent.clear()
        with anyio.fail_after(WAIT_S * 4):
            for _ in range(30):
                await http.post(f"/threads/{thread_id}/runs/wait", json=RUN)
        await events.until(lambda each: len(each.runs()) == 30)
    assert len(sent) < 15
