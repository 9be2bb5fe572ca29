"""The route table: every operation of the server.

Each line has the event that authorizes it, its kind, and the switches of langgraph.json that disable it. The router, the
quotas, the OpenAPI document and the tests read the table. If two paths match a request, the earlier line is used.
"""

from typing import Any

from threadkeep.api import api_keys, console, events, identity, query, shapes, workers
from threadkeep.api.a2a import cards
from threadkeep.api.a2a import endpoint as a2a
from threadkeep.api.agui import runs as agui_runs
from threadkeep.api.agui.run_input import RunBody, RunQuery
from threadkeep.api.langgraph import (
    assistants,
    crons,
    existing_runs,
    run_search,
    runs,
    store,
    thread_search,
    thread_state,
    thread_stream,
    threads,
)
from threadkeep.api.mcp import endpoint as mcp
from threadkeep.api.mcp import metadata as mcp_metadata
from threadkeep.api.openai import chat, conversations, models, responses
from threadkeep.api.openai.errors import ErrorBody
from threadkeep.api.openai.paging import ItemList, ListQuery
from threadkeep.api.openai.response_object import ResponseAnswer
from threadkeep.api.operation import Operation, OperationResponse, empty_response, event_stream_response, json_response
from threadkeep.api.ops import docs, health, metrics
from threadkeep.api.protocol_v2 import commands, event_socket, event_stream
from threadkeep.api.socket import WebSocketOperation
from threadkeep.base.problems import (
    AnswerTooLarge,
    Conflict,
    ContentTooLarge,
    Forbidden,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    InvalidRequest,
    NotFound,
    QueryTimeout,
    QueueFull,
    ThreadBusy,
    Unauthenticated,
    UnsupportedField,
)
from threadkeep.tables.assistant_versions import AssistantVersion
from threadkeep.tables.assistants import Assistant
from threadkeep.tables.crons import Cron
from threadkeep.tables.run_search import RunMatch
from threadkeep.tables.runs import Run
from threadkeep.tables.thread_checkpoints import CheckpointStorage
from threadkeep.tables.thread_search import ThreadMatch
from threadkeep.tables.threads import Thread
from threadkeep.tables.workers import WorkerProcess
from threadkeep.threads.updates import UpdateTimeout

KEYED = (IdempotencyKeyInUse, IdempotencyKeyReused)
"""Problems of a request with an Idempotency-Key."""
STATELESS = (InvalidRequest, NotFound, UnsupportedField, *KEYED)
"""Problems of a stateless run."""
ON_THREAD = (*STATELESS, ThreadBusy)
"""Problems of a run on a thread."""

