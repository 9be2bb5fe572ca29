"""Thread stream: the events of all runs of a thread, in order, and its state updates between runs. It has no end."""

import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, TypeAlias, cast
from uuid import UUID

from threadkeep.base import json
from threadkeep.base.problems import AnswerTooLarge, CheckpointUnreadable, NotFound, StateInvalid
from threadkeep.graphs import Tenant
from threadkeep.postgres.listen import thread_topic
from threadkeep.postgres.retry import retry_conflicts
from threadkeep.runs.event_log import LogEvent
from threadkeep.runs.follow import Follower
from threadkeep.runs.stream_events import is_public
from threadkeep.tables import queue, runs, threads
from threadkeep.tables.runs import RunPosition
from threadkeep.threads import history
from threadkeep.threads.history import ThreadParts

log = logging.getLogger(__name__)

ThreadMode: TypeAlias = Literal["run_modes", "lifecycle", "state_update"]

RECORDING_S = 3600.0
"""Seconds after its end for which a run of a followed thread keeps its events."""
POLL_S = 5.0

UNREADABLE = (AnswerTooLarge, CheckpointUnreadable, NotFound, StateInvalid)
"""Reasons to leave out a state update. NotFound: this process does not serve the thread's graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadPosition:
    """A position in the thread stream: event `position` of the run that was created at `millisecond`."""

    millisecond: int
    position: int

    @property
    def event_id(self) -> str:
        """The SSE id, in the form of the reference server."""
        return f"{self.millisecond}-{self.position}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadEvent:
    """An event of a run's stream, or of the thread itself."""

    place: ThreadPosition
    name: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadStream:
    """The stream of one thread for one client."""

    follower: Follower
    parts: ThreadParts
    tenant: Tenant
    thread_id: UUID
    modes: Collection[ThreadMode]
    resume_from: ThreadPosition | None
    """The position to continue after. None: the stream begins now."""

    async def begin(self) -> AsyncGenerator[ThreadEvent]:
        """Return the thread's events from now on, or after `resume_from`. They end if the thread is deleted.

        The events of each run that is created after this call are among them, and each later state update.
        """
        position, active = await self._start()
        states = _StateUpdates(self.parts, self.tenant, self.thread_id, enabled="state_update" in self.modes)
        # The state before the stream is not new, so the result is dropped.
        await states.newest()
        return self._events(position, active, states)

    async def _start(self) -> tuple[int, list[RunPosition]]:
        """The queue position to continue after, and the active runs before it."""
        filters, thread_id, resume_from = self.tenant.filters, self.thread_id, self.resume_from
        async with self.follower.pool.connection(filters) as conn:
            # Before the position is read, so that the events of all later runs are recorded.
            await queue.record_thread_events(conn, filters, thread_id, RECORDING_S)
            if resume_from is None:
                position = await runs.last_position(conn, thread_id)
                active = await runs.list_positions(conn, thread_id, position=None)
                # A run that was created between the two statements comes after the position, and is found by it.
                return position, [run for run in active if run.queue_position <= position]
            # The id has the time of a process, and the row that of Postgres. A second covers a small difference.
            created_at = datetime.fromtimestamp(resume_from.millisecond / 1000, UTC) - timedelta(seconds=1)
            return await runs.last_position(conn, thread_id, created_before=created_at), []

    async def _events(
        self, position: int, active: list[RunPosition], states: "_StateUpdates"
    ) -> AsyncGenerator[ThreadEvent]:
        """Yield the events of the active runs and of the runs after `position`, and state updates between runs."""
        with self.follower.wakeups.subscribe(thread_topic(self.thread_id)) as signal:
            while True:
                new_runs = await retry_conflicts(partial(self._recorded_runs, position))
                if new_runs is None:
                    return
                recorded, active = active + new_runs, []
                for run in recorded:
                    # The active runs are older than the position.
                    position = max(position, run.queue_position)
                    async with aclosing(self._run(run)) as events:
                        async for event in events:
                            yield event
                if (update := await states.newest()) is not None:
                    yield update
                # Runs may have begun while the others were followed, so there is no wait after them.
                if not recorded:
                    await signal.wait(POLL_S)

    async def _recorded_runs(self, position: int) -> list[RunPosition] | None:
        """The runs after `position`. Their events are recorded from now on. None if the thread was deleted."""
        async with self.follower.pool.connection(self.tenant.filters) as conn:
            if not await queue.record_thread_events(conn, self.tenant.filters, self.thread_id, RECORDING_S):
                return None
            return await runs.list_positions(conn, self.thread_id, position=position)

    async def _run(self, run: RunPosition) -> AsyncGenerator[ThreadEvent]:
        """Yield one run's events and its end. Events up to `resume_from` are skipped."""
        resume_from = self.resume_from
        # A run id is a UUID of version 7, whose first 48 bits are the milliseconds of its creation.
        millisecond = run.run_id.int >> 80
        if resume_from is not None and millisecond < resume_from.millisecond:
            return
        position = resume_from.position if resume_from is not None and millisecond == resume_from.millisecond else 0
        async with aclosing(self.follower.events(self.tenant.filters, run.run_id, position)) as items:
            async for item in items:
                position = item.position
                if isinstance(item, LogEvent) and _wants(item.name, self.modes):
                    place = ThreadPosition(millisecond=millisecond, position=position)
                    yield ThreadEvent(place=place, name=item.name, data=item.data)
        if resume_from is None or millisecond != resume_from.millisecond or position >= resume_from.position:
            data = json.dumps({"status": "run_done", "run_id": run.run_id})
            place = ThreadPosition(millisecond=millisecond, position=position + 1)
            yield ThreadEvent(place=place, name="metadata", data=data)


def _wants(name: str, modes: Collection[ThreadMode]) -> bool:
    return ("run_modes" in modes and is_public(name)) or ("lifecycle" in modes and name == "metadata")


class _StateUpdates:
    """Reads the updates of the thread's state that come from a client and not from a run."""

    def __init__(self, parts: ThreadParts, tenant: Tenant, thread_id: UUID, *, enabled: bool) -> None:
        self._parts = parts
        self._tenant = tenant
        self._thread_id = thread_id
        self._enabled = enabled
        self._seen: object = None
        self._has_warned = False

    async def newest(self) -> ThreadEvent | None:
        """The newest state as an event. None if it is no update, was already returned or can't be read."""
        if not self._enabled:
            return None
        filters = self._tenant.filters
        async with self._parts.pool.connection(filters) as conn:
            thread = await threads.get(conn, filters, self._thread_id)
        if thread is None:
            return None
        try:
            state = (await history.get_state(self._parts, self._tenant, thread)).state
        except UNREADABLE as refusal:
            # Once for each stream, because each round would repeat it.
            if not self._has_warned:
                fields = {"thread_id": str(self._thread_id), "reason": refusal.code}
                log.warning("state of a thread not sent to its stream", extra=fields)
            self._has_warned = True
            return None
        previous, self._seen = self._seen, state["checkpoint_id"]
        metadata = cast("dict[str, object]", state["metadata"])
        if previous == self._seen or metadata.get("source") != "update":
            return None
        place = ThreadPosition(millisecond=int(datetime.now(UTC).timestamp() * 1000), position=0)
        data = json.dumps({"state": state, "thread_id": self._thread_id})
        return ThreadEvent(place=place, name="state_update", data=data)
