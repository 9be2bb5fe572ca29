"""Run service: starts, enqueues, follows, cancels and deletes runs for every API surface and for crons.

An API surface turns its request into a `RunRequest`, and a `RunHandle` into bytes. Every policy is applied here, in
this order: authorization of each resource, quota, idempotency, webhook policy, assistant, slot or queue.

A foreground run takes its slot before it gets its row. So a row is never `running` without a slot. If its thread is
busy, the run waits in the queue, and its slot is released at once. A process of the role `api` runs no graph, so there
each run waits in the queue for a process that does.
"""

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

import anyio
from pydantic import BaseModel

from threadkeep.auth.authenticator import AuthValue
from threadkeep.auth.authorization import AuthEvent, Condition, Operation, permissions
from threadkeep.auth.caller import Caller
from threadkeep.base import ids, json
from threadkeep.base.fair_limiter import ANONYMOUS
from threadkeep.base.json import RawJson
from threadkeep.base.problems import (
    ContentTooLarge,
    Forbidden,
    IdempotencyKeyInUse,
    NotFound,
    ServiceUnavailable,
    ThreadBusy,
    ThreadExists,
)
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.retry import retry_conflicts
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.runs.assistants import AssistantCache, ResolvedAssistant
from threadkeep.runs.event_log import EventLog, LogItem
from threadkeep.runs.execution import Execution
from threadkeep.runs.executor import Executor
from threadkeep.runs.follow import Follower
from threadkeep.runs.idempotency import GONE, IdempotencyKeys, KeyedResult
from threadkeep.runs.quotas import Quotas
from threadkeep.runs.request import GraphRunOptions, RunRequest, SurfaceRunOptions, check_config
from threadkeep.runs.slots import Slot, Slots
from threadkeep.runs.webhook_policy import WebhookPolicy
from threadkeep.tables import cancels, idempotency_keys, run_creation, runs, threads
from threadkeep.tables.cancels import RunSelection
from threadkeep.tables.idempotency_keys import IdempotencyKey
from threadkeep.tables.queue import ClaimedRun
from threadkeep.tables.run_creation import NewRun, RunCreation, RunCreator
from threadkeep.tables.runs import CancelAction, Run
from threadkeep.tables.threads import Ttl

log = logging.getLogger(__name__)

SPEC_FIELDS: Final = set(GraphRunOptions.model_fields)
STORED_FIELDS: Final = set(SurfaceRunOptions.model_fields)
NOT_CREATED: Final = RunCreation(
    run=None, thread_found=False, thread_created=False, record_events=False, active_run_id=None, superseded_run_ids=()
)
LOST_IN_CRASH: Final = "the database crashed before the run was on disk: send it again"


class _RunExists(IdempotencyKeyInUse):
    """A run with the id of the new run exists on its thread. Without an id of its own, two requests used one key."""

    def __init__(self, new: NewRun) -> None:
        super().__init__("another request with this Idempotency-Key started at the same time")
        self.ids = new.thread_id, new.run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorized:
    """A run request after authorization, which may change it, and the filters of each resource that it uses."""

    request: RunRequest
    threads: Filters = UNRESTRICTED
    assistants: Filters = UNRESTRICTED


