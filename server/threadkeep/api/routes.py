"""Routes: one table of all there is.

Each line names the auth event that guards it, so that none can be added without one. The router, the spec and the
tests read the table. Where two paths fit a request, the earlier line has it.
"""

from typing import Any

from threadkeep.api import query, shapes
from threadkeep.api.langgraph import (
    assistants,
    crons,
    existing_runs,
    runs,
    store,
    thread_search,
    thread_state,
    thread_stream,
    threads,
)
from threadkeep.api.operation import Answer, Operation, done, events, gives, operation
from threadkeep.api.ops import docs, health, metrics
from threadkeep.api.protocol_v2 import commands, event_socket, event_stream
from threadkeep.api.socket import SocketOperation
from threadkeep.base.problems import (
    AnswerTooLarge,
    Conflict,
    InvalidRequest,
    KeyInUse,
    KeyReused,
    NotFound,
    Overloaded,
    QueryTimeout,
    ThreadBusy,
    TooLarge,
    Unsupported,
)
from threadkeep.tables.assistant_versions import AssistantVersion
from threadkeep.tables.assistants import Assistant
from threadkeep.tables.crons import Cron
from threadkeep.tables.runs import Run
from threadkeep.tables.thread_checkpoints import Storage
from threadkeep.tables.thread_search import FoundThread
from threadkeep.tables.threads import Thread
from threadkeep.threads.updates import UpdateTimeout

KEYED = (KeyInUse, KeyReused)
"""What may stand against a request with an Idempotency-Key."""
STATELESS = (InvalidRequest, NotFound, Unsupported, *KEYED)
"""What may stand against a run without a thread."""
ON_THREAD = (*STATELESS, ThreadBusy)
"""And against one on a thread."""