SYSTEM = (
    Operation(
        "GET /",
        health.root,
        "public",
        "public",
        json_response(shapes.Ok, other_responses={503: shapes.Ok}),
        query=health.OkQuery,
    ),
    Operation(
        "GET /ok",
        health.ok,
        "public",
        "public",
        json_response(shapes.Ok, other_responses={503: shapes.Ok}),
        query=health.OkQuery,
    ),
    Operation(
        "GET /livez",
        health.livez,
        "public",
        "public",
        json_response(shapes.Ok),
    ),
    Operation(
        "GET /readyz",
        health.readyz,
        "public",
        "public",
        json_response(shapes.Ready, other_responses={503: shapes.Ready}),
    ),
    Operation(
        "GET /info",
        health.info,
        "public",
        "public",
        json_response(shapes.Info),
        switches=("disable_meta",),
    ),
    Operation(
        "GET /me",
        identity.me,
        "caller",
        "read",
        json_response(shapes.Me),
    ),
    Operation(
        "GET /workers",
        workers.search,
        # LangGraph has no event for processes. A caller that may list assistants may list them.
        "assistants.search",
        "read",
        json_response(list[WorkerProcess]),
        switches=("disable_meta",),
    ),
    Operation(
        "GET /events",
        events.stream,
        "threads.search",
        "stream",
        event_stream_response(),
        # The stream has changes of threads and of runs, so either switch disables it.
        switches=("disable_threads", "disable_runs"),
    ),
    Operation(
        "GET /metrics",
        # `public` for the table. By its settings, the endpoint itself requires a caller.
        metrics.metrics,
        "public",
        "public",
        OperationResponse(media_type="text/plain"),
        switches=("disable_meta",),
    ),
    Operation(
        "GET /openapi.json",
        docs.spec,
        "public",
        "public",
        json_response(dict[str, Any]),
        switches=("disable_meta",),
    ),
    Operation(
        "GET /docs",
        docs.page,
        "public",
        "public",
        OperationResponse(media_type="text/html"),
        switches=("disable_meta",),
    ),
)
ASSISTANTS = (
    Operation(
        "POST /assistants",
        assistants.create,
        "assistants.create",
        "write",
        json_response(Assistant, InvalidRequest, NotFound, Conflict),
        body=assistants.AssistantBody,
        switches=("disable_assistants",),
    ),
    Operation(
        "POST /assistants/search",
        assistants.search,
        "assistants.search",
        "read",
        json_response(list[Assistant], AnswerTooLarge),
        body=assistants.AssistantSearch,
        switches=("disable_assistants",),
        load="search",
    ),
    Operation(
        "POST /assistants/count",
        assistants.count,
        "assistants.search",
        "read",
        json_response(int),
        body=assistants.CountBody,
        switches=("disable_assistants",),
        load="search",
    ),
    Operation(
        "GET /assistants/{assistant_id}",
        assistants.get,
        "assistants.read",
        "read",
        json_response(Assistant),
        switches=("disable_assistants",),
    ),
    Operation(
        "PATCH /assistants/{assistant_id}",
        assistants.update,
        "assistants.update",
        "write",
        json_response(Assistant, InvalidRequest),
        body=assistants.AssistantPatch,
        switches=("disable_assistants",),
    ),
    Operation(
        "DELETE /assistants/{assistant_id}",
        assistants.delete,
        "assistants.delete",
        "write",
        empty_response(),
        query=assistants.DeleteQuery,
        switches=("disable_assistants",),
    ),
    Operation(
        "POST /assistants/{assistant_id}/versions",
        assistants.versions,
        "assistants.read",
        "read",
        json_response(list[AssistantVersion], AnswerTooLarge),
        body=assistants.VersionsBody,
        switches=("disable_assistants",),
        load="search",
    ),
    Operation(
        "POST /assistants/{assistant_id}/latest",
        assistants.set_latest_version,
        "assistants.update",
        "write",
        json_response(Assistant),
        body=assistants.RestoreVersionBody,
        switches=("disable_assistants",),
    ),
    Operation(
        "GET /assistants/{assistant_id}/graph",
        assistants.get_graph,
        "assistants.read",
        "read",
        json_response(shapes.GraphDrawing),
        query=assistants.GraphQuery,
        switches=("disable_assistants",),
    ),
    Operation(
        "GET /assistants/{assistant_id}/schemas",
        assistants.get_schemas,
        "assistants.read",
        "read",
        json_response(shapes.GraphSchemas),
        switches=("disable_assistants",),
    ),
    Operation(
        "GET /assistants/{assistant_id}/subgraphs",
        assistants.get_subgraphs,
        "assistants.read",
        "read",
        json_response(dict[str, shapes.SubgraphSchemas]),
        query=assistants.SubgraphsQuery,
        switches=("disable_assistants",),
    ),
    Operation(
        "GET /assistants/{assistant_id}/subgraphs/{namespace}",
        assistants.get_subgraphs,
        "assistants.read",
        "read",
        json_response(dict[str, shapes.SubgraphSchemas]),
        query=assistants.SubgraphsQuery,
        switches=("disable_assistants",),
    ),
)
THREADS = (
    Operation(
        "POST /threads",
        threads.create,
        "threads.create",
        "write",
        json_response(Thread, InvalidRequest, NotFound, Conflict, UpdateTimeout, *KEYED),
        body=threads.ThreadBody,
        switches=("disable_threads",),
    ),
    Operation(
        "POST /threads/search",
        thread_search.search,
        "threads.search",
        "read",
        json_response(list[ThreadMatch], AnswerTooLarge),
        body=thread_search.ThreadSearch,
        switches=("disable_threads",),
        load="search",
    ),
    Operation(
        "POST /threads/count",
        thread_search.count,
        "threads.search",
        "read",
        json_response(int),
        body=thread_search.CountBody,
        switches=("disable_threads",),
        load="search",
    ),
    Operation(
        "POST /threads/prune",
        threads.prune,
        "threads.delete",
        "write",
        json_response(shapes.PruneResult),
        body=threads.PruneBody,
        switches=("disable_threads",),
    ),
    Operation(
        "GET /threads/{thread_id}",
        threads.get,
        "threads.read",
        "read",
        # A thread has its values, which may be megabytes, so it counts as a state.
        json_response(shapes.ThreadWithTtl, AnswerTooLarge),
        query=threads.ThreadQuery,
        switches=("disable_threads",),
        load="state",
    ),
    Operation(
        "PATCH /threads/{thread_id}",
        threads.update,
        "threads.update",
        "write",
        json_response(Thread, other_responses={204: None}),
        body=threads.ThreadPatch,
        switches=("disable_threads",),
    ),
    Operation(
        "DELETE /threads/{thread_id}",
        threads.delete,
        "threads.delete",
        "write",
        empty_response(),
        switches=("disable_threads",),
    ),
    Operation(
        "POST /threads/{thread_id}/copy",
        # The endpoint also asks for `threads.create`.
        threads.copy,
        "threads.read",
        "write",
        json_response(Thread),
        switches=("disable_threads",),
    ),
    Operation(
        "GET /threads/{thread_id}/storage",
        threads.storage,
        "threads.read",
        "read",
        json_response(CheckpointStorage),
        switches=("disable_threads",),
    ),
    Operation(
        "GET /threads/{thread_id}/state",
        thread_state.get,
        "threads.read",
        "read",
        json_response(shapes.ThreadState, AnswerTooLarge),
        query=thread_state.StateQuery,
        switches=("disable_threads",),
        load="state",
    ),
    Operation(
        "POST /threads/{thread_id}/state",
        thread_state.update,
        "threads.update",
        "write",
        json_response(shapes.StateUpdateResult, InvalidRequest, ThreadBusy, UpdateTimeout),
        body=thread_state.StateUpdateBody,
        switches=("disable_threads",),
    ),
    Operation(
        "POST /threads/{thread_id}/state/checkpoint",
        thread_state.get_at_checkpoint,
        "threads.read",
        "read",
        json_response(shapes.ThreadState, AnswerTooLarge),
        body=thread_state.StateBody,
        switches=("disable_threads",),
        load="state",
    ),
    Operation(
        "GET /threads/{thread_id}/state/{checkpoint_id}",
        thread_state.get_at,
        "threads.read",
        "read",
        json_response(shapes.ThreadState, AnswerTooLarge),
        query=thread_state.StateQuery,
        switches=("disable_threads",),
        load="state",
    ),
    Operation(
        "GET /threads/{thread_id}/history",
        thread_state.list_history,
        "threads.read",
        "read",
        json_response(list[shapes.ThreadState], AnswerTooLarge),
        query=thread_state.HistoryQuery,
        switches=("disable_threads",),
        load="state",
    ),
    Operation(
        "POST /threads/{thread_id}/history",
        thread_state.search_history,
        "threads.read",
        "read",
        json_response(list[shapes.ThreadState], AnswerTooLarge),
        body=thread_state.HistoryBody,
        switches=("disable_threads",),
        load="state",
    ),
)
THREAD_RUNS = (
    Operation(
        "GET /threads/{thread_id}/stream",
        thread_stream.stream,
        "threads.read",
        "stream",
        event_stream_response(),
        query=thread_stream.ThreadStreamQuery,
        switches=("disable_threads",),
    ),
    Operation(
        "POST /threads/{thread_id}/commands",
        # Most commands only need to read the thread. The service authorizes those that start runs.
        commands.command,
        "threads.read",
        "write",
        json_response(dict[str, Any], *ON_THREAD),
        switches=("disable_runs", "disable_threads"),
        custom_body=commands.CommandBody,
    ),
    Operation(
        "POST /threads/{thread_id}/stream/events",
        event_stream.stream,
        "threads.read",
        "stream",
        event_stream_response(InvalidRequest),
        switches=("disable_threads",),
        custom_body=event_stream.EventStreamBody,
    ),
    Operation(
        "POST /threads/{thread_id}/runs",
        runs.create,
        "threads.create_run",
        "background",
        json_response(Run, *ON_THREAD),
        body=runs.ThreadRunBody,
        switches=("disable_runs",),
        authorized_by="service",
    ),
    Operation(
        "POST /threads/{thread_id}/runs/stream",
        runs.stream,
        "threads.create_run",
        "run",
        event_stream_response(*ON_THREAD, QueueFull),
        body=runs.ThreadRunBody,
        switches=("disable_runs",),
        authorized_by="service",
    ),
    Operation(
        "POST /threads/{thread_id}/runs/wait",
        runs.wait,
        "threads.create_run",
        "run",
        json_response(Any, *ON_THREAD, QueueFull),
        body=runs.ThreadRunBody,
        switches=("disable_runs",),
        authorized_by="service",
    ),
    Operation(
        "GET /threads/{thread_id}/runs",
        existing_runs.list_runs,
        "threads.read",
        "read",
        json_response(list[Run], AnswerTooLarge),
        query=existing_runs.ListQuery,
        switches=("disable_runs",),
        load="search",
    ),
    Operation(
        "GET /threads/{thread_id}/runs/{run_id}",
        existing_runs.get,
        "threads.read",
        "read",
        json_response(Run),
        switches=("disable_runs",),
        authorized_by="service",
    ),
    Operation(
        "DELETE /threads/{thread_id}/runs/{run_id}",
        existing_runs.delete,
        "threads.delete",
        "write",
        empty_response(),
        switches=("disable_runs",),
        authorized_by="service",
    ),
    Operation(
        "GET /threads/{thread_id}/runs/{run_id}/join",
        # `stream`: the response stays open until the run has ended.
        existing_runs.join,
        "threads.read",
        "stream",
        json_response(Any),
        query=existing_runs.JoinQuery,
        switches=("disable_runs",),
        authorized_by="service",
    ),
    Operation(
        "GET /threads/{thread_id}/runs/{run_id}/stream",
        existing_runs.join_stream,
        "threads.read",
        "stream",
        event_stream_response(),
        query=existing_runs.JoinQuery,
        switches=("disable_runs",),
        authorized_by="service",
    ),
    Operation(
        "POST /threads/{thread_id}/runs/{run_id}/cancel",
        existing_runs.cancel,
        "threads.update",
        "write",
        # 200 with `wait`, after the run has stopped.
        empty_response(status=202, other_responses={200: shapes.EmptyObject}),
        query=existing_runs.CancelQuery,
        switches=("disable_runs",),
        authorized_by="service",
    ),
)
STATELESS_RUNS = (
    Operation(
        "POST /runs",
        runs.create_stateless,
        "threads.create_run",
        "background",
        json_response(Run, *STATELESS),
        body=runs.StatelessRunBody,
        switches=("disable_runs",),
        authorized_by="service",
    ),
    Operation(
        "POST /runs/stream",
        runs.stream_stateless,
        "threads.create_run",
        "run",
        event_stream_response(*STATELESS, QueueFull),
        body=runs.StatelessRunBody,
        switches=("disable_runs",),
        authorized_by="service",
    ),
    Operation(
        "POST /runs/wait",
        runs.wait_stateless,
        "threads.create_run",
        "run",
        json_response(Any, *STATELESS, QueueFull),
        body=runs.StatelessRunBody,
        switches=("disable_runs",),
        authorized_by="service",
    ),
    Operation(
        "POST /runs/batch",
        runs.create_batch,
        "threads.create_run",
        "background",
        json_response(list[Run], *STATELESS),
        body=runs.RunBatch,
        switches=("disable_runs",),
        authorized_by="service",
    ),
    Operation(
        "POST /runs/search",
        run_search.search,
        "threads.search",
        "read",
        json_response(list[RunMatch], NotFound, AnswerTooLarge),
        body=run_search.RunSearch,
        switches=("disable_runs",),
        load="search",
    ),
    Operation(
        "POST /runs/cancel",
        existing_runs.cancel_runs,
        "threads.update",
        "write",
        empty_response(InvalidRequest, NotFound),
        body=existing_runs.CancelRunsBody,
        query=existing_runs.CancelRunsQuery,
        switches=("disable_runs",),
        authorized_by="service",
    ),
)
CRONS = (
    Operation(
        "POST /runs/crons",
        # langgraph.json has no switch for crons, which exist only to start runs.
        crons.create,
        "crons.create",
        "write",
        json_response(Cron, InvalidRequest, NotFound, UnsupportedField, *KEYED),
        body=crons.CronBody,
        switches=("disable_runs",),
    ),
    Operation(
        "POST /threads/{thread_id}/runs/crons",
        crons.create_on_thread,
        "crons.create",
        "write",
        json_response(Cron, InvalidRequest, UnsupportedField, *KEYED),
        body=crons.CronBody,
        switches=("disable_runs",),
    ),
    Operation(
        "POST /runs/crons/search",
        crons.search,
        "crons.search",
        "read",
        json_response(list[Cron], AnswerTooLarge),
        body=crons.CronSearch,
        switches=("disable_runs",),
        load="search",
    ),
    Operation(
        "POST /runs/crons/count",
        crons.count,
        "crons.search",
        "read",
        json_response(int),
        body=crons.CountBody,
        switches=("disable_runs",),
        load="search",
    ),
    Operation(
        "GET /runs/crons/{cron_id}",
        crons.get,
        "crons.read",
        "read",
        json_response(Cron),
        switches=("disable_runs",),
    ),
    Operation(
        "PATCH /runs/crons/{cron_id}",
        crons.update,
        "crons.update",
        "write",
        json_response(Cron, InvalidRequest, UnsupportedField),
        body=crons.CronPatch,
        switches=("disable_runs",),
    ),
    Operation(
        "DELETE /runs/crons/{cron_id}",
        crons.delete,
        "crons.delete",
        "write",
        empty_response(),
        switches=("disable_runs",),
    ),
)
STORE = (
    Operation(
        "PUT /store/items",
        store.put,
        "store.put",
        "write",
        empty_response(ContentTooLarge),
        body=store.PutBody,
        switches=("disable_store",),
    ),
    Operation(
        "GET /store/items",
        store.get,
        "store.get",
        "read",
        json_response(shapes.Item | None, InvalidRequest, AnswerTooLarge),
        query=store.ItemQuery,
        switches=("disable_store",),
        load="state",
    ),
    Operation(
        "DELETE /store/items",
        store.delete,
        "store.delete",
        "write",
        empty_response(),
        body=store.ItemKey,
        switches=("disable_store",),
    ),
    Operation(
        "POST /store/items/search",
        store.search,
        "store.search",
        "read",
        json_response(shapes.SearchItems, AnswerTooLarge),
        body=store.ItemSearch,
        switches=("disable_store",),
        load="state",
    ),
    Operation(
        "POST /store/namespaces",
        store.list_namespaces,
        "store.list_namespaces",
        "read",
        json_response(shapes.Namespaces),
        body=store.NamespaceSearch,
        switches=("disable_store",),
        load="state",
    ),
)
QUERY = (
    Operation(
        "POST /query",
        query.query,
        "threads.create_run",
        "run",
        json_response(
            shapes.QueryAnswer, NotFound, query.QueryInterrupted, query.QueryRunFailed, QueueFull, QueryTimeout
        ),
        switches=("disable_runs",),
        authorized_by="service",
        custom_body=query.QueryBody,
        # The question may come as query parameters, without a body.
        body_parser=query.read_query_body,
    ),
)