Prepare: TypeAlias = Callable[[Authorized], Awaitable[Authorized]]
"""Completes a request with data that the caller may read, after authorization and before admission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A run request that has passed every check except for a slot and its thread."""

    request: RunRequest
    filters: Filters
    """The filters of its thread."""
    assistant: ResolvedAssistant
    user: Mapping[str, Any] | None
    """The user that the graph gets. None if authentication is off."""
    parent: Slot | None = None
    """The slot of the graph that sent the request. None if a client sent it."""
    run_id: UUID | None = None
    """The id that is reserved with the idempotency key. None if there is no key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHandle:
    """A run handle: waits for a run, reads its events, or cancels it."""

    run_id: UUID
    thread_id: UUID
    run: Run | None
    """Its row. None for a run that is executed in memory only."""
    execution: Execution | None
    """Its execution, if this process executes it."""
    filters: Filters
    follower: Follower
    stop: Callable[[str], Awaitable[None]]

    async def result(self) -> bytes:
        """Wait for the run's answer as JSON. ServiceUnavailable if this process stops first."""
        execution, follower = self.execution, self.follower
        if execution is None:
            return await follower.answer(self.filters, self.thread_id, self.run_id)
        if outcome := await execution.wait_result():
            return outcome.answer
        if self.run is None or follower.signals.stopping.is_set():
            raise ServiceUnavailable("the server is stopping")
        try:  # another process owns it now
            return await follower.answer(self.filters, self.thread_id, self.run_id)
        except NotFound:
            if execution.cancellation:
                raise
            raise ServiceUnavailable(LOST_IN_CRASH) from None

    def events(self, start_position: int | None = 0, *, in_batches: bool = False) -> AsyncGenerator[LogItem, None]:
        """Yield the run's events after `start_position` until it ends. None skips the events so far.

        `in_batches`: wait for many events or for the end, which costs less for a reader that needs the whole.
        """
        if self.execution is not None and self.run is None:  # it has no row, so only this process has its events
            log = self.execution.log
            log.is_wanted = True
            start = log.last_position if start_position is None else start_position
            return log.follow(start, in_batches=in_batches)
        return self.follower.events(self.filters, self.run_id, start_position, self.execution, in_batches=in_batches)

    def recorded_events(self) -> AsyncGenerator[LogItem, None]:
        """Yield the run's events from the first one on, as they are recorded, until it ends."""
        return self.follower.recorded_events(self.filters, self.run_id)

    async def ended(self) -> None:
        """Wait until the run has ended or was deleted."""
        await self.follower.ended(self.filters, self.run_id)

    async def cancel(self, reason: str) -> None:
        """Stop the run if it has not ended."""
        await self.stop(reason)

    async def confirm(self) -> None:
        """ServiceUnavailable if the run is not in Postgres. A crash may lose a run that was created without a flush."""
        execution = self.execution
        if self.run is None or execution is None:
            return
        if await self.follower.status(self.filters, self.run_id) is None and not execution.cancellation:
            raise ServiceUnavailable(LOST_IN_CRASH)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunService:
    """The run service of one process, shared by all API surfaces and crons."""

    pool: Pool
    slots: Slots
    run_creator: RunCreator
    executor: Executor
    follower: Follower
    assistants: AssistantCache
    quotas: Quotas
    keys: IdempotencyKeys
    webhooks: WebhookPolicy
    thread_ttl: Ttl | None
    """The TTL of a new thread without a TTL of its own."""
    ephemeral_ttl_s: float
    """Seconds after which the thread of a stateless run is deleted."""
    metadata_bytes: int
    """The most bytes in the metadata, config or context of a run."""
    batch_bytes: int
    """The most bytes that assistants may add to the runs of a batch, because its answer contains all of them."""
    max_recursion: int
    executes_runs: bool = True
    """False: all runs wait in the queue for another process."""

    async def start(self, caller: Caller, request: RunRequest) -> RunHandle:
        """Start a run now. Put it in the queue if its thread is busy, or if this process runs no graphs.

        QueueFull if there is no slot, NotFound if there is no thread, ThreadBusy if the strategy is `reject`, ThreadExists
        if the thread was to be a new one.
        """
        if request.after_s > 0:
            return await self.enqueue(caller, request)
        return await self.start_authorized(caller, await self.authorize(caller, request))

    async def start_authorized(
        self, caller: Caller, authorized: Authorized, prepare: Prepare | None = None
    ) -> RunHandle:
        """Start a run for an authorized request. `prepare` completes the request unless its idempotency key was used."""
        if not self.executes_runs:
            return await self.enqueue_authorized(caller, authorized, prepare)
        if caller.identity is None:
            return await self._admit(caller, authorized, self._start, prepare)
        # Counted only until the run has an execution, which `hold_run` also counts.
        with self.quotas.hold_run(caller.identity):
            return await self._admit(caller, authorized, self._start, prepare)

    async def start_soon(self, caller: Caller, request: RunRequest) -> RunHandle:
        """Start a run now if a slot is free, else put it in the queue. For a client that does not wait for it."""
        return await self.start_soon_authorized(caller, await self.authorize(caller, request))

    async def start_soon_authorized(
        self, caller: Caller, authorized: Authorized, prepare: Prepare | None = None
    ) -> RunHandle:
        """Start an authorized run now if a slot is free, else put it in the queue. `prepare` as in `start_authorized`."""
        if authorized.request.after_s > 0 or not self.slots.is_free(_holder(caller.user)):
            return await self.enqueue_authorized(caller, authorized, prepare)
        return await self.start_authorized(caller, authorized, prepare)

    async def enqueue(self, caller: Caller, request: RunRequest) -> RunHandle:
        """Put a run in the queue, for any process with a free slot. NotFound and ThreadBusy as in `start`."""
        return await self.enqueue_authorized(caller, await self.authorize(caller, request))

    async def enqueue_authorized(
        self, caller: Caller, authorized: Authorized, prepare: Prepare | None = None
    ) -> RunHandle:
        """Put a run in the queue for an authorized request. `prepare` as in `start_authorized`."""
        await self.quotas.check_queue(caller.identity, 1)
        return await self._admit(caller, authorized, self._enqueue, prepare)

    async def enqueue_batch(self, caller: Caller, requests: Sequence[RunRequest]) -> list[Run]:
        """Put runs in the queue, each on a new thread. With an idempotency key, all of them or none.

        ContentTooLarge if their assistants would add too many bytes to them.
        """
        authorized = [await self.authorize(caller, request) for request in requests]
        await self.quotas.check_queue(caller.identity, len(requests))
        # One key is for the whole batch, so each request has it.
        if (key := requests[0].key) is not None:
            return await self._enqueue_batch_once(caller, authorized, key)
        admitted = [await self._checked(caller, item) for item in authorized]  # check all before creating the first
        self._check_batch(admitted)
        handles = [await self._enqueue(item) for item in admitted]
        return [handle.run for handle in handles if handle.run is not None]

    async def fire(self, conn: Conn, admitted: Admitted) -> Run | None:
        """Put the run of a cron in the queue, in the caller's transaction on `conn`.

        None if its thread was deleted, or is busy and the strategy is `reject`. Superseded runs are notified when the
        transaction commits. Raises QueueFull, TooManyRequests or ValidationFailed.
        """
        await self.quotas.check_queue(None if admitted.user is None else admitted.user["identity"], 1)
        # The cron may be older than the present limits.
        self._check(admitted.request)
        check_config({**admitted.assistant.config, **admitted.request.spec.config}, self.max_recursion)
        creation = await self._create_and_count(conn, admitted)
        return creation.run

    async def authorize(self, caller: Caller, request: RunRequest) -> Authorized:
        """Check every permission that the run needs. Raises Forbidden."""
        if caller.authenticator is None:
            return Authorized(request=request)
        assistant_id = self.assistants.id_of(request.assistant)
        conditions = _conditions(request, is_own=self.assistants.is_of_graph(assistant_id))
        threads = assistants = UNRESTRICTED
        for permission in permissions("run.start", conditions):
            # Only a custom authenticator reads the value, which takes a dump of the whole request.
            value = _value(permission.event, request, assistant_id) if caller.authenticator.reads_values else {}
            filters = await caller.authorize(permission.event, value)
            if permission.resource == "assistant":
                assistants = filters
                continue
            threads = threads.narrowed(filters)
            if caller.authenticator.reads_values:
                request = _changed(request, permission.event, value)
        return Authorized(request=request, threads=threads, assistants=assistants)

    async def get(self, caller: Caller, thread_id: UUID, run_id: UUID) -> Run:
        """The row of a run. Raises NotFound."""
        filters = await _allowed(caller, "run.read", {"thread_id": thread_id, "run_id": run_id})
        return await self._row(filters, thread_id, run_id)

    async def follow(self, caller: Caller, thread_id: UUID, run_id: UUID, *, may_cancel: bool = False) -> RunHandle:
        """A handle for an existing run. `may_cancel`: a disconnect of the client stops the run. Raises NotFound."""
        value = {"thread_id": thread_id, "run_id": run_id, "action": "interrupt"}
        conditions: frozenset[Condition] = frozenset({"the run is cancelled on disconnect"} if may_cancel else ())
        filters = await _allowed(caller, "run.follow", value, conditions)
        if execution := self._in_memory(filters, thread_id, run_id):
            return self._handle(filters, None, execution)
        run = await self._row(filters, thread_id, run_id)
        return self._handle(filters, run, self.executor.executions.get(run_id))

    def handle_of(self, filters: Filters, run: Run) -> RunHandle:
        """A run whose row a caller has read with these filters."""
        return self._handle(filters, run, self.executor.executions.get(run.run_id))

    async def cancel(self, caller: Caller, target: RunSelection, action: CancelAction, reason: str) -> int:
        """Stop the selected runs and return their number. A notification stops those in other processes."""
        filters = await _allowed(caller, "run.cancel", {"thread_id": target.thread_id, "action": action})
        return await self.cancel_authorized(filters, target, action, reason)

    async def cancel_authorized(self, filters: Filters, target: RunSelection, action: CancelAction, reason: str) -> int:
        """Stop the selected runs of an authorized caller and return their number."""
        return await self._cancel(filters, target, action, reason)

    async def cancel_one(
        self, caller: Caller, thread_id: UUID, run_id: UUID, *, action: CancelAction, reason: str
    ) -> RunHandle:
        """Stop one run. NotFound if there is none or it has ended."""
        filters = await _allowed(caller, "run.cancel", {"thread_id": thread_id, "run_id": run_id, "action": action})
        if execution := self._in_memory(filters, thread_id, run_id):
            execution.cancel(action, reason)
            return self._handle(filters, None, execution)
        run = await self._row(filters, thread_id, run_id)
        target = RunSelection(thread_id=thread_id, run_ids=[run_id])
        if not await self._cancel(filters, target, action, reason):
            raise NotFound("No matching runs to cancel: the run has ended")
        return self._handle(filters, run)

    def cancel_later(
        self, handle: RunHandle, grace_s: float, reason: str, is_left: Callable[[], Awaitable[bool]]
    ) -> None:
        """Stop a run `grace_s` seconds from now if it has not ended and `is_left` then returns true. Returns at once."""

        async def cancel() -> None:
            try:
                with anyio.move_on_after(grace_s):
                    await handle.ended()
                    return
                if await is_left():
                    await handle.cancel(reason)
            except Exception:
                log.exception("run without a client not stopped", extra={"run_id": str(handle.run_id)})

        self.executor.executions.start_task(cancel(), name=f"cancel {handle.run_id} later")

    async def cancel_if_active(self, caller: Caller, thread_id: UUID, run_id: UUID, *, reason: str) -> RunHandle:
        """Stop one run, unless it has ended. Raises NotFound."""
        filters = await _allowed(
            caller, "run.cancel", {"thread_id": thread_id, "run_id": run_id, "action": "interrupt"}
        )
        run = await self._row(filters, thread_id, run_id)
        await self._cancel(filters, RunSelection(thread_id=thread_id, run_ids=[run_id]), "interrupt", reason)
        return self._handle(filters, run)

    async def delete(
        self, caller: Caller, thread_id: UUID, run_id: UUID, *, own_thread: Mapping[str, Any] | None = None
    ) -> None:
        """Delete a run. A running one is stopped first. Raises NotFound.

        Its thread goes with its last run if the thread's metadata contains `own_thread`.
        """
        filters = await _allowed(caller, "run.delete", {"thread_id": thread_id, "run_id": run_id})
        await self._row(filters, thread_id, run_id)
        target = RunSelection(thread_id=thread_id, run_ids=[run_id])
        await self._cancel(filters, target, "interrupt", "the run was deleted")
        # A running run may be in another process, which has to end it first.
        await self.follower.ended(filters, run_id)
        async with self.pool.connection(filters) as conn:
            await runs.delete(conn, filters, thread_id, run_id)
            if own_thread is not None:
                await threads.delete_without_runs(conn, filters, thread_id, own_thread)

    async def _admit(
        self,
        caller: Caller,
        authorized: Authorized,
        open_run: Callable[[Admitted], Awaitable[RunHandle]],
        prepare: Prepare | None = None,
    ) -> RunHandle:
        """Create a run by `open_run`. A repeated request with the same id or idempotency key gets the same run."""
        request = authorized.request
        if request.run_id is None:
            return await self._admit_by_key(caller, authorized, open_run, prepare)
        try:
            return await self._admit_by_key(caller, authorized, open_run, prepare)
        except _RunExists as existing:
            thread_id, run_id = existing.ids
        return self.handle_of(authorized.threads, await self._row(authorized.threads, thread_id, run_id))

    async def _admit_by_key(
        self,
        caller: Caller,
        authorized: Authorized,
        open_run: Callable[[Admitted], Awaitable[RunHandle]],
        prepare: Prepare | None,
    ) -> RunHandle:
        """Create a run by `open_run`. A repeated request with the same idempotency key gets the same run."""
        request = authorized.request
        if request.key is None:
            authorized = authorized if prepare is None else await prepare(authorized)
            if authorized.request.key is None:
                return await open_run(await self._checked(caller, authorized))
            request, prepare = authorized.request, None  # `prepare` has made the key from data that it read
        key, thread_id = cast("IdempotencyKey", request.key), request.thread_id or ids.uuid7()
        async with self.keys.once(key, (thread_id,), (request.run_id or ids.uuid7(),)) as result:
            if not result.replayed:
                authorized = authorized if prepare is None else await prepare(authorized)
                admitted = await self._checked(caller, authorized)
                return await open_run(_under_key(admitted, result.thread_id, result.run_id))
        return self._handle(authorized.threads, await self._run_of_key(authorized.threads, result))

    async def _enqueue_batch_once(
        self, caller: Caller, authorized: Sequence[Authorized], key: IdempotencyKey
    ) -> list[Run]:
        filters = authorized[0].threads
        # The batch is one transaction with one set of filters.
        if any(item.threads != filters for item in authorized):
            raise Forbidden("these runs can't be created in one request: send them separately")
        thread_ids = tuple(ids.uuid7() for _ in authorized)
        async with self.keys.once(key, thread_ids, [ids.uuid7() for _ in authorized]) as result:
            if not result.replayed:
                admitted = [await self._checked(caller, item) for item in authorized]
                self._check_batch(admitted)
                id_pairs = zip(result.thread_ids, result.result_ids, strict=True)
                keyed = [_under_key(item, *pair) for item, pair in zip(admitted, id_pairs, strict=True)]
                return await retry_conflicts(lambda: self._create_batch(filters, keyed, key))
        async with self.pool.connection(filters) as conn:
            return await runs.get_several(conn, filters, result.result_ids)

    async def _create_batch(self, filters: Filters, keyed: Sequence[Admitted], key: IdempotencyKey) -> list[Run]:
        async with self.run_creator.transaction(filters, key.principal) as conn:
            creations = [await self._create_in(conn, item) for item in keyed]
            await idempotency_keys.complete(conn, key)
        for admitted, creation in zip(keyed, creations, strict=True):
            self._count_thread(admitted, creation)
        return [creation.run for creation in creations if creation.run is not None]

    async def _run_of_key(self, filters: Filters, result: KeyedResult) -> Run:
        async with self.pool.connection(filters) as conn:
            run = await runs.get(conn, filters, result.thread_id, result.run_id)
        if run is None:
            raise NotFound(GONE)
        return run

    async def _checked(self, caller: Caller, authorized: Authorized) -> Admitted:
        """Check the request, and resolve its assistant."""
        request = authorized.request
        self._check(request)
        # Only a check. The thread counts later, when it was created.
        if request.may_leave_thread:
            self.quotas.refuse_thread(caller.identity)
        assistant = await self.assistants.resolve(authorized.assistants, request.assistant)
        # The assistant's config may be older than the present limits, so it is checked together with the request's.
        check_config({**assistant.config, **request.spec.config}, self.max_recursion)
        return Admitted(
            request=request, filters=authorized.threads, assistant=assistant, user=caller.user, parent=caller.slot
        )

    def _check(self, request: RunRequest) -> None:
        """ValidationFailed if its webhook is not allowed, ContentTooLarge if one of its objects is too large."""
        spec = request.spec
        if spec.webhook is not None:
            self.webhooks.check(spec.webhook)
        json.check_bytes(self.metadata_bytes, metadata=request.metadata, config=spec.config, context=spec.context)

    def _check_batch(self, admitted: Sequence[Admitted]) -> None:
        """ContentTooLarge if the assistants would add more than `batch_bytes` bytes to the runs."""
        counts = Counter(item.assistant.assistant_id for item in admitted)
        assistants = {item.assistant.assistant_id: item.assistant for item in admitted}
        added = sum(count * assistants[assistant_id].size_bytes for assistant_id, count in counts.items())
        if added > self.batch_bytes:
            raise ContentTooLarge(
                f"the assistants would add {added:,} bytes to the runs of this batch, and at most {self.batch_bytes:,} "
                "are allowed: send fewer runs at once"
            )

    async def _start(self, admitted: Admitted) -> RunHandle:
        if admitted.request.leaves_nothing:
            # Without `async with`, because nothing is awaited before the executor owns the slot.
            slot = await self.slots.take_for(_holder(admitted.user), admitted.parent)
            return self._start_in_memory(admitted, slot)
        async with self.slots.slot(_holder(admitted.user), admitted.parent) as slot:
            return await self._start_with_row(admitted, slot)

    def _start_in_memory(self, admitted: Admitted, slot: Slot) -> RunHandle:
        """Start a run without a row, a checkpoint or an SQL statement."""
        request, assistant = admitted.request, admitted.assistant
        metadata = {**assistant.metadata, **request.metadata, **request.marks}
        execution = Execution(
            run_id=ids.uuid7(),
            thread_id=ids.uuid7(),
            assistant_id=assistant.assistant_id,
            graph_id=assistant.graph_id,
            spec=assistant.applied_to(request.graph_spec),
            # No row is written that row-level security could check, so the owner is added here.
            metadata=metadata if admitted.filters is UNRESTRICTED else admitted.filters.with_owner(metadata),
            user=admitted.user,
            log=EventLog(is_wanted=request.read_by_caller),
        )
        self.executor.start(execution, slot)
        return self._handle(admitted.filters, None, execution)

    async def _start_with_row(self, admitted: Admitted, slot: Slot) -> RunHandle:
        """Create the row and start the run. A disconnect in between does not leave a `running` row without an execution."""
        new, execution = self._new_run(admitted, self.executor.lease.worker_id), None
        # For the type checker, which expects that a cancel scope may suppress an exception.
        creation = NOT_CREATED
        # Between the commit and the start of the execution no cancellation may come, or the row would stay `running`.
        with anyio.CancelScope(shield=True):
            creation = await self.run_creator.create_run(admitted.filters, new)
            if creation.run is not None and creation.run.status == "running":
                claimed = _claimed(creation.run, new, creation)
                read_by_caller = admitted.request.read_by_caller
                execution = self.executor.start_claimed(claimed, slot.transfer(), read_by_caller=read_by_caller)
        return self._handle(admitted.filters, self._accepted(admitted, creation, new), execution)

    async def _enqueue(self, admitted: Admitted) -> RunHandle:
        new = self._new_run(admitted, None)
        creation = await self.run_creator.create_run(admitted.filters, new)
        return self._handle(admitted.filters, self._accepted(admitted, creation, new))

    async def _create_and_count(self, conn: Conn, admitted: Admitted) -> RunCreation:
        creation = await self._create_in(conn, admitted)
        self._count_thread(admitted, creation)
        return creation

    async def _create_in(self, conn: Conn, admitted: Admitted) -> RunCreation:
        new = self._new_run(admitted, None)
        creation = await run_creation.create_run_in_transaction(conn, admitted.filters, new)
        if creation.run is None and creation.active_run_id == new.run_id:
            raise _RunExists(new)
        return creation

    def _count_thread(self, admitted: Admitted, creation: RunCreation) -> None:
        if creation.thread_created and admitted.user is not None and admitted.request.may_leave_thread:
            self.quotas.count_thread(admitted.user["identity"])

    def _new_run(self, admitted: Admitted, worker_id: UUID | None) -> NewRun:
        """The row to insert. With a `worker_id` it runs at once if its thread is free."""
        request, assistant = admitted.request, admitted.assistant
        run_id = admitted.run_id or request.run_id or ids.uuid7()
        if self.executor.tracing is not None:
            self.executor.tracing.link_run(str(run_id))
        spec = assistant.applied_to(request.graph_spec)
        # A background run has no reader yet, and a repeated request begins its stream at the first event.
        is_recorded = request.resumable or request.key is not None or worker_id is None
        return NewRun(
            run_id=run_id,
            thread_id=request.thread_id or ids.uuid7(),
            assistant_id=assistant.assistant_id,
            graph_id=assistant.graph_id,
            metadata=request.metadata,
            marks=_marks(request, run_id),
            assistant_metadata=assistant.metadata,
            kwargs=json.dumps(spec.model_dump(include=STORED_FIELDS, exclude_none=True)),
            multitask_strategy=request.multitask_strategy,
            delay_s=request.after_s,
            ephemeral=request.temporary,
            ephemeral_ttl_s=self.ephemeral_ttl_s,
            record_events=is_recorded,
            # A client that reads events hears of the run before its end. So a crash must not lose its row.
            synchronous_commit=(request.read_by_caller and not request.is_answered_at_end) or is_recorded,
            create_thread=request.create_thread or request.thread_id is None,
            new_thread_only=request.new_thread_only,
            thread_ttl=request.thread_ttl or self.thread_ttl,
            principal=json.dumps(admitted.user) if admitted.user is not None else None,
            holder=_holder(admitted.user),
            idempotency_key=request.key,
            worker_id=worker_id,
        )

    def _accepted(self, admitted: Admitted, creation: RunCreation, new: NewRun) -> Run:
        """Stop the superseded runs and return the new run's row. NotFound or ThreadBusy if there is none."""
        self._count_thread(admitted, creation)
        if creation.run is None and not creation.thread_found:
            raise NotFound("Thread or assistant not found.")
        if creation.run is None and new.new_thread_only:
            raise ThreadExists("The thread exists.")
        if creation.run is None and creation.active_run_id == new.run_id:
            raise _RunExists(new)
        if creation.run is None:
            raise ThreadBusy(
                "Thread is already running a task. Wait for it to finish or choose a different multitask strategy.",
                run_id=str(creation.active_run_id),
            )
        for run_id in creation.superseded_run_ids:
            if execution := self.executor.executions.get(run_id):
                action: CancelAction = "rollback" if new.multitask_strategy == "rollback" else "interrupt"
                execution.cancel(action, f"superseded by run {new.run_id}")
        return creation.run

    def _handle(self, filters: Filters, run: Run | None, execution: Execution | None = None) -> RunHandle:
        # One of the two is never None: a run without a row is executed in this process.
        source = cast("Run | Execution", run or execution)
        run_id, thread_id = source.run_id, source.thread_id

        async def stop(reason: str) -> None:
            if run is None and execution is not None:
                execution.cancel("interrupt", reason)
                return
            await self._cancel(filters, RunSelection(thread_id=thread_id, run_ids=[run_id]), "interrupt", reason)

        return RunHandle(
            run_id=run_id,
            thread_id=thread_id,
            run=run,
            execution=execution,
            filters=filters,
            follower=self.follower,
            stop=stop,
        )

    def _in_memory(self, filters: Filters, thread_id: UUID, run_id: UUID) -> Execution | None:
        """The stateless run that this process executes without a row. None if there is none that the caller may see."""
        execution = self.executor.executions.get(run_id)
        if execution is None or execution.claimed is not None or execution.thread_id != thread_id:
            return None
        return execution if filters.include(execution.metadata) else None

    async def _row(self, filters: Filters, thread_id: UUID, run_id: UUID) -> Run:
        async with self.pool.connection(filters) as conn:
            run = await runs.get(conn, filters, thread_id, run_id)
        if run is None:
            raise NotFound("Run not found")
        return run

    async def _cancel(self, filters: Filters, target: RunSelection, action: CancelAction, reason: str) -> int:
        cancelled = await cancels.cancel(self.pool, filters, target, action, reason)
        for cancelled_run in cancelled:
            if cancelled_run.was_running and (execution := self.executor.executions.get(cancelled_run.run_id)):
                execution.cancel(action, reason)
        return len(cancelled)


