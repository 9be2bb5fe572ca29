"""Tree of a run: its graph and the subgraphs that its log contains so far."""

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


async def run_tree(follower: Follower, filters: Filters, thread_id: UUID, run_id: UUID | None) -> Node | None:
    """Return the tree of a run by its id, or without an id of the active run. Return None if there is no such run."""
    async with follower.pool.connection(filters) as conn:
        run = await thread_runs.get_thread_run(conn, filters, thread_id, run_id)
        if run is None:
            return None
        ending = await thread_runs.run_end(conn, filters, thread_id, run.run_id)
    translation = RunTranslator(run, LIFECYCLE)
    events = [
        event
        for entry in await _log(follower, filters, run.run_id)
        for event in translation.translate(entry, live=False)
    ]
    if ending is not None and ending.status in FINAL:
        events += translation.translate_end(ending)
    return _build_tree(run, [event for event in events if event.channel == "lifecycle"])


async def _log(follower: Follower, filters: Filters, run_id: UUID) -> list[LogEvent]:
    """Return the run's log: from memory if this process executes the run, else the stored events."""
    if (execution := follower.executions.get(run_id)) is not None:
        return [item for item in execution.log.events_after(0) if isinstance(item, LogEvent)]
    log: list[LogEvent] = []
    async with follower.pool.connection(filters) as conn:
        # A page has a limited size, so a long log needs several.
        while page := await stored_events.read(conn, run_id, log[-1].position if log else 0):
            log += [LogEvent(item.position, item.event, item.data.encode()) for item in page]
    return log


def _build_tree(run: ThreadRun, events: list[ProtocolEvent]) -> Node:
    root: Node = {"namespace": [], "status": "started", "graph_name": run.graph_id, "children": []}
    nodes: dict[Namespace, Node] = {(): root}
    for event in events:
        payload = cast("Node", orjson.loads(event.data))
        node = nodes.get(event.namespace)
        if node is None:
            node = nodes[event.namespace] = {"namespace": list(event.namespace), "children": []}
            # The translator starts the outer subgraphs first, so the parent exists.
            nodes[event.namespace[:-1]]["children"].append(node)
        node["status"] = payload["event"]
        node["graph_name"] = payload.get("graph_name", run.graph_id)
    return root
