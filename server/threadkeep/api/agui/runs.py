"""Runs: the endpoint of AG-UI, and the stream that it answers with."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4, uuid5

from anyio import to_thread
from pydantic import ValidationError
from starlette.responses import Response

from threadkeep.api.agents.assistants import agent_id
from threadkeep.api.agents.content import fields_of
from threadkeep.api.agents.marks import marks_of, run_marks
from threadkeep.api.agents.questions import questions_of
from threadkeep.api.agents.repeated_requests import start_once
from threadkeep.api.agents.run_end import run_end
from threadkeep.api.agents.thread_ids import NAMESPACE, named_thread_id
from threadkeep.api.agents.thread_reader import ThreadReader
from threadkeep.api.agui.continuation import RESUME_MARK, SameRun, answers_digest, continued
from threadkeep.api.agui.errors import RunRefused
from threadkeep.api.agui.events import MODES, RunEvents, RunHead, error_frame
from threadkeep.api.agui.run_input import RunBody, RunInput, RunQuery, read_input
from threadkeep.api.langgraph.runs import RESERVED_CONFIG_KEYS
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import run_headers
from threadkeep.api.streaming import EventStream, StreamReader
from threadkeep.base import json
from threadkeep.base.problems import (
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    Problem,
    ServiceUnavailable,
    ValidationFailed,
)
from threadkeep.postgres.retry import TRANSIENT_ERRORS
from threadkeep.runs.event_log import Gap
from threadkeep.runs.request import Command, GraphRunOptions, RunRequest, SurfaceRunOptions
from threadkeep.runs.service import Authorized, RunHandle
from threadkeep.tables import runs, workers

log = logging.getLogger(__name__)

GRACE_S: Final = 5.0
"""Seconds between a client's disconnect and the stop of its run, unless the client reconnects."""
READERS_MARK: Final = "readers"
"""The mark of a run with the connections of its client: id -> the process that has it."""

Call = AuthorizedRequest[RunBody, RunQuery]
Item = TypeVar("Item")


async def run(call: Call) -> Response:
    """POST /ag-ui/{assistant_id}: run an assistant on the thread of a page, and stream the events of AG-UI.

    If you send the same `threadId` and `runId` again, you get the events of the same run from its first one. If you
    disconnect and do not come back within 5 seconds, the run is stopped, unless `on_disconnect` is `continue`.
    """
    sent = read_input(call.body)
    # 404 for an unknown agent, before anything is looked up or answered with a stream.
    agent_id(call.assistants, call.request.path_params["assistant_id"])
    head = RunHead(thread_id=sent.thread_id, run_id=sent.run_id, parent_run_id=sent.parent_run_id)
    reader_id = str(uuid4())
    try:
        handle = await _handle(call, sent, reader_id)
    except RunRefused as refusal:
        return RunStream(_refused(head, refusal), call)
    reading = StreamReader(handle.execution, call.state.settings)
    frames = _frames(call, handle, RunEvents(head), reading)
    is_own = await _take_up(call, handle, reader_id)
    left = Left(call, handle, reader_id) if is_own and call.query.on_disconnect == "cancel" else None
    return RunStream(frames, call, headers=run_headers(handle.thread_id, handle.run_id), left=left, reading=reading)


