"""Follow a thread: all its runs, one after the other, and the changes of its state between them. It never ends."""

import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, TypeAlias, cast
from uuid import UUID

from threadkeep.base import json
from threadkeep.base.problems import AnswerTooLarge, StateInvalid
from threadkeep.graphs import Tenant
from threadkeep.postgres.listen import thread_topic
from threadkeep.postgres.retry import retry_conflicts
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.event_log import LogEvent
from threadkeep.runs.follow import Follower
from threadkeep.tables import queue, runs, threads
from threadkeep.tables.runs import RunPosition
from threadkeep.threads import history
from threadkeep.threads.history import ThreadParts

log = logging.getLogger(__name__)

ThreadMode: TypeAlias = Literal["run_modes", "lifecycle", "state_update"]

RECORDING_S = 3600.0
"""For how long runs of a followed thread keep their events, from each run's end on."""
POLL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadPosition:
    """Where a reader of the thread stands: `position` in the stream of a run made at `millisecond`."""

    millisecond: int
    position: int

    @property
    def event_id(self) -> str:
        """As it is sent: the reference's form."""
        return f"{self.millisecond}-{self.position}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadEvent:
    """An event of a run's stream, or of the thread itself."""

    place: ThreadPosition
    name: str
    data: bytes


async def follow_thread(
    follower: Follower,
    parts: ThreadParts,
    tenant: Tenant,
    thread_id: UUID,
    *,
    modes: Collection[ThreadMode],
    after: ThreadPosition | None,
) -> AsyncGenerator[ThreadEvent]:
    """What goes on on the thread behind `after`; without it, from now on. Ends where the thread is gone."""
    filters = tenant.filters
    with follower.wakeups.subscribe(thread_topic(thread_id)) as signal:
        position, running = await _start(follower, filters, thread_id, after)
        states = _StateUpdates(parts, tenant, thread_id, wanted="state_update" in modes)
        await states.newest()
        while True:
            newer = await retry_conflicts(partial(_recorded_runs, follower, filters, thread_id, position))
            if newer is None:
                return
            found, running = running + newer, []
            for run in found:
                position = max(position, run.queue_position)
                async with aclosing(_run(follower, filters, run, modes=modes, after=after)) as events:
                    async for event in events:
                        yield event
            if (update := await states.newest()) is not None:
                yield update
            if not found:
                await signal.wait(POLL_S)


async def _recorded_runs(
    follower: Follower, filters: Filters, thread_id: UUID, position: int
) -> list[RunPosition] | None:
    """The runs behind `position`, whose events are kept from now on. None if the thread is gone."""
    async with follower.pool.connection(filters) as conn:
        if not await queue.record_thread_events(conn, filters, thread_id, RECORDING_S):
            return None
        return await runs.list_positions(conn, thread_id, after=position)


async def _start(
    follower: Follower, filters: Filters, thread_id: UUID, after: ThreadPosition | None
) -> tuple[int, list[RunPosition]]:
    """The queue position to go on from, and the runs before it that are still going on."""
    async with follower.pool.connection(filters) as conn:
        if after is None:
            return await runs.last_position(conn, thread_id), await runs.list_positions(conn, thread_id, after=None)
        made = datetime.fromtimestamp(after.millisecond / 1000, UTC) - timedelta(seconds=1)
        return await runs.last_position(conn, thread_id, before=made), []


async def _run(
    follower: Follower,
    filters: Filters,
    run: RunPosition,
    *,
    modes: Collection[ThreadMode],
    after: ThreadPosition | None,
) -> AsyncGenerator[ThreadEvent]:
    """One run's events and its end. Of what a returning reader has had, nothing again."""
    millisecond = run.run_id.int >> 80
    if after is not None and millisecond < after.millisecond:
        return
    position = after.position if after is not None and millisecond == after.millisecond else 0
    async with aclosing(follower.events(filters, run.run_id, position)) as items:
        async for item in items:
            position = item.position
            if isinstance(item, LogEvent) and _wants(item.name, modes):
                place = ThreadPosition(millisecond=millisecond, position=position)
                yield ThreadEvent(place=place, name=item.name, data=item.data)
    if after is None or millisecond != after.millisecond or position >= after.position:
        data = json.dumps({"status": "run_done", "run_id": run.run_id})
        place = ThreadPosition(millisecond=millisecond, position=position + 1)
        yield ThreadEvent(place=place, name="metadata", data=data)


def _wants(name: str, modes: Collection[ThreadMode]) -> bool:
    return "run_modes" in modes or ("lifecycle" in modes and name == "metadata")


class _StateUpdates:
    """The updates of the thread's state that no run made."""

    def __init__(self, parts: ThreadParts, tenant: Tenant, thread_id: UUID, *, wanted: bool) -> None:
        self._parts = parts
        self._tenant = tenant
        self._thread_id = thread_id
        self._wanted = wanted
        self._seen: object = None

    async def newest(self) -> ThreadEvent | None:
        """The newest state, where it is an update that was not told yet."""
        if not self._wanted:
            return None
        filters = self._tenant.filters
        async with self._parts.pool.connection(filters) as conn:
            thread = await threads.get(conn, filters, self._thread_id)
        if thread is None:
            return None
        try:
            state = (await history.get_state(self._parts, self._tenant, thread)).state
        except (AnswerTooLarge, StateInvalid) as refusal:
            told = {"thread_id": str(self._thread_id), "reason": refusal.code}
            log.warning("a state can't be told of", extra=told)
            return None
        known, self._seen = self._seen, state["checkpoint_id"]
        metadata = cast("dict[str, object]", state["metadata"])
        if known == self._seen or metadata.get("source") != "update":
            return None
        place = ThreadPosition(millisecond=int(datetime.now(UTC).timestamp() * 1000), position=0)
        data = json.dumps({"state": state, "thread_id": self._thread_id})
        return ThreadEvent(place=place, name="state_update", data=data)