OPENAI_ERRORS: dict[int, Any] = dict.fromkeys((400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 503, 504), ErrorBody)
"""Errors of the OpenAI API, which have their own format."""


def openai_response(shape: Any) -> OperationResponse:
    """Describe a response with 200 and JSON, or with an error of the OpenAI API."""
    return OperationResponse(schema=shape, other_responses=OPENAI_ERRORS, has_own_errors=True)


OPENAI = (
    Operation(
        "POST /v1/chat/completions",
        chat.create,
        "threads.create_run",
        "run",
        openai_response(chat.ChatAnswer),
        body=chat.ChatBody,
        switches=("disable_openai", "disable_runs"),
        authorized_by="service",
    ),
    Operation(
        "GET /v1/models",
        models.list_models,
        "assistants.search",
        "read",
        openai_response(models.ModelList),
        switches=("disable_openai", "disable_assistants"),
        load="search",
    ),
    Operation(
        "GET /v1/models/{model}",
        models.get_model,
        "assistants.read",
        "read",
        openai_response(models.Model),
        switches=("disable_openai", "disable_assistants"),
        # The name of a graph may contain a slash.
        route_path="/v1/models/{model:path}",
    ),
    Operation(
        "POST /v1/responses",
        responses.create,
        "threads.create_run",
        "run",
        openai_response(ResponseAnswer),
        body=responses.ResponseBody,
        switches=("disable_openai", "disable_runs"),
        authorized_by="service",
    ),
    Operation(
        "GET /v1/responses/{response_id}",
        # `stream`: with `stream=true` the response follows the run.
        responses.get,
        "threads.read",
        "stream",
        openai_response(ResponseAnswer),
        query=responses.ResponseQuery,
        switches=("disable_openai", "disable_runs"),
        authorized_by="service",
    ),
    Operation(
        "POST /v1/responses/{response_id}/cancel",
        responses.cancel,
        "threads.update",
        "write",
        openai_response(ResponseAnswer),
        switches=("disable_openai", "disable_runs"),
        authorized_by="service",
    ),
    Operation(
        "GET /v1/responses/{response_id}/input_items",
        responses.input_items,
        "threads.read",
        "read",
        openai_response(ItemList),
        query=ListQuery,
        switches=("disable_openai", "disable_runs"),
        authorized_by="service",
    ),
    Operation(
        "POST /v1/conversations",
        conversations.create,
        "threads.create",
        "write",
        openai_response(conversations.ConversationAnswer),
        body=conversations.ConversationBody,
        switches=("disable_openai", "disable_threads"),
    ),
    Operation(
        "GET /v1/conversations/{conversation_id}",
        conversations.get,
        "threads.read",
        "read",
        openai_response(conversations.ConversationAnswer),
        switches=("disable_openai", "disable_threads"),
    ),
    Operation(
        "POST /v1/conversations/{conversation_id}",
        conversations.update,
        "threads.update",
        "write",
        openai_response(conversations.ConversationAnswer),
        body=conversations.ConversationPatch,
        switches=("disable_openai", "disable_threads"),
    ),
    Operation(
        "GET /v1/conversations/{conversation_id}/items",
        conversations.list_items,
        "threads.read",
        "read",
        openai_response(ItemList),
        query=ListQuery,
        switches=("disable_openai", "disable_threads"),
        load="state",
    ),
    Operation(
        "POST /v1/conversations/{conversation_id}/items",
        conversations.add_items,
        "threads.update",
        "write",
        openai_response(ItemList),
        body=conversations.ItemsBody,
        switches=("disable_openai", "disable_threads"),
    ),
    Operation(
        "GET /v1/conversations/{conversation_id}/items/{item_id}",
        conversations.get_item,
        "threads.read",
        "read",
        openai_response(conversations.ItemAnswer),
        switches=("disable_openai", "disable_threads"),
        load="state",
    ),
    Operation(
        "DELETE /v1/conversations/{conversation_id}/items/{item_id}",
        conversations.delete_item,
        "threads.update",
        "write",
        openai_response(conversations.ConversationAnswer),
        switches=("disable_openai", "disable_threads"),
    ),
    Operation(
        "DELETE /v1/responses/{response_id}",
        responses.delete,
        "threads.delete",
        "write",
        openai_response(responses.DeletedResponse),
        switches=("disable_openai", "disable_runs"),
        authorized_by="service",
    ),
    Operation(
        "DELETE /v1/conversations/{conversation_id}",
        conversations.delete,
        "threads.delete",
        "write",
        openai_response(conversations.DeletedConversation),
        switches=("disable_openai", "disable_threads"),
    ),
)

