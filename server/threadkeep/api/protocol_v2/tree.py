"""Tree: a run's graph and its subgraphs, as far as its log tells."""

from typing import Any, cast
from uuid import UUID

import orjson

from threadkeep.api.protocol_v2.events import Namespace, ProtocolEvent
from threadkeep.api.protocol_v2.translation import RunTranslator
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.event_log import LogEvent
from threadkeep.runs.follow import Follower
from threadkeep.tables import run_events as stored_events
from threadkeep.tables import thread_runs
from threadkeep.tables.runs import FINAL
from threadkeep.tables.thread_runs import ThreadRun

LIFECYCLE = frozenset({"lifecycle"})
Node = dict[str, Any]


async def run_tree(follower: Follower, filters: Filters, thread_id: UUID, run_id: object) -> Node | None:
    """The tree of a run by its id, or of the one that goes on or waits; None where there is none such."""
    async with follower.pool.connection(filters) as conn:
        found = await thread_runs.list_thread_runs(conn, filters, thread_id, after=0)
        run = next((one for one in found if _is_meant(one, run_id)), None)
        if run is None:
            return None
        ending = await thread_runs.run_end(conn, filters, thread_id, run.run_id)
    translation = RunTranslator(run, LIFECYCLE)
    told = [
        event
        for entry in await _log(follower, filters, run.run_id)
        for event in translation.translate(entry, live=False)
    ]
    if ending is not None and ending.status in FINAL:
        told += translation.translate_end(ending)
    return _planted(run, [event for event in told if event.channel == "lifecycle"])


def _is_meant(run: ThreadRun, run_id: object) -> bool:
    return run.status not in FINAL if run_id is None else str(run.run_id) == run_id


async def _log(follower: Follower, filters: Filters, run_id: UUID) -> list[LogEvent]:
    """What is known of the run's log: the ring here, else what is kept."""
    if (execution := follower.executions.get(run_id)) is not None:
        return [item for item in execution.log.events_after(0) if isinstance(item, LogEvent)]
    log: list[LogEvent] = []
    async with follower.pool.connection(filters) as conn:
        while page := await stored_events.read(conn, run_id, log[-1].position if log else 0):
            log += [LogEvent(item.position, item.event, item.data.encode()) for item in page]
    return log


def _planted(run: ThreadRun, told: list[ProtocolEvent]) -> Node:
    root: Node = {"namespace": [], "status": "started", "graph_name": run.graph_id, "children": []}
    nodes: dict[Namespace, Node] = {(): root}
    for event in told:
        said = cast("Node", orjson.loads(event.data))
        node = nodes.get(event.namespace)
        if node is None:
            node = nodes[event.namespace] = {"namespace": list(event.namespace), "children": []}
            nodes[event.namespace[:-1]]["children"].append(node)
        node["status"] = said["event"]
        node["graph_name"] = said.get("graph_name", run.graph_id)
    return root