async def _handle(call: Call, sent: RunInput, reader_id: str) -> RunHandle:
    """The run that the request names, or a new one. NotFound if the agent or the thread is not the caller's."""
    service = call.state.runs
    thread_id = named_thread_id(call, sent.thread_id, "threadId")
    value: dict[str, Any] = {"thread_id": thread_id, "run_id": None, "metadata": {}}
    # The stream shows the state of the thread, so the permission to run on it is not enough.
    readable = await call.authorize("threads.read", value)
    authorized = await service.authorize(call.caller, _request(call, sent, thread_id, reader_id))
    reader = ThreadReader(call=call, filters=readable.narrowed(authorized.threads))
    existing, thread = await reader.look(thread_id, _run_ids(authorized.request, sent.run_id))
    if existing:
        return service.handle_of(reader.filters, existing[0])
    # The thread was read just now, so the first try needs no second query.
    looks = [thread]

    async def prepare(allowed: Authorized) -> Authorized:
        seen = looks.pop() if looks else await reader.thread(thread_id)  # another try has to look again
        return await continued(reader, sent, allowed, seen)

    async def start() -> RunHandle:
        return await service.start_authorized(call.caller, authorized, prepare)

    try:
        return await start_once(call, reader.filters, thread_id, start)
    except SameRun as same:
        return service.handle_of(reader.filters, same.run)
    except IdempotencyKeyReused:
        raise RunRefused("the question already has another answer", "unknown_interrupt") from None
    except IdempotencyKeyInUse:
        raise RunRefused("another answer to the question is still being processed", "unknown_interrupt") from None


def _run_ids(request: RunRequest, run_id: str) -> list[UUID]:
    """Return the possible ids of the run: one made from the client's id, or the client's own id, of any surface."""
    ids = [] if request.run_id is None else [request.run_id]
    try:
        return [*ids, UUID(run_id)]
    except ValueError:
        return ids


def _request(call: Call, sent: RunInput, thread_id: UUID, reader_id: str) -> RunRequest:
    """Return the run request before the thread is read."""
    readers = {reader_id: str(call.state.runs.executor.lease.worker_id)}
    own: dict[str, Any] = {"thread_id": sent.thread_id, "run_id": sent.run_id, READERS_MARK: readers}
    if sent.is_answer:
        own[RESUME_MARK] = answers_digest(sent).hex()
    metadata: dict[str, Any] = sent.config.get("metadata") or {}
    return RunRequest(
        spec=_spec(sent),
        assistant=call.request.path_params["assistant_id"],
        thread_id=thread_id,
        # Made from the client's id, so a repeated request finds its run by the primary key. Another thread's is another
        # run.
        run_id=uuid5(NAMESPACE, "\n".join(("run", call.state.settings.project_id, str(thread_id), sent.run_id))),
        # A client must not set the keys by which the server names the run.
        metadata={key: value for key, value in metadata.items() if key not in RESERVED_CONFIG_KEYS},
        marks=run_marks("ag-ui", own),
        create_thread=True,
        resumable=True,
        read_by_caller=True,
        configurable={**call.forwarded_headers, "ag_ui": sent.page},
    )


def _spec(sent: RunInput) -> GraphRunOptions:
    """Return the options of the graph's call. Handlers of a project's own `Auth` see them. Raise ValidationFailed."""
    fields: dict[str, Any] = {"config": sent.config, "stream_mode": list(MODES), "direct_events": True}
    if sent.is_answer:
        fields["command"] = Command(resume=sent.older_answer if sent.answers is None else dict(sent.answers))
    else:
        fields["input"] = {**fields_of(sent.state), "messages": sent.messages}
    try:
        return SurfaceRunOptions(**fields)
    except ValidationError as error:
        raise ValidationFailed(f"forwardedProps.config: {error.errors()[0]['msg']}") from None


async def _take_up(call: Call, handle: RunHandle, reader_id: str) -> bool:
    """Record this connection on the run. Return False if another surface started the run, which then continues without readers."""
    if handle.run is None:
        return False
    marks = marks_of(handle.run.metadata.load(), "ag-ui")
    if marks is None:
        return False
    # The request that has started the run wrote its connection with the row already.
    if reader_id not in (marks.get(READERS_MARK) or {}):
        worker_id = str(call.state.runs.executor.lease.worker_id)
        async with call.state.pool.connection(handle.filters) as conn:
            await runs.set_mark(conn, handle.filters, handle.run_id, _reader_path(reader_id), worker_id)
    return True


def _reader_path(reader_id: str) -> tuple[str, str, str]:
    return "ag_ui", READERS_MARK, reader_id