A2A = (
    Operation(
        "GET /a2a/{assistant_id}/.well-known/agent-card.json",
        cards.card,
        "public",
        "public",
        json_response(dict[str, Any], NotFound, Unauthenticated, Forbidden),
        switches=("disable_a2a", "disable_runs"),
        route_path="/a2a/{assistant_id:path}/.well-known/agent-card.json",
    ),
    Operation(
        "GET /.well-known/agent-card.json",
        cards.well_known_card,
        "public",
        "public",
        json_response(dict[str, Any], NotFound, Unauthenticated, Forbidden),
        query=cards.CardQuery,
        switches=("disable_a2a", "disable_runs"),
    ),
    Operation(
        "POST /a2a/{assistant_id}",
        # `stream`: some methods wait for a run, and others follow it.
        a2a.endpoint,
        "threads.create_run",
        "stream",
        json_response(a2a.RpcAnswer, NotFound, QueueFull),
        switches=("disable_a2a", "disable_runs"),
        authorized_by="service",
        custom_body=a2a.RpcBody,
        route_path="/a2a/{assistant_id:path}",
    ),
)
"""The agents. A graph's name may have a slash, and the path of an agent may end in one."""

MCP = (
    Operation(
        "POST /mcp",
        mcp.post,
        "threads.create_run",
        "stream",
        json_response(dict[str, Any], QueueFull, other_responses={202: None, 400: dict[str, Any], 404: dict[str, Any]}),
        switches=("disable_mcp", "disable_runs"),
        authorized_by="service",
        custom_body=mcp.McpMessage,
        # MCP clients find the authorization server by this parameter (RFC 9728).
        challenge=mcp_metadata.challenge_of,
    ),
    Operation(
        "GET /.well-known/oauth-protected-resource",
        mcp_metadata.resource_metadata,
        "public",
        "public",
        json_response(mcp_metadata.ResourceMetadata, NotFound),
        switches=("disable_mcp", "disable_runs"),
    ),
    Operation(
        # RFC 9728 puts the path of a resource last. MCP clients try this address first, then the root.
        "GET /.well-known/oauth-protected-resource/mcp",
        mcp_metadata.resource_metadata,
        "public",
        "public",
        json_response(mcp_metadata.ResourceMetadata, NotFound),
        switches=("disable_mcp", "disable_runs"),
    ),
)

