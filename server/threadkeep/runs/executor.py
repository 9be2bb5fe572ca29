"""Executor: executes runs in this process, from the first step to the final state.

The graph runs in a slot and in a task of its own. An exception of the graph ends only its run. The final write has its
own time limit, and it is made even if the run was stopped or the process is stopping.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeAlias
from uuid import UUID

import anyio

from threadkeep.auth.ownership import BUILT_IN, store_prefix_of_run
from threadkeep.base import current_run, json, logs
from threadkeep.base.metrics import Metrics
from threadkeep.base.tracing import Tracing
from threadkeep.graphs import SERVER, Graph, LoadedGraph, Tenant
from threadkeep.persistence.group_commit import GroupCommit
from threadkeep.postgres.listen import NotificationHub, run_topic
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.retry import RETRY_S, retry
from threadkeep.runs import snapshots
from threadkeep.runs.calling_run import CallingRun
from threadkeep.runs.event_recorder import EventRecorder
from threadkeep.runs.execution import Execution, Executions, Outcome
from threadkeep.runs.failures import error_report
from threadkeep.runs.graph_runner import (
    INTERRUPT,
    GraphOutput,
    add_key,
    graph_config,
    has_static_interrupts,
    output_keys,
    output_of,
    run_graph,
)
from threadkeep.runs.isolation import AbandonedTasks, Limits, isolate
from threadkeep.runs.lease import LEASE_LOST, Lease
from threadkeep.runs.slots import Slot
from threadkeep.settings import Settings
from threadkeep.tables import queue
from threadkeep.tables.queue import ClaimedRun, RunFinalState
from threadkeep.tables.runs import CancelAction, ThreadStatus
from threadkeep.tables.workers import is_fenced, is_lease_lost

log = logging.getLogger(__name__)

Stop: TypeAlias = Literal["cancelled", "timeout"]
FINISH_TIMEOUT_S = RETRY_S + 5
"""Seconds that the final write of a run may take. It is a little more than an outage of Postgres may last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a graph: the final state of its run and thread, and the answer for the client."""

    ending: RunFinalState
    answer: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """The objects that all executions in one process share."""

    settings: Settings
    graphs: Mapping[str, LoadedGraph]
    pool: Pool
    group_commit: GroupCommit
    """Commits checkpoints and run results."""
    recorder: EventRecorder
    notifications: NotificationHub
    lease: Lease
    metrics: Metrics
    tracing: Tracing | None
    executions: Executions
    abandoned: AbandonedTasks = field(default_factory=AbandonedTasks)

    def start_claimed(self, claimed: ClaimedRun, slot: Slot, *, read_by_caller: bool) -> Execution:
        """Execute a row of `runs` that this process has claimed."""
        return self.start(Execution.of_row(claimed, self.group_commit, read_by_caller=read_by_caller), slot)

    def start(self, execution: Execution, slot: Slot) -> Execution:
        """Execute a run in a task of its own, and release `slot` as soon as its graph has ended."""
        self.executions.add(execution)
        if execution.claimed is not None:
            if execution.claimed.record_events:
                self.recorder.record(execution)
            # Readers in this process that wait for the run in Postgres change to its log now.
            self.notifications.publish(run_topic(execution.run_id))
        self.executions.start_task(self._measure(execution, slot), name=f"run {execution.ids['run_id']}")
        return execution

    async def _measure(self, execution: Execution, slot: Slot) -> None:
        """Execute a run, trace it, and count its final status."""
        began, tracing = time.monotonic(), self.tracing
        with nullcontext() if tracing is None else tracing.run_span(execution.ids, lambda: execution.status):
            try:
                await self._execute(execution, slot)
            finally:
                took_s, first = time.monotonic() - began, execution.first_chunk_at
                if counted := self.metrics.graph(execution.graph_id):
                    counted.observe(execution.status, took_s, None if first is None else first - began)
                self.metrics.events.inc(execution.log.last_position - execution.log.starts_after)
            if execution.outcome is not None:
                end = {"status": execution.status, "duration_s": round(took_s, 3)}
                log.info("run finished", extra=_log_fields(execution) | end)

    async def _execute(self, execution: Execution, slot: Slot) -> None:
        """Run the graph, release the slot, and write the final state. Raises nothing."""
        # The graph's calls of the store and of this server have no argument for their run. They find it here.
        current_run.enter(_calling_run(execution, slot))
        try:
            first = {"run_id": execution.ids["run_id"], "attempt": execution.attempt}
            execution.log.append("metadata", json.dumps(first))
            result = await self._run(execution)
            # Before the final write, so that a slow Postgres does not keep the slot from the next graph.
            slot.release()
            if result is not None and not execution.is_lost:
                await self._finish(execution, result)
        except Exception:
            log.exception("run not finished", extra=_log_fields(execution))
        finally:
            slot.release()
            if execution.writes is not None:
                execution.writes.close()
            self.executions.remove(execution)
            execution.lose_lease()  # does nothing if the run is finished

    def _tenant(self, execution: Execution) -> Tenant:
        """The part of the store that a run uses, and the principal that its items count for."""
        auth_type, user = self.settings.auth_type, execution.user
        if user is None and auth_type not in BUILT_IN:
            return SERVER
        principal = None if user is None else user["identity"]
        return Tenant(store_prefix=store_prefix_of_run(auth_type, execution.metadata), principal=principal)

    async def _run(self, execution: Execution) -> Result | None:
        """Run the graph, and read its final state. None if the run was lost meanwhile."""
        output = GraphOutput()
        try:
            config, loaded = graph_config(execution), self.graphs[execution.graph_id]
            tenant, context = self._tenant(execution), execution.spec.context
            async with loaded.open(config, durable=execution.is_durable, context=context, tenant=tenant) as graph:
                execution.run()
                work = isolate(partial(run_graph, graph, config, execution, output))
                stop = await self._within_limits(execution, work)
                if execution.is_lost:
                    return None
                if execution.writes is not None and stop is not None:
                    await execution.writes.close_and_settle()  # the next step reads the state, or rolls it back
                if execution.writes is not None and execution.log.recording is not None:
                    await (
                        execution.writes.flush()
                    )  # a failure becomes an event, so it must come before the recording ends
                if stop is None and not _may_be_interrupted(graph, execution, output):
                    return await _success(output)
                with anyio.fail_after(
                    FINISH_TIMEOUT_S, shield=True
                ):  # the graph factory may have an outer cancel scope
                    return await self._read_result(graph, execution, output, stop)
        except Exception as failure:  # noqa: BLE001 - any exception is this run's error, and `_failed` logs it
            return self._failed(execution, failure, output)

    async def _within_limits(self, execution: Execution, work: Any) -> Stop | None:
        """Run the graph until it ends, is cancelled, or times out. None if it ended by itself."""
        limits = Limits(self.settings.run_timeout_s, self.settings.stop_grace_s)
        if await self.abandoned.run(work, execution.stop, limits, execution.ids):
            return None
        # The graph of a lost run was stopped too, which the caller checks first.
        return "cancelled" if execution.cancellation else "timeout"

    async def _read_result(self, graph: Graph, execution: Execution, output: GraphOutput, stop: Stop | None) -> Result:
        """The result of a run whose graph was stopped, or stopped at an interrupt."""
        if stop == "timeout":
            message = f"the run took over {self.settings.run_timeout_s:g} s"
            return _error(output, {"error": "TimeoutError", "message": message}, "timeout")
        if execution.writes is not None:
            await execution.writes.flush()  # the next step reads the state, or rolls it back
        if stop == "cancelled":
            return await self._cancelled(graph, execution)
        return await _interrupted(graph, execution, output)

    async def _cancelled(self, graph: Graph, execution: Execution) -> Result:
        """The result at the last checkpoint. A rollback first restores the state before the run, which may be interrupted."""
        cancellation = execution.cancellation
        action, reason = (cancellation.action, cancellation.reason) if cancellation else ("interrupt", "cancelled")
        if not execution.is_durable:
            ending = RunFinalState(status="interrupted", thread_status="idle", values=None, interrupts={}, error=None)
            return Result(ending=ending, answer=b"{}")
        if action == "rollback" and execution.claimed is not None:
            await retry(partial(self._roll_back, execution.claimed))
        snapshot = await snapshots.snapshot_of(graph, _thread_config(execution))
        keys, state = output_keys(graph), snapshot.values or {}
        ending = RunFinalState(
            status="interrupted",
            thread_status="interrupted" if snapshot.next else "idle",
            values=await json.dumps_in_pieces(state),
            interrupts=snapshots.interrupts(snapshot),
            error=_cancel_error(action, reason),
            output_keys=keys,
            delete_run=action == "rollback",
        )
        return Result(ending=ending, answer=await json.dumps_in_pieces(output_of(state, keys)))

    async def _roll_back(self, claimed: ClaimedRun) -> bool:
        async with self.pool.connection() as conn:
            return await queue.rollback(conn, claimed)

    def _failed(self, execution: Execution, failure: Exception, output: GraphOutput) -> Result:
        """The result of a run whose graph or checkpoint writes raised `failure`."""
        if is_lease_lost(failure):
            self._lose(execution)
        elif is_fenced(failure):
            execution.lose_lease()
        elif execution.cancellation is None:
            log.error("run failed", extra=_log_fields(execution), exc_info=failure)
        request_id = logs.request_id() or execution.ids["run_id"]
        return _error(output, error_report(failure, expose=self.settings.expose_errors, request_id=request_id))

    def _lose(self, execution: Execution) -> None:
        """Lose the run and all runs of the same lease, because Postgres has refused a write."""
        execution.lose_lease()
        if execution.claimed is not None:
            self.lease.lose(execution.claimed.worker_id)
            self.notifications.publish(LEASE_LOST)

    async def _finish(self, execution: Execution, result: Result) -> None:
        """Write the final state, then wake the readers. So a reader that sees the end finds it in Postgres.

        If the write fails or another process owns the run, the readers read the result from Postgres.
        """
        _append_error(execution, result)
        execution.begin_finish()
        if execution.log.recording is not None:
            # Readers in other processes stop at the final status. So all events must be in Postgres before it.
            await execution.log.recording.done.wait()
        try:
            written = await self._write_end(execution, result.ending)
        except Exception as failure:
            # One of the run's writes has failed, so the run ends as an error. Any other failure is an outage that lasted
            # longer than the retries.
            is_own_write = execution.writes is not None and execution.writes.failure is failure
            if not (is_own_write or is_fenced(failure)):
                raise
            result = self._failed(execution, failure, GraphOutput())
            _append_error(execution, result)
            written = not execution.is_lost and await self._write_end(execution, result.ending, alone=True)
        if written:
            execution.finish(Outcome(result.ending.status, result.answer))
        else:
            log.warning("run result dropped: another process owns this run now", extra=_log_fields(execution))

    async def _write_end(self, execution: Execution, ending: RunFinalState, *, alone: bool = False) -> bool:
        """Write the final state after the run's other writes, or `alone` if those have failed.

        False if another process owns the run.
        """
        # A stateless run has no row, so its end is only in memory.
        if execution.claimed is None or execution.writes is None:
            return True
        end = queue.finish_request(
            execution.claimed,
            ending,
            followed=execution.log.recording is not None,
            ephemeral_ttl_s=self.settings.keep_stateless_s,
        )
        async with asyncio.timeout(FINISH_TIMEOUT_S):  # a cancel scope of anyio costs three times as much
            written = None if alone else await execution.writes.finish_run(end)
            return await retry(lambda: queue.finish(self.pool, end)) if written is None else written


def _may_be_interrupted(graph: Graph, execution: Execution, output: GraphOutput) -> bool:
    """The graph has interrupts, or may have stopped before or after a node without reporting it."""
    return output.interrupts is not None or (execution.is_durable and has_static_interrupts(graph, execution))


async def _interrupted(graph: Graph, execution: Execution, output: GraphOutput) -> Result:
    """The result of a graph that stopped at an interrupt, or before or after a node."""
    result = await _success(output)
    answer, ending = result.answer, result.ending
    if output.interrupts:
        answer = await json.dumps_in_pieces(add_key(output.answer, INTERRUPT, output.interrupts))
    if execution.is_durable:
        # The thread's row has the interrupts by task, and the chunks of a graph do not name the tasks.
        snapshot = await snapshots.snapshot_of(graph, _thread_config(execution))
        status: ThreadStatus = "interrupted" if snapshot.next else "idle"
        ending = replace(ending, thread_status=status, interrupts=snapshots.interrupts(snapshot))
        if output.output_keys is not None:
            ending = replace(ending, values=await json.dumps_in_pieces(snapshot.values))
    return Result(ending=ending, answer=answer)


async def _success(output: GraphOutput) -> Result:
    """The result of a successful run. The thread stores the answer, or the whole state if the answer is a part of it."""
    answer = values = await json.dumps_in_pieces(output.answer)
    if output.output_keys is not None:
        values = None if output.state is None else await json.dumps_in_pieces(output.state)
    ending = RunFinalState(
        status="success",
        thread_status="idle",
        values=values,
        interrupts={},
        error=None,
        output_keys=output.output_keys,
    )
    return Result(ending=ending, answer=answer)


def _error(output: GraphOutput, error: Mapping[str, str], status: Literal["error", "timeout"] = "error") -> Result:
    values = None
    if output.state is not None:
        try:
            values = json.dumps(output.state)
        # This may be the error itself. The thread then keeps its values.
        except json.Unserializable:
            values = None
    ending = RunFinalState(
        status=status,
        thread_status="error",
        values=values,
        interrupts={},
        error=error,
        output_keys=output.output_keys,
    )
    return Result(ending=ending, answer=json.dumps({"__error__": error}))


def _cancel_error(action: CancelAction, reason: str) -> Mapping[str, str]:
    return {"error": "UserRollback" if action == "rollback" else "UserInterrupt", "message": reason}


def _append_error(execution: Execution, result: Result) -> None:
    """Add the error event. A lost run gets none, because another process executes it again."""
    if result.ending.error is not None and execution.cancellation is None and not execution.is_lost:
        execution.log.append("error", json.dumps(result.ending.error))


def _thread_config(execution: Execution) -> Any:
    """The config that selects the thread's newest checkpoint."""
    return {"configurable": {"thread_id": execution.ids["thread_id"], "checkpoint_ns": ""}}


def _log_fields(execution: Execution) -> dict[str, str]:
    """The log fields of a run."""
    return {key: execution.ids[key] for key in ("run_id", "thread_id", "graph_id")}


def _calling_run(execution: Execution, slot: Slot) -> CallingRun:
    """The run for requests from its graph. It includes the threads of the run that started it."""
    caller = current_run.current()
    threads = caller.threads if isinstance(caller, CallingRun) else frozenset[UUID]()
    return CallingRun(user=execution.user, slot=slot, threads=threads | {execution.thread_id})
