"""Execute: a run from its first step to its one final state.

The graph runs inside a slot and in a task of its own; whatever it raises ends the run and nothing else. The
final write has its own time: a run whose graph has ended is told so, even while the process stops.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import anyio

from threadkeep.auth.ownership import space_of_run
from threadkeep.base import json, logs
from threadkeep.graphs import Graph, Tenant
from threadkeep.persistence import checkpointer
from threadkeep.postgres.listen import run_topic
from threadkeep.postgres.retry import OUTLAST_S, enter_run, outlast
from threadkeep.runs import snapshots
from threadkeep.runs.abandoned_tasks import Limits
from threadkeep.runs.engine import Engine
from threadkeep.runs.event_log import LiveRun, Outcome
from threadkeep.runs.event_recorder import keep, kept_all
from threadkeep.runs.failures import describe
from threadkeep.runs.graph_call import Job
from threadkeep.runs.graph_runner import (
    INTERRUPT,
    Called,
    Streamed,
    has_static_interrupts,
    output_keys,
    output_of,
    stream,
    with_key,
)
from threadkeep.runs.isolation import contained
from threadkeep.runs.measure import measured
from threadkeep.runs.slots import Slot
from threadkeep.tables import queue
from threadkeep.tables.queue import Ending
from threadkeep.tables.runs import CancelAction
from threadkeep.tables.workers import lease_lost

log = logging.getLogger(__name__)

Cut: TypeAlias = Literal["none", "cancelled", "timeout"]
FINISH_S = OUTLAST_S + 5
"""How long the final write of a run may take: an outage of Postgres, and a little more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What came out of a graph: the final state of its run and thread, and the answer to whoever waits."""

    ending: Ending
    answer: bytes


def start(engine: Engine, job: Job, slot: Slot, *, watched: bool) -> LiveRun:
    """Execute `job` in a task of its own, and give `slot` back as soon as its graph has ended."""
    kept = job.claimed is not None and job.claimed.kept
    before = job.claimed.events_before if job.claimed else 0
    live = LiveRun(job.run_id, job.thread_id, watched=watched, durable=job.durable, events_before=before)
    live.identity = job.user["identity"] if job.user else None
    engine.live.add(live)
    if kept:
        keep(engine, live)
    engine.wakeups.wake(run_topic(job.run_id))
    engine.live.work(measured(execute, engine, job, live, slot), name=f"run {job.about['run_id']}")
    return live


async def execute(engine: Engine, job: Job, live: LiveRun, slot: Slot) -> None:
    """Run a job to its end. Raises nothing."""
    began = time.monotonic()
    enter_run()
    try:
        live.append("metadata", json.dumps({"run_id": job.about["run_id"], "attempt": job.attempt}))
        conclusion = await _conclude(engine, job, live)
        slot.give_back()
        if conclusion is None or live.abandoned:
            return
        await _finish(engine, job, live, conclusion)
    except Exception:
        log.exception("run not finished", extra={"run_id": str(job.run_id), "graph_id": job.graph_id})
        return
    finally:
        slot.give_back()
        if job.writes is not None:
            job.writes.close()
        engine.live.remove(live)
        if live.outcome is None:
            live.abandon()
    if live.outcome is not None:
        took = {"status": live.outcome.status, "duration_s": round(time.monotonic() - began, 3)}
        log.info("run finished", extra={**_shown(job), **took})


def _shown(job: Job) -> dict[str, str]:
    """What a log tells of a run."""
    return {key: job.about[key] for key in ("run_id", "thread_id", "graph_id")}


async def _conclude(engine: Engine, job: Job, live: LiveRun) -> Conclusion | None:
    """Run the graph, and read what it leaves; None where the run was let go of meanwhile."""
    streamed = Streamed()
    try:
        config = job.config()
        tenant = Tenant(space=space_of_run(engine.settings.auth_type, job.metadata))
        loaded = engine.graphs[job.graph_id]
        async with loaded.open(config, durable=job.durable, context=job.spec.context, tenant=tenant) as graph:
            cut = await _within_limits(engine, Called(graph, job, config), live, streamed)
            if live.abandoned:
                return None
            if job.writes is not None and live.keeper is not None:
                await job.writes.settled()  # what fails here is told among the events that are kept
            if cut == "none" and not _may_be_interrupted(graph, job, streamed):
                answer = json.dumps(streamed.output)
                return Conclusion(ending=_ending(streamed, answer), answer=answer)
            with anyio.fail_after(FINISH_S, shield=True):  # a factory's own scope may stand around it
                return await _settle(engine, graph, job, live, (cut, streamed))
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is this run's, and logged there
        return _fell(engine, job, live, failure, streamed)


def _fell(engine: Engine, job: Job, live: LiveRun, failure: Exception, streamed: Streamed) -> Conclusion:
    """Whatever was raised, by the graph or by what writes its checkpoints, is the run's error."""
    if lease_lost(failure):
        _lose(engine, job, live)
    elif live.cancelled is None:
        log.error("run failed", extra={"run_id": str(job.run_id), "graph_id": job.graph_id}, exc_info=failure)
    request_id = logs.request_id() or str(job.run_id)
    return _failed(streamed, describe(failure, expose=engine.settings.expose_errors, request_id=request_id))