AG_UI = (
    Operation(
        "POST /ag-ui/{assistant_id}",
        agui_runs.run,
        "threads.create_run",
        "run",
        event_stream_response(NotFound),
        body=RunBody,
        query=RunQuery,
        switches=("disable_agui", "disable_runs"),
        route_path="/ag-ui/{assistant_id:path}",
        authorized_by="service",
    ),
)

API_KEYS = (
    Operation(
        "GET /api-keys",
        api_keys.search,
        "caller",
        "read",
        json_response(list[api_keys.OwnApiKey], NotFound),
        query=api_keys.ListQuery,
    ),
    Operation(
        "DELETE /api-keys/{key_id}",
        api_keys.revoke,
        "caller",
        "write",
        empty_response(),
    ),
)
CONSOLE = (
    Operation(
        "GET /console",
        console.open_page,
        "public",
        "public",
        OperationResponse(status=307, media_type=None),
        switches=("disable_ui",),
    ),
    Operation(
        "GET /console/{path}",
        console.file,
        "public",
        "public",
        OperationResponse(media_type="text/html"),
        switches=("disable_ui",),
        route_path="/console/{path:path}",
    ),
    Operation(
        "POST /console/session",
        # The credential is in the body, so the caller is not known before.
        console.sign_in,
        "public",
        "public",
        empty_response(Unauthenticated, InvalidRequest),
        body=console.CredentialBody,
        switches=("disable_ui",),
    ),
    Operation(
        "DELETE /console/session",
        console.sign_out,
        "public",
        "public",
        empty_response(),
        switches=("disable_ui",),
    ),
)
"""The built-in page. It is served if it was built, and it is no part of the API that `/openapi.json` describes."""

TABLE: tuple[Operation, ...] = (
    *STATELESS_RUNS,
    *THREAD_RUNS,
    *OPENAI,
    *AG_UI,
    *THREADS,
    *SYSTEM,
    *ASSISTANTS,
    *CRONS,
    *STORE,
    *QUERY,
    *A2A,
    *MCP,
    *API_KEYS,
)
"""The most frequent operations come first, because the router compares them in order."""

SOCKETS: tuple[WebSocketOperation, ...] = (
    WebSocketOperation(path="/threads/{thread_id}/stream/events", endpoint=event_socket.serve, event="threads.read"),
)
"""WebSockets. Each has the path of an HTTP operation, and is enabled or disabled with it."""