SYSTEM = (
    operation("GET /", health.ok, "public", gives(shapes.Ok, others={503: shapes.Ok}), query=health.OkQuery),
    operation("GET /ok", health.ok, "public", gives(shapes.Ok, others={503: shapes.Ok}), query=health.OkQuery),
    operation("GET /livez", health.livez, "public", gives(shapes.Ok)),
    operation("GET /readyz", health.readyz, "public", gives(shapes.Ready, others={503: shapes.Ready})),
    operation("GET /info", health.info, "public", gives(shapes.Info)),
    operation("GET /metrics", metrics.metrics, "public", Answer(media="text/plain")),
    operation("GET /openapi.json", docs.spec, "public", gives(dict[str, Any])),
    operation("GET /docs", docs.page, "public", Answer(media="text/html")),
)
ASSISTANTS = (
    operation(
        "POST /assistants",
        assistants.create,
        "assistants.create",
        gives(Assistant, InvalidRequest, NotFound, Conflict),
        body=assistants.AssistantBody,
    ),
    operation(
        "POST /assistants/search",
        assistants.search,
        "assistants.search",
        gives(list[Assistant], AnswerTooLarge),
        body=assistants.SearchBody,
    ),
    operation("POST /assistants/count", assistants.count, "assistants.search", gives(int), body=assistants.CountBody),
    operation("GET /assistants/{assistant_id}", assistants.get, "assistants.read", gives(Assistant)),
    operation(
        "PATCH /assistants/{assistant_id}",
        assistants.update,
        "assistants.update",
        gives(Assistant, InvalidRequest),
        body=assistants.ChangeBody,
    ),
    operation(
        "DELETE /assistants/{assistant_id}",
        assistants.delete,
        "assistants.delete",
        done(),
        query=assistants.DeleteQuery,
    ),
    operation(
        "POST /assistants/{assistant_id}/versions",
        assistants.versions,
        "assistants.read",
        gives(list[AssistantVersion], AnswerTooLarge),
        body=assistants.VersionsBody,
    ),
    operation(
        "POST /assistants/{assistant_id}/latest",
        assistants.restore,
        "assistants.update",
        gives(Assistant),
        body=assistants.LatestBody,
    ),
    operation(
        "GET /assistants/{assistant_id}/graph",
        assistants.draw,
        "assistants.read",
        gives(shapes.Drawing),
        query=assistants.GraphQuery,
    ),
    operation(
        "GET /assistants/{assistant_id}/schemas", assistants.describe, "assistants.read", gives(shapes.GraphSchemas)
    ),
    operation(
        "GET /assistants/{assistant_id}/subgraphs",
        assistants.subgraphs,
        "assistants.read",
        gives(dict[str, shapes.SubgraphSchemas]),
        query=assistants.SubgraphsQuery,
    ),
    operation(
        "GET /assistants/{assistant_id}/subgraphs/{namespace}",
        assistants.subgraphs,
        "assistants.read",
        gives(dict[str, shapes.SubgraphSchemas]),
        query=assistants.SubgraphsQuery,
    ),
)
THREADS = (
    operation(
        "POST /threads",
        threads.create,
        "threads.create",
        gives(Thread, InvalidRequest, NotFound, Conflict, UpdateTimeout, *KEYED),
        body=threads.ThreadBody,
    ),
    operation(
        "POST /threads/search",
        thread_search.search,
        "threads.search",
        gives(list[FoundThread], AnswerTooLarge),
        body=thread_search.SearchBody,
    ),
    operation("POST /threads/count", thread_search.count, "threads.search", gives(int), body=thread_search.CountBody),
    operation("POST /threads/prune", threads.prune, "threads.delete", gives(shapes.Pruned), body=threads.PruneBody),
    operation(
        "GET /threads/{thread_id}", threads.get, "threads.read", gives(shapes.ReadThread), query=threads.ThreadQuery
    ),
    operation(
        "PATCH /threads/{thread_id}",
        threads.update,
        "threads.update",
        gives(Thread, others={204: None}),
        body=threads.ThreadPatch,
    ),
    operation("DELETE /threads/{thread_id}", threads.delete, "threads.delete", done()),
    operation("POST /threads/{thread_id}/copy", threads.copy, "threads.read", gives(Thread)),
    operation("GET /threads/{thread_id}/storage", threads.storage, "threads.read", gives(Storage)),
    operation(
        "GET /threads/{thread_id}/state",
        thread_state.get,
        "threads.read",
        gives(shapes.ThreadState, AnswerTooLarge),
        query=thread_state.StateQuery,
    ),
    operation(
        "POST /threads/{thread_id}/state",
        thread_state.update,
        "threads.update",
        gives(shapes.UpdatedState, InvalidRequest, ThreadBusy, UpdateTimeout),
        body=thread_state.StateUpdateBody,
    ),
    operation(
        "POST /threads/{thread_id}/state/checkpoint",
        thread_state.get_at_checkpoint,
        "threads.read",
        gives(shapes.ThreadState, AnswerTooLarge),
        body=thread_state.StateBody,
    ),
    operation(
        "GET /threads/{thread_id}/state/{checkpoint_id}",
        thread_state.get_at,
        "threads.read",
        gives(shapes.ThreadState, AnswerTooLarge),
        query=thread_state.StateQuery,
    ),
    operation(
        "GET /threads/{thread_id}/history",
        thread_state.list_history,
        "threads.read",
        gives(list[shapes.ThreadState], AnswerTooLarge),
        query=thread_state.HistoryQuery,
    ),
    operation(
        "POST /threads/{thread_id}/history",
        thread_state.search_history,
        "threads.read",
        gives(list[shapes.ThreadState], AnswerTooLarge),
        body=thread_state.HistoryBody,
    ),
)
THREAD_RUNS = (
    operation(
        "GET /threads/{thread_id}/stream",
        thread_stream.stream,
        "threads.read",
        events(),
        query=thread_stream.ThreadStreamQuery,
    ),
    Operation(
        method="POST",
        path="/threads/{thread_id}/commands",
        endpoint=commands.command,
        event="threads.read",
        own_body=commands.CommandBody,
        answer=gives(dict[str, Any], *ON_THREAD),
    ),
    Operation(
        method="POST",
        path="/threads/{thread_id}/stream/events",
        endpoint=event_stream.stream,
        event="threads.read",
        own_body=event_stream.EventStreamBody,
        answer=events(InvalidRequest),
    ),
    operation(
        "POST /threads/{thread_id}/runs",
        runs.create,
        "threads.create_run",
        gives(Run, *ON_THREAD),
        body=runs.ThreadRunBody,
    ),
    operation(
        "POST /threads/{thread_id}/runs/stream",
        runs.stream,
        "threads.create_run",
        events(*ON_THREAD, Overloaded),
        body=runs.ThreadRunBody,
    ),
    operation(
        "POST /threads/{thread_id}/runs/wait",
        runs.wait,
        "threads.create_run",
        gives(Any, *ON_THREAD, Overloaded),
        body=runs.ThreadRunBody,
    ),
    operation(
        "GET /threads/{thread_id}/runs",
        existing_runs.search,
        "threads.read",
        gives(list[Run], AnswerTooLarge),
        query=existing_runs.ListQuery,
    ),
    operation("GET /threads/{thread_id}/runs/{run_id}", existing_runs.get, "threads.read", gives(Run)),
    operation("DELETE /threads/{thread_id}/runs/{run_id}", existing_runs.delete, "threads.delete", done()),
    operation(
        "GET /threads/{thread_id}/runs/{run_id}/join",
        existing_runs.join,
        "threads.read",
        gives(Any),
        query=existing_runs.JoinQuery,
    ),
    operation(
        "GET /threads/{thread_id}/runs/{run_id}/stream",
        existing_runs.join_stream,
        "threads.read",
        events(),
        query=existing_runs.JoinQuery,
    ),
    operation(
        "POST /threads/{thread_id}/runs/{run_id}/cancel",
        existing_runs.cancel,
        "threads.update",
        done(status=202, others={200: shapes.Nothing}),
        query=existing_runs.CancelQuery,
    ),
)
STATELESS_RUNS = (
    operation(
        "POST /runs", runs.create_stateless, "threads.create_run", gives(Run, *STATELESS), body=runs.StatelessRunBody
    ),
    operation(
        "POST /runs/stream",
        runs.stream_stateless,
        "threads.create_run",
        events(*STATELESS, Overloaded),
        body=runs.StatelessRunBody,
    ),
    operation(
        "POST /runs/wait",
        runs.wait_stateless,
        "threads.create_run",
        gives(Any, *STATELESS, Overloaded),
        body=runs.StatelessRunBody,
    ),
    operation(
        "POST /runs/batch", runs.create_batch, "threads.create_run", gives(list[Run], *STATELESS), body=runs.Batch
    ),
    operation(
        "POST /runs/cancel",
        existing_runs.cancel_many,
        "threads.update",
        done(InvalidRequest, NotFound),
        body=existing_runs.CancelManyBody,
        query=existing_runs.CancelManyQuery,
    ),
)
CRONS = (
    operation(
        "POST /runs/crons",
        crons.create,
        "crons.create",
        gives(Cron, InvalidRequest, NotFound, Unsupported, *KEYED),
        body=crons.CronBody,
    ),
    operation(
        "POST /threads/{thread_id}/runs/crons",
        crons.create_on_thread,
        "crons.create",
        gives(Cron, InvalidRequest, Unsupported, *KEYED),
        body=crons.CronBody,
    ),
    operation(
        "POST /runs/crons/search",
        crons.search,
        "crons.search",
        gives(list[Cron], AnswerTooLarge),
        body=crons.SearchBody,
    ),
    operation("POST /runs/crons/count", crons.count, "crons.search", gives(int), body=crons.CountBody),
    operation("GET /runs/crons/{cron_id}", crons.get, "crons.read", gives(Cron)),
    operation(
        "PATCH /runs/crons/{cron_id}",
        crons.update,
        "crons.update",
        gives(Cron, InvalidRequest, Unsupported),
        body=crons.CronPatch,
    ),
    operation("DELETE /runs/crons/{cron_id}", crons.delete, "crons.delete", done()),
)
STORE = (
    operation("PUT /store/items", store.put, "store.put", done(TooLarge), body=store.PutBody),
    operation(
        "GET /store/items",
        store.get,
        "store.get",
        gives(shapes.Item | None, InvalidRequest, AnswerTooLarge),
        query=store.ItemQuery,
    ),
    operation("DELETE /store/items", store.delete, "store.delete", done(), body=store.ItemBody),
    operation(
        "POST /store/items/search",
        store.search,
        "store.search",
        gives(shapes.FoundItems, AnswerTooLarge),
        body=store.SearchBody,
    ),
    operation(
        "POST /store/namespaces",
        store.list_namespaces,
        "store.list_namespaces",
        gives(shapes.Namespaces),
        body=store.NamespacesBody,
    ),
)
QUERY = (
    Operation(
        method="POST",
        path="/query",
        endpoint=query.query,
        event="threads.create_run",
        own_body=query.QueryBody,
        reader=query.read,
        answer=gives(shapes.QueryAnswer, NotFound, query.QueryInterrupted, query.QueryFailed, Overloaded, QueryTimeout),
    ),
)

TABLE: tuple[Operation, ...] = (*STATELESS_RUNS, *THREAD_RUNS, *THREADS, *SYSTEM, *ASSISTANTS, *CRONS, *STORE, *QUERY)
"""The busiest first: the router looks at one after the other."""

SOCKETS: tuple[SocketOperation, ...] = (
    SocketOperation(path="/threads/{thread_id}/stream/events", endpoint=event_socket.serve, event="threads.read"),
)
"""WebSockets. Each stands on the path of an operation, and is served where that is."""
