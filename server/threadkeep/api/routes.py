"""Routes: one table of all there is.

Each line names the auth event that guards it, so that none can be added without one. The router, the spec and the
tests read the table. Where two paths fit a request, the earlier line has it.
"""

from threadkeep.api import (
    assistants,
    crons,
    joins,
    query,
    runs,
    store,
    system,
    thread_search,
    thread_state,
    thread_stream,
    threads,
)
from threadkeep.api.call import Operation, operation

SYSTEM = (
    operation("GET /", system.ok, "public", query=system.OkQuery),
    operation("GET /ok", system.ok, "public", query=system.OkQuery),
    operation("GET /livez", system.livez, "public"),
    operation("GET /readyz", system.readyz, "public"),
    operation("GET /info", system.info, "public"),
)
ASSISTANTS = (
    operation("POST /assistants", assistants.create, "assistants.create", body=assistants.AssistantBody),
    operation("POST /assistants/search", assistants.search, "assistants.search", body=assistants.SearchBody),
    operation("POST /assistants/count", assistants.count, "assistants.search", body=assistants.CountBody),
    operation("GET /assistants/{assistant_id}", assistants.get, "assistants.read"),
    operation("PATCH /assistants/{assistant_id}", assistants.update, "assistants.update", body=assistants.ChangeBody),
    operation(
        "DELETE /assistants/{assistant_id}", assistants.delete, "assistants.delete", query=assistants.DeleteQuery
    ),
    operation(
        "POST /assistants/{assistant_id}/versions", assistants.versions, "assistants.read", body=assistants.VersionsBody
    ),
    operation(
        "POST /assistants/{assistant_id}/latest", assistants.restore, "assistants.update", body=assistants.LatestBody
    ),
    operation("GET /assistants/{assistant_id}/graph", assistants.draw, "assistants.read", query=assistants.GraphQuery),
    operation("GET /assistants/{assistant_id}/schemas", assistants.describe, "assistants.read"),
    operation(
        "GET /assistants/{assistant_id}/subgraphs",
        assistants.subgraphs,
        "assistants.read",
        query=assistants.SubgraphsQuery,
    ),
    operation(
        "GET /assistants/{assistant_id}/subgraphs/{namespace}",
        assistants.subgraphs,
        "assistants.read",
        query=assistants.SubgraphsQuery,
    ),
)
THREADS = (
    operation("POST /threads", threads.create, "threads.create", body=threads.ThreadBody),
    operation("POST /threads/search", thread_search.search, "threads.search", body=thread_search.SearchBody),
    operation("POST /threads/count", thread_search.count, "threads.search", body=thread_search.CountBody),
    operation("POST /threads/prune", threads.prune, "threads.delete", body=threads.PruneBody),
    operation("GET /threads/{thread_id}", threads.get, "threads.read", query=threads.ThreadQuery),
    operation("PATCH /threads/{thread_id}", threads.update, "threads.update", body=threads.ThreadPatch),
    operation("DELETE /threads/{thread_id}", threads.delete, "threads.delete"),
    operation("POST /threads/{thread_id}/copy", threads.copy, "threads.create"),
    operation("GET /threads/{thread_id}/storage", threads.storage, "threads.read"),
    operation("GET /threads/{thread_id}/state", thread_state.get, "threads.read", query=thread_state.StateQuery),
    operation(
        "POST /threads/{thread_id}/state", thread_state.update, "threads.update", body=thread_state.StateUpdateBody
    ),
    operation(
        "POST /threads/{thread_id}/state/checkpoint",
        thread_state.get_at_checkpoint,
        "threads.read",
        body=thread_state.StateBody,
    ),
    operation(
        "GET /threads/{thread_id}/state/{checkpoint_id}",
        thread_state.get_at,
        "threads.read",
        query=thread_state.StateQuery,
    ),
    operation(
        "GET /threads/{thread_id}/history", thread_state.list_history, "threads.read", query=thread_state.HistoryQuery
    ),
    operation(
        "POST /threads/{thread_id}/history", thread_state.search_history, "threads.read", body=thread_state.HistoryBody
    ),
)
THREAD_STREAM = (
    operation(
        "GET /threads/{thread_id}/stream", thread_stream.stream, "threads.read", query=thread_stream.ThreadStreamQuery
    ),
)
THREAD_RUNS = (
    operation(
        "GET /threads/{thread_id}/stream", thread_stream.stream, "threads.read", query=thread_stream.ThreadStreamQuery
    ),
    operation("POST /threads/{thread_id}/runs", runs.create, "threads.create_run", body=runs.ThreadRunBody),
    operation("POST /threads/{thread_id}/runs/stream", runs.stream, "threads.create_run", body=runs.ThreadRunBody),
    operation("POST /threads/{thread_id}/runs/wait", runs.wait, "threads.create_run", body=runs.ThreadRunBody),
    operation("GET /threads/{thread_id}/runs", joins.search, "threads.read", query=joins.ListQuery),
    operation("GET /threads/{thread_id}/runs/{run_id}", joins.get, "threads.read"),
    operation("DELETE /threads/{thread_id}/runs/{run_id}", joins.delete, "threads.delete"),
    operation("GET /threads/{thread_id}/runs/{run_id}/join", joins.join, "threads.read", query=joins.JoinQuery),
    operation(
        "GET /threads/{thread_id}/runs/{run_id}/stream", joins.join_stream, "threads.read", query=joins.JoinQuery
    ),
    operation(
        "POST /threads/{thread_id}/runs/{run_id}/cancel", joins.cancel, "threads.update", query=joins.CancelQuery
    ),
)
STATELESS_RUNS = (
    operation("POST /runs", runs.create_stateless, "threads.create_run", body=runs.StatelessRunBody),
    operation("POST /runs/stream", runs.stream_stateless, "threads.create_run", body=runs.StatelessRunBody),
    operation("POST /runs/wait", runs.wait_stateless, "threads.create_run", body=runs.StatelessRunBody),
    operation("POST /runs/batch", runs.create_batch, "threads.create_run", body=runs.Batch),
    operation(
        "POST /runs/cancel", joins.cancel_many, "threads.update", body=joins.CancelManyBody, query=joins.CancelManyQuery
    ),
)
CRONS = (
    operation("POST /runs/crons", crons.create, "crons.create", body=crons.CronBody),
    operation("POST /threads/{thread_id}/runs/crons", crons.create_on_thread, "crons.create", body=crons.CronBody),
    operation("POST /runs/crons/search", crons.search, "crons.search", body=crons.SearchBody),
    operation("POST /runs/crons/count", crons.count, "crons.search", body=crons.CountBody),
    operation("GET /runs/crons/{cron_id}", crons.get, "crons.read"),
    operation("PATCH /runs/crons/{cron_id}", crons.update, "crons.update", body=crons.CronPatch),
    operation("DELETE /runs/crons/{cron_id}", crons.delete, "crons.delete"),
)
STORE = (
    operation("PUT /store/items", store.put, "store.put", body=store.PutBody),
    operation("GET /store/items", store.get, "store.get", query=store.ItemQuery),
    operation("DELETE /store/items", store.delete, "store.delete", body=store.ItemBody),
    operation("POST /store/items/search", store.search, "store.search", body=store.SearchBody),
    operation("POST /store/namespaces", store.list_namespaces, "store.list_namespaces", body=store.NamespacesBody),
)
QUERY = (operation("POST /query", query.query, "threads.create_run"),)

TABLE: tuple[Operation, ...] = (
    *SYSTEM,
    *ASSISTANTS,
    *THREADS,
    *THREAD_RUNS,
    *STATELESS_RUNS,
    *CRONS,
    *STORE,
    *QUERY,
)