async def _allowed(
    caller: Caller, operation: Operation, value: AuthValue, conditions: frozenset[Condition] = frozenset()
) -> Filters:
    """The thread's filters for an operation on one of its runs. Raises Forbidden."""
    if caller.authenticator is None:
        return UNRESTRICTED
    threads = UNRESTRICTED
    for permission in permissions(operation, conditions):
        threads = threads.narrowed(await caller.authorize(permission.event, {**value, "metadata": {}}))
    return threads


def _holder(user: Mapping[str, Any] | None) -> str:
    """The principal that holds the run's slot."""
    return ANONYMOUS if user is None else user["identity"]


def _conditions(request: RunRequest, *, is_own: bool) -> frozenset[Condition]:
    """The conditions of `PERMISSIONS` that hold for a run request."""
    conditions: set[Condition] = set()
    if not is_own:
        conditions.add("the assistant is not a graph's own")
    if request.create_thread or (request.thread_id is None and not request.temporary):
        conditions.add("the thread may be created")
    if request.stops_others:
        conditions.add("the strategy stops other runs")
    return frozenset(conditions)


def _value(event: AuthEvent, request: RunRequest, assistant_id: UUID) -> AuthValue:
    """The value of an event as `langgraph_sdk.auth.types` describes it."""
    if event == "assistants.read":
        return {"assistant_id": assistant_id, "metadata": {}}
    if event == "threads.create":
        return {"thread_id": request.thread_id, "metadata": {**request.metadata}, "if_exists": "do_nothing"}
    if event == "threads.update":
        return {"thread_id": request.thread_id, "metadata": {}, "action": request.multitask_strategy}
    spec = request.spec
    set_fields = sorted(SPEC_FIELDS & spec.model_fields_set)
    return {
        "assistant_id": assistant_id,
        "thread_id": request.thread_id,
        "run_id": None,
        "status": "pending",
        "metadata": {**request.metadata},
        "prevent_insert_if_inflight": False,
        "multitask_strategy": request.multitask_strategy,
        "if_not_exists": "create" if request.create_thread else "reject",
        "after_seconds": request.after_s,
        "kwargs": {name: _plain(getattr(spec, name)) for name in set_fields},
    }


