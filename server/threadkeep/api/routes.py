"""Routes: one table of all there is.

Each line names the auth event that guards it, so that none can be added without one. The router, the spec and the
tests read the table.
"""

from threadkeep.api import assistants, query, runs, system, threads
from threadkeep.api.call import Operation

SYSTEM = (
    Operation(method="GET", path="/", endpoint=system.ok, event="public", query=system.OkQuery),
    Operation(method="GET", path="/ok", endpoint=system.ok, event="public", query=system.OkQuery),
    Operation(method="GET", path="/livez", endpoint=system.livez, event="public"),
    Operation(method="GET", path="/readyz", endpoint=system.readyz, event="public"),
    Operation(method="GET", path="/info", endpoint=system.info, event="public"),
)
ASSISTANTS = (
    Operation(
        method="POST",
        path="/assistants/search",
        endpoint=assistants.search,
        event="assistants.search",
        body=assistants.SearchBody,
    ),
)
THREADS = (
    Operation(method="POST", path="/threads", endpoint=threads.create, event="threads.create", body=threads.ThreadBody),
    Operation(method="GET", path="/threads/{thread_id}", endpoint=threads.get, event="threads.read"),
    Operation(method="DELETE", path="/threads/{thread_id}", endpoint=threads.delete, event="threads.delete"),
    Operation(
        method="GET",
        path="/threads/{thread_id}/state",
        endpoint=threads.state,
        event="threads.read",
        query=threads.StateQuery,
    ),
    Operation(
        method="GET",
        path="/threads/{thread_id}/history",
        endpoint=threads.list_history,
        event="threads.read",
        query=threads.HistoryQuery,
    ),
    Operation(
        method="POST",
        path="/threads/{thread_id}/history",
        endpoint=threads.search_history,
        event="threads.read",
        body=threads.HistoryBody,
    ),
)
THREAD_RUNS = (
    Operation(
        method="POST",
        path="/threads/{thread_id}/runs",
        endpoint=runs.create,
        event="threads.create_run",
        body=runs.ThreadRunBody,
    ),
    Operation(
        method="POST",
        path="/threads/{thread_id}/runs/stream",
        endpoint=runs.stream,
        event="threads.create_run",
        body=runs.ThreadRunBody,
    ),
    Operation(
        method="POST",
        path="/threads/{thread_id}/runs/wait",
        endpoint=runs.wait,
        event="threads.create_run",
        body=runs.ThreadRunBody,
    ),
    Operation(method="GET", path="/threads/{thread_id}/runs/{run_id}", endpoint=runs.get, event="threads.read"),
    Operation(method="DELETE", path="/threads/{thread_id}/runs/{run_id}", endpoint=runs.delete, event="threads.delete"),
    Operation(
        method="GET",
        path="/threads/{thread_id}/runs/{run_id}/join",
        endpoint=runs.join,
        event="threads.read",
        query=runs.JoinQuery,
    ),
    Operation(
        method="GET",
        path="/threads/{thread_id}/runs/{run_id}/stream",
        endpoint=runs.join_stream,
        event="threads.read",
        query=runs.JoinQuery,
    ),
    Operation(
        method="POST",
        path="/threads/{thread_id}/runs/{run_id}/cancel",
        endpoint=runs.cancel,
        event="threads.update",
        query=runs.CancelQuery,
    ),
)
STATELESS_RUNS = (
    Operation(
        method="POST",
        path="/runs",
        endpoint=runs.create_stateless,
        event="threads.create_run",
        body=runs.StatelessRunBody,
    ),
    Operation(
        method="POST",
        path="/runs/stream",
        endpoint=runs.stream_stateless,
        event="threads.create_run",
        body=runs.StatelessRunBody,
    ),
    Operation(
        method="POST",
        path="/runs/wait",
        endpoint=runs.wait_stateless,
        event="threads.create_run",
        body=runs.StatelessRunBody,
    ),
)
QUERY = (Operation(method="POST", path="/query", endpoint=query.query, event="threads.create_run"),)

TABLE: tuple[Operation, ...] = (*SYSTEM, *ASSISTANTS, *THREADS, *THREAD_RUNS, *STATELESS_RUNS, *QUERY)