def _lose(engine: Engine, job: Job, live: LiveRun) -> None:
    """Postgres says that the run is no longer this process's; so, before the next heartbeat, are all of the same lease."""
    live.lose()
    if job.claimed is not None and job.claimed.worker_id == engine.worker_id:
        engine.lease.lost.set()


async def _within_limits(engine: Engine, called: Called, live: LiveRun, streamed: Streamed) -> Cut:
    """Run the graph until it ends, is cancelled, or its time is over; one that then goes on is left behind."""
    running = contained(partial(stream, called, live, streamed))
    limits = Limits(engine.settings.run_timeout_s, engine.settings.stop_grace_s)
    if await engine.stuck.run(running, live.over, limits, _shown(called.job)):
        return "none"
    return "cancelled" if live.cancelled else "timeout"


def _may_be_interrupted(graph: Graph, job: Job, streamed: Streamed) -> bool:
    """The graph asked, or may have stopped before or after a node without saying so."""
    return streamed.interrupts is not None or (job.durable and has_static_interrupts(graph, job))


async def _settle(engine: Engine, graph: Graph, job: Job, live: LiveRun, end: tuple[Cut, Streamed]) -> Conclusion:
    cut, streamed = end
    if cut == "timeout":
        seconds = engine.settings.run_timeout_s
        return _failed(streamed, {"error": "TimeoutError", "message": f"the run took over {seconds:g} s"}, "timeout")
    if job.writes is not None:
        await job.writes.settled()  # what follows reads the state, or takes it back
    if cut == "cancelled":
        return await _cancelled(engine, graph, job, live)
    return await _interrupted(graph, job, streamed)


async def _interrupted(graph: Graph, job: Job, streamed: Streamed) -> Conclusion:
    """The graph stopped to ask, or before or after a node."""
    output = json.dumps(streamed.output)
    answer, ending = output, _ending(streamed, output)
    if streamed.interrupts:
        answer = json.dumps(with_key(streamed.output, INTERRUPT, streamed.interrupts))
    if job.durable:
        snapshot = await graph.aget_state(thread_config(job))
        status, asked = "interrupted" if snapshot.next else "idle", snapshots.interrupts(snapshot)
        ending = replace(ending, thread_status=status, interrupts=asked)
        if streamed.output_keys is not None:
            ending = replace(ending, values=json.dumps(snapshot.values))
    return Conclusion(ending=ending, answer=answer)


