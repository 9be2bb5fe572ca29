"""Routes: one table of all there is.

Each line names the auth event that guards it, so that none can be added without one. The router, the spec and the
tests read the table. Where two paths fit a request, the earlier line has it.
"""

from typing import Any, Never

from threadkeep.api import (
    assistants,
    crons,
    docs,
    joins,
    query,
    runs,
    shapes,
    store,
    system,
    thread_search,
    thread_state,
    thread_stream,
    threads,
)
from threadkeep.api.call import Answer, Operation, done, events, gives, operation
from threadkeep.db.assistant_versions import AssistantVersion
from threadkeep.db.assistants import Assistant
from threadkeep.db.crons import Cron
from threadkeep.db.runs import Run
from threadkeep.db.thread_checkpoints import Storage
from threadkeep.db.thread_search import FoundThread
from threadkeep.db.threads import Thread
from threadkeep.engine.updates import UpdateTimeout
from threadkeep.problems import (
    Conflict,
    Invalid,
    InvalidRequest,
    NotFound,
    Overloaded,
    QueryTimeout,
    ThreadBusy,
    Unsupported,
)

STATELESS = (InvalidRequest, NotFound, Unsupported)
"""What may stand against a run without a thread."""
ON_THREAD = (*STATELESS, ThreadBusy)
"""And against one on a thread."""