async def _frames(call: Call, handle: RunHandle, events: RunEvents, reading: StreamReader) -> AsyncGenerator[bytes]:
    """Yield the frames of a run. If this process stops, they end without an event, so that the client reconnects."""
    yield json.one_line(events.head.frame())
    largest = 0
    try:
        # From the first event, also if the client comes back: the page builds its messages anew from the events.
        async with aclosing(handle.events()) as items:
            async for item in items:
                reading.position = item.position
                size = 0 if isinstance(item, Gap) else len(item.data)
                largest = max(largest, size)
                if frames := await _apart(size, events.read, item):
                    yield json.one_line(frames)
        end = await run_end(handle)
        # The page must end with the true state, and a gap or deleted events do not have it.
        if end.is_success and events.is_incomplete:
            await _read_state(call, handle, events)
        yield json.one_line(await _apart(largest, events.finish, end))
    except ServiceUnavailable:
        # A stopping process is no failure: without an end of the body the client reconnects elsewhere.
        if not call.state.signals.leaving.is_set():
            yield error_frame("the run was deleted", "deleted")
    except TRANSIENT_ERRORS:
        log.warning("stream ended: the database connection was lost", exc_info=True)
        yield error_frame(ServiceUnavailable().detail, ServiceUnavailable.code)


async def _apart(size: int, read: Callable[[Item], bytes], item: Item) -> bytes:
    """Call `read`, in a thread if it has to read a large state, whose difference to the one before takes long."""
    return read(item) if size <= json.INLINE_BYTES else await to_thread.run_sync(read, item)


async def _read_state(call: Call, handle: RunHandle, events: RunEvents) -> None:
    """Take the state at the end from the thread, because its events were deleted or do not contain it."""
    async with call.state.pool.connection(handle.filters) as conn:
        stored = await runs.get_result(conn, handle.filters, handle.thread_id, handle.run_id)
    if stored is not None and stored.values is not None:
        events.set_state(await json.loads_apart(stored.values.raw), questions_of(stored.interrupts.load()))


async def _refused(head: RunHead, refusal: RunRefused) -> AsyncGenerator[bytes]:
    """The frames of a run that was not started."""
    yield json.one_line(head.frame() + error_frame(refusal.detail, refusal.reason))


@dataclass(frozen=True, slots=True)
class Left:
    """A client that has disconnected from its run. The run is stopped unless a client follows it."""

    call: Call
    handle: RunHandle
    reader_id: str

    def stop_soon(self) -> None:
        """Stop the run after a grace, unless it has ended or a client follows it at any process. Returns at once."""
        self.call.state.runs.cancel_later(self.handle, GRACE_S, "the client disconnected", self._was_last)

    async def _was_last(self) -> bool:
        """Remove this connection. Return whether the run has no other connection at a live process."""
        pool, handle = self.call.state.pool, self.handle
        async with pool.connection(handle.filters) as conn:
            others = await runs.remove_mark(conn, handle.filters, handle.run_id, _reader_path(self.reader_id))
        if not others:
            # None: the run has ended or was deleted, so there is nothing to stop.
            return others is not None
        async with pool.connection() as conn:
            # A process that crashed left its connections in the marks. They must not hold the run for good.
            return not await workers.any_lives(conn, [UUID(worker_id) for worker_id in others.values()])


class RunStream(EventStream):
    """Sends the frames of a run. Lines end in LF, because AG-UI clients split a stream at two LF."""

    heartbeat = b": heartbeat\n\n"
    shutdown_retry = b": the server is stopping\n\n"

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        call: Call,
        *,
        headers: dict[str, str] | None = None,
        left: Left | None = None,
        reading: StreamReader | None = None,
    ) -> None:
        """`left` is called if the client disconnects. None: nothing happens."""
        super().__init__(frames, call, headers=headers or {}, cancels=left.handle if left else None, reading=reading)
        self._left = left

    async def _cancel(self) -> None:
        if self._left is not None:
            self._left.stop_soon()

    def _refusal(self, problem: Problem) -> bytes:
        return error_frame(problem.detail, problem.code)