def _plain(value: object) -> Any:
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value


def _changed(request: RunRequest, event: AuthEvent, value: AuthValue) -> RunRequest:
    """The request with a handler's changes to the metadata and to the plain fields of the run's `kwargs`."""
    if event == "threads.update":
        return request
    kwargs: Mapping[str, Any] = value.get("kwargs") or {}
    spec = request.spec
    changes = {
        name: kwargs[name] for name in SPEC_FIELDS & kwargs.keys() if not isinstance(getattr(spec, name), BaseModel)
    }
    spec = spec.model_copy(update=changes) if changes else spec
    return replace(request, spec=spec, metadata=value.get("metadata") or {})


def _marks(request: RunRequest, run_id: UUID) -> Mapping[str, Any]:
    """The metadata of the run alone. A client that knows the id of its run can not put it into a chain by other metadata."""
    if request.chain is not None:
        return {**request.marks, "chain": request.chain.mark(run_id)}
    return request.marks if request.run_id is None else {**request.marks, "chain": None}


def _under_key(admitted: Admitted, thread_id: UUID, run_id: UUID) -> Admitted:
    """The request with the ids that are reserved for its idempotency key."""
    request = admitted.request
    create = request.create_thread or request.thread_id is None
    return replace(admitted, request=replace(request, thread_id=thread_id, create_thread=create), run_id=run_id)


def _claimed(run: Run, new: NewRun, creation: RunCreation) -> ClaimedRun:
    """The new run in the form in which a worker claims it from the queue."""
    return ClaimedRun(
        run_id=run.run_id,
        thread_id=run.thread_id,
        assistant_id=run.assistant_id,
        graph_id=new.graph_id,
        metadata=run.metadata,
        kwargs=RawJson(new.kwargs),
        principal=RawJson(new.principal) if new.principal else None,
        attempt=1,
        worker_id=cast("UUID", new.worker_id),
        ephemeral=new.ephemeral,
        record_events=creation.record_events,
        thread_created=creation.thread_created,
    )