SYSTEM = (
    operation("GET /", system.ok, "public", query=system.OkQuery, answer=gives(shapes.Ok, others={503: shapes.Ok})),
    operation("GET /ok", system.ok, "public", query=system.OkQuery, answer=gives(shapes.Ok, Invalid, others={503: shapes.Ok})),
    operation("GET /livez", system.livez, "public", answer=gives(shapes.Ok)),
    operation("GET /readyz", system.readyz, "public", answer=gives(shapes.Ready, others={503: shapes.Ready})),
    operation("GET /info", system.info, "public", answer=gives(shapes.Info)),
    operation("GET /openapi.json", docs.spec, "public", answer=gives(dict[str, Any])),
    operation("GET /docs", docs.page, "public", answer=Answer(media="text/html")),
)
ASSISTANTS = (
    operation("POST /assistants", assistants.create, "assistants.create", body=assistants.AssistantBody, answer=gives(Assistant, InvalidRequest, NotFound, Conflict)),
    operation("POST /assistants/search", assistants.search, "assistants.search", body=assistants.SearchBody, answer=gives(list[Assistant])),
    operation("POST /assistants/count", assistants.count, "assistants.search", body=assistants.CountBody, answer=gives(int)),
    operation("GET /assistants/{assistant_id}", assistants.get, "assistants.read", answer=gives(Assistant)),
    operation("PATCH /assistants/{assistant_id}", assistants.update, "assistants.update", body=assistants.ChangeBody, answer=gives(Assistant, InvalidRequest)),
    operation("DELETE /assistants/{assistant_id}", assistants.delete, "assistants.delete", query=assistants.DeleteQuery, answer=done()),
    operation("POST /assistants/{assistant_id}/versions", assistants.versions, "assistants.read", body=assistants.VersionsBody, answer=gives(list[AssistantVersion])),
    operation("POST /assistants/{assistant_id}/latest", assistants.restore, "assistants.update", body=assistants.LatestBody, answer=gives(Assistant)),
    operation("GET /assistants/{assistant_id}/graph", assistants.draw, "assistants.read", query=assistants.GraphQuery, answer=gives(shapes.Drawing)),
    operation("GET /assistants/{assistant_id}/schemas", assistants.describe, "assistants.read", answer=gives(shapes.GraphSchemas)),
    operation("GET /assistants/{assistant_id}/subgraphs",
        assistants.subgraphs,
        "assistants.read",
        query=assistants.SubgraphsQuery, answer=gives(dict[str, shapes.SubgraphSchemas])),
    operation("GET /assistants/{assistant_id}/subgraphs/{namespace}",
        assistants.subgraphs,
        "assistants.read",
        query=assistants.SubgraphsQuery, answer=gives(dict[str, shapes.SubgraphSchemas])),
)
THREADS = (
    operation("POST /threads", threads.create, "threads.create", body=threads.ThreadBody, answer=gives(Thread, InvalidRequest, NotFound, Conflict, UpdateTimeout)),
    operation("POST /threads/search", thread_search.search, "threads.search", body=thread_search.SearchBody, answer=gives(list[FoundThread])),
    operation("POST /threads/count", thread_search.count, "threads.search", body=thread_search.CountBody, answer=gives(int)),
    operation("POST /threads/prune", threads.prune, "threads.delete", body=threads.PruneBody, answer=gives(shapes.Pruned)),
    operation("GET /threads/{thread_id}", threads.get, "threads.read", query=threads.ThreadQuery, answer=gives(shapes.ReadThread)),
    operation("PATCH /threads/{thread_id}", threads.update, "threads.update", body=threads.ThreadPatch, answer=gives(Thread, others={204: None})),
    operation("DELETE /threads/{thread_id}", threads.delete, "threads.delete", answer=done()),
    operation("POST /threads/{thread_id}/copy", threads.copy, "threads.create", answer=gives(Thread)),
    operation("GET /threads/{thread_id}/storage", threads.storage, "threads.read", answer=gives(Storage)),
    operation("GET /threads/{thread_id}/state", thread_state.get, "threads.read", query=thread_state.StateQuery, answer=gives(shapes.ThreadState)),
    operation("POST /threads/{thread_id}/state", thread_state.update, "threads.update", body=thread_state.StateUpdateBody, answer=gives(shapes.UpdatedState, InvalidRequest, ThreadBusy, UpdateTimeout)),
    operation("POST /threads/{thread_id}/state/checkpoint",
        thread_state.get_at_checkpoint,
        "threads.read",
        body=thread_state.StateBody, answer=gives(shapes.ThreadState)),
    operation("GET /threads/{thread_id}/state/{checkpoint_id}",
        thread_state.get_at,
        "threads.read",
        query=thread_state.StateQuery, answer=gives(shapes.ThreadState)),
    operation("GET /threads/{thread_id}/history", thread_state.list_history, "threads.read", query=thread_state.HistoryQuery, answer=gives(list[shapes.ThreadState])),
    operation("POST /threads/{thread_id}/history", thread_state.search_history, "threads.read", body=thread_state.HistoryBody, answer=gives(list[shapes.ThreadState])),
)
THREAD_RUNS = (
    operation("GET /threads/{thread_id}/stream", thread_stream.stream, "threads.read", query=thread_stream.ThreadStreamQuery, answer=events()),
    operation("POST /threads/{thread_id}/runs", runs.create, "threads.create_run", body=runs.ThreadRunBody, answer=gives(Run, *ON_THREAD)),
    operation("POST /threads/{thread_id}/runs/stream", runs.stream, "threads.create_run", body=runs.ThreadRunBody, answer=events(*ON_THREAD, Overloaded)),
    operation("POST /threads/{thread_id}/runs/wait", runs.wait, "threads.create_run", body=runs.ThreadRunBody, answer=gives(Any, *ON_THREAD, Overloaded)),
    operation("GET /threads/{thread_id}/runs", joins.search, "threads.read", query=joins.ListQuery, answer=gives(list[Run])),
    operation("GET /threads/{thread_id}/runs/{run_id}", joins.get, "threads.read", answer=gives(Run)),
    operation("DELETE /threads/{thread_id}/runs/{run_id}", joins.delete, "threads.delete", answer=done()),
    operation("GET /threads/{thread_id}/runs/{run_id}/join", joins.join, "threads.read", query=joins.JoinQuery, answer=gives(Any)),
    operation("GET /threads/{thread_id}/runs/{run_id}/stream", joins.join_stream, "threads.read", query=joins.JoinQuery, answer=events()),
    operation("POST /threads/{thread_id}/runs/{run_id}/cancel", joins.cancel, "threads.update", query=joins.CancelQuery, answer=done(status=202, others={200: dict[str, Never]})),
)
STATELESS_RUNS = (
    operation("POST /runs", runs.create_stateless, "threads.create_run", body=runs.StatelessRunBody, answer=gives(Run, *STATELESS)),
    operation("POST /runs/stream", runs.stream_stateless, "threads.create_run", body=runs.StatelessRunBody, answer=events(*STATELESS, Overloaded)),
    operation("POST /runs/wait", runs.wait_stateless, "threads.create_run", body=runs.StatelessRunBody, answer=gives(Any, *STATELESS, Overloaded)),
    operation("POST /runs/batch", runs.create_batch, "threads.create_run", body=runs.Batch, answer=gives(list[Run], *STATELESS)),
    operation("POST /runs/cancel", joins.cancel_many, "threads.update", body=joins.CancelManyBody, query=joins.CancelManyQuery, answer=done(InvalidRequest, NotFound)),
)
CRONS = (
    operation("POST /runs/crons", crons.create, "crons.create", body=crons.CronBody, answer=gives(Cron, InvalidRequest, NotFound, Unsupported)),
    operation("POST /threads/{thread_id}/runs/crons", crons.create_on_thread, "crons.create", body=crons.CronBody, answer=gives(Cron, InvalidRequest, Unsupported)),
    operation("POST /runs/crons/search", crons.search, "crons.search", body=crons.SearchBody, answer=gives(list[Cron])),
    operation("POST /runs/crons/count", crons.count, "crons.search", body=crons.CountBody, answer=gives(int)),
    operation("GET /runs/crons/{cron_id}", crons.get, "crons.read", answer=gives(Cron)),
    operation("PATCH /runs/crons/{cron_id}", crons.update, "crons.update", body=crons.CronPatch, answer=gives(Cron, InvalidRequest, Unsupported)),
    operation("DELETE /runs/crons/{cron_id}", crons.delete, "crons.delete", answer=done()),
)
STORE = (
    operation("PUT /store/items", store.put, "store.put", body=store.PutBody, answer=done()),
    operation("GET /store/items", store.get, "store.get", query=store.ItemQuery, answer=gives(shapes.Item | None, InvalidRequest)),
    operation("DELETE /store/items", store.delete, "store.delete", body=store.ItemBody, answer=done()),
    operation("POST /store/items/search", store.search, "store.search", body=store.SearchBody, answer=gives(shapes.FoundItems)),
    operation("POST /store/namespaces", store.list_namespaces, "store.list_namespaces", body=store.NamespacesBody, answer=gives(shapes.Namespaces)),
)
QUERY = (
    Operation(
        method="POST",
        path="/query",
        endpoint=query.query,
        event="threads.create_run",
        own_body=query.QueryBody,
        answer=gives(
            shapes.QueryAnswer, NotFound, query.QueryInterrupted, query.QueryFailed, Overloaded, QueryTimeout
        ),
    ),
)

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