async def _cancelled(engine: Engine, graph: Graph, job: Job, live: LiveRun) -> Conclusion:
    """The state that the last checkpoint holds; after a rollback, the one before the run."""
    action, reason = live.cancelled or ("interrupt", "cancelled")
    if not job.durable:
        ending = Ending(status="interrupted", thread_status="idle", values=None, interrupts={}, error=None)
        return Conclusion(ending=ending, answer=b"{}")
    if action == "rollback":
        async with engine.pool.connection() as conn:
            await checkpointer.delete_of_run(conn, job.thread_id, job.run_id)
    snapshot = await graph.aget_state(thread_config(job))
    keys, state = output_keys(graph), snapshot.values or {}
    ending = Ending(
        status="interrupted",
        thread_status="interrupted" if snapshot.next and action == "interrupt" else "idle",
        values=json.dumps(state),
        interrupts=snapshots.interrupts(snapshot),
        error=_cancel_error(action, reason),
        output_keys=keys,
        remove=action == "rollback",
    )
    return Conclusion(ending=ending, answer=json.dumps(output_of(state, keys)))


def _cancel_error(action: CancelAction, reason: str) -> Mapping[str, str]:
    return {"error": "UserRollback" if action == "rollback" else "UserInterrupt", "message": reason}


def _failed(streamed: Streamed, error: Mapping[str, str], status: Literal["error", "timeout"] = "error") -> Conclusion:
    values = None
    if streamed.state is not None:
        try:
            values = json.dumps(streamed.state)
        except json.Unserializable:
            values = None
    ending = Ending(
        status=status,
        thread_status="error",
        values=values,
        interrupts={},
        error=error,
        output_keys=streamed.output_keys,
    )
    return Conclusion(ending=ending, answer=json.dumps({"__error__": error}))


def _ending(streamed: Streamed, output: bytes) -> Ending:
    """The end of a run that went well; `output` is its answer as JSON, and all that its thread holds if it is the state."""
    values = output
    if streamed.output_keys is not None:
        values = None if streamed.state is None else json.dumps(streamed.state)
    return Ending(
        status="success",
        thread_status="idle",
        values=values,
        interrupts={},
        error=None,
        output_keys=streamed.output_keys,
    )


def thread_config(job: Job) -> Any:
    """The config that names the thread's newest checkpoint."""
    return {"configurable": {"thread_id": str(job.thread_id), "checkpoint_ns": ""}}


async def _finish(engine: Engine, job: Job, live: LiveRun, conclusion: Conclusion) -> None:
    """Write the final state, then tell the readers: who hears of the end finds it in Postgres.

    Where it can't be written, or is another process's to write, they are left to what Postgres will say.
    """
    _tell_error(live, conclusion)
    await kept_all(live)
    try:
        written = await _write_end(engine, job, live, conclusion.ending)
    except Exception as failure:
        if not (lease_lost(failure) or (job.writes is not None and job.writes.failure is failure)):
            raise
        conclusion = _fell(engine, job, live, failure, Streamed())
        _tell_error(live, conclusion)
        written = not live.abandoned and await _write_end(engine, job, live, conclusion.ending, alone=True)
    if written:
        live.end(Outcome(status=conclusion.ending.status, answer=conclusion.answer))
    else:
        log.warning("the end of a run is not this process's to write", extra={"run_id": str(job.run_id)})


def _tell_error(live: LiveRun, conclusion: Conclusion) -> None:
    """Not of a run that another process makes again: it has not failed."""
    if conclusion.ending.error is not None and live.cancelled is None and not live.abandoned:
        live.append("error", json.dumps(conclusion.ending.error))


async def _write_end(engine: Engine, job: Job, live: LiveRun, ending: Ending, *, alone: bool = False) -> bool:
    """Behind the run's other writes, or `alone` where these can't be made; False where it is not this process's."""
    if job.claimed is None or job.writes is None:
        return True
    end = queue.end_of(job.claimed, ending, followed=live.keeper is not None)
    with anyio.fail_after(FINISH_S):
        done = None if alone else await job.writes.end(end)
        return await outlast(lambda: queue.finish(engine.pool, end)) if done is None else done
