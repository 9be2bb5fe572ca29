"""Assistants: create, update, search and delete assistants, and restore earlier versions."""

from collections.abc import Collection
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt
from starlette.responses import Response

from threadkeep.api.conditions import MetadataCondition
from threadkeep.api.langgraph import graph_schemas
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.paging import MAX_OFFSET, PageBody, bounded_page, select_fields
from threadkeep.api.responses import json_response, no_content_response
from threadkeep.auth.authorization import permissions
from threadkeep.base import json
from threadkeep.base.problems import Conflict, InvalidRequest, NotFound, Problem
from threadkeep.postgres.bounded_page import PageRequest
from threadkeep.postgres.statement_timeout import search_connection
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.runs.request import check_config, without_reserved_keys
from threadkeep.tables import assistant_versions, assistants, threads
from threadkeep.tables.assistants import Assistant, AssistantChange, AssistantFilter, NewAssistant

AssistantField = Literal[
    "assistant_id",
    "graph_id",
    "name",
    "description",
    "config",
    "context",
    "created_at",
    "updated_at",
    "metadata",
    "version",
]
Name = Annotated[str, Field(max_length=1000)]
Description = Annotated[str, Field(max_length=100_000)]


class ConfigBody(BaseModel):
    """An assistant's config. Other keys are stored unchanged."""

    model_config = ConfigDict(extra="allow")

    tags: list[str] | None = None
    # Strict: a stored `"5"` or `5.0` would fail each later run of the assistant.
    recursion_limit: StrictInt | None = None
    max_concurrency: StrictInt | None = None
    run_name: str | None = None
    configurable: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class AssistantFields(BaseModel):
    """The fields that the bodies of create and update share."""

    model_config = ConfigDict(extra="ignore")

    config: ConfigBody | None = None
    context: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    name: Name | None = None
    description: Description | None = None

    @property
    def config_without_configurable(self) -> dict[str, Any] | None:
        """The config without `configurable`."""
        return self.config and self.config.model_dump(exclude_unset=True, exclude={"configurable"})

    @property
    def resolve_context(self) -> dict[str, Any] | None:
        """The context, from `context` or `config.configurable`, or None. Raise InvalidRequest if both are set."""
        configurable = self.config.configurable if self.config else None
        # LangGraph's server refuses both with this text.
        if self.context and configurable:
            raise InvalidRequest(
                "Cannot specify both configurable and context. Prefer setting context alone. Context was introduced "
                "in LangGraph 0.6.0 and is the long term planned replacement for configurable."
            )
        if configurable is None and self.context is None:
            return None
        return without_reserved_keys({"configurable": configurable or self.context})


class AssistantBody(AssistantFields):
    """The body of a request that creates an assistant."""

    graph_id: str
    assistant_id: UUID | None = None
    if_exists: Literal["raise", "do_nothing"] = "raise"


class AssistantPatch(AssistantFields):
    """The body of a request that updates an assistant. Omitted fields stay as they are."""

    graph_id: str | None = None


class DeleteQuery(BaseModel):
    """The query of a request that deletes an assistant."""

    model_config = ConfigDict(extra="ignore")

    delete_threads: bool = False


class CountBody(BaseModel):
    """The conditions of a search for assistants."""

    model_config = ConfigDict(extra="ignore")

    graph_id: str | None = None
    name: Name | None = None
    metadata: MetadataCondition | None = None

    def search(self, served: Collection[str]) -> AssistantFilter:
        """Return the filter. Only assistants of the graphs in `served` match."""
        return AssistantFilter(served=served, graph_id=self.graph_id, name=self.name, metadata=self.metadata)


class AssistantSearch(PageBody, CountBody):
    """The body of a search for assistants."""

    sort_by: Literal["assistant_id", "created_at", "updated_at", "name", "graph_id"] = "created_at"
    select: Annotated[list[AssistantField], Field(max_length=100)] | None = None


class VersionsBody(BaseModel):
    """The body of a list of versions."""

    model_config = ConfigDict(extra="ignore")

    metadata: MetadataCondition | None = None
    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)


class RestoreVersionBody(BaseModel):
    """The version to restore."""

    model_config = ConfigDict(extra="ignore")

    # The column is an integer, and a larger number would be an error of Postgres.
    version: int = Field(ge=1, le=2**31 - 1)


def _depth(value: object) -> bool | int:
    """Parse `xray`: a boolean, or a depth greater than 0. `1` is a depth, not `true`."""
    # pydantic alone would read `1` as true.
    text = str(value).lower()
    if text in {"true", "false"}:
        return text == "true"
    if text.isascii() and text.isdecimal() and int(text) > 0:
        return int(text)
    raise ValueError("Invalid xray value")


class GraphQuery(BaseModel):
    """The query of a graph."""

    model_config = ConfigDict(extra="ignore")

    xray: Annotated[bool | int, BeforeValidator(_depth)] = False


class SubgraphsQuery(BaseModel):
    """The query of a list of subgraphs."""

    model_config = ConfigDict(extra="ignore")

    recurse: bool = False


async def create(call: AuthorizedRequest[AssistantBody, None]) -> Response:
    """POST /assistants: create an assistant."""
    body = call.body
    _check_graph(call, body.graph_id)
    _check_sizes(call)
    new = NewAssistant(
        assistant_id=body.assistant_id or uuid4(),
        graph_id=body.graph_id,
        # An empty name is a name.
        name="Untitled" if body.name is None else body.name,
        description=body.description,
        config=body.config_without_configurable or {},
        context=body.resolve_context or {},
        metadata=call.filters.with_owner(body.metadata or {}),
        principal=call.caller.identity,
    )
    async with call.state.pool.connection(call.filters) as conn, conn.transaction():
        # Before the insert: it locks the count of the principal, so that parallel requests cannot exceed the limit
        # together.
        await call.state.quotas.hold_row(conn, "assistants", call.caller.identity)
        assistant = await assistants.create(conn, new)
    if assistant is None and body.if_exists == "do_nothing":
        # The assistant that exists may belong to another principal, so reading it needs a permission of its own.
        readable = await call.authorize("assistants.read", {"assistant_id": new.assistant_id, "metadata": {}})
        async with call.state.pool.connection(readable) as conn:
            assistant = await assistants.get(conn, readable, new.assistant_id)
    if assistant is None:
        raise Conflict(f"Assistant {new.assistant_id} already exists")
    return json_response(assistant)


def _check_sizes(call: AuthorizedRequest[AssistantBody, None] | AuthorizedRequest[AssistantPatch, None]) -> None:
    body, limit = call.body, call.state.settings.metadata_bytes
    json.check_bytes(
        limit, metadata=body.metadata, config=body.config_without_configurable, context=body.resolve_context
    )
    check_config(body.config_without_configurable or {}, call.state.settings.max_recursion)


async def get(call: AuthorizedRequest[None, None]) -> Response:
    """GET /assistants/{assistant_id}: read an assistant."""
    return json_response(await _require_assistant(call))


async def update(call: AuthorizedRequest[AssistantPatch, None]) -> Response:
    """PATCH /assistants/{assistant_id}: update an assistant as a new version. Metadata is merged, other fields replaced."""
    body, assistant_id = call.body, call.assistant_id
    if body.graph_id is not None:
        _check_graph(call, body.graph_id)
    _check_sizes(call)
    change = AssistantChange(
        metadata_bytes=call.state.settings.metadata_bytes,
        graph_id=body.graph_id,
        name=body.name,
        description=body.description,
        config=body.config_without_configurable,
        context=body.resolve_context,
        metadata=body.metadata,
    )
    assistant = await assistants.update(call.state.pool, call.filters, assistant_id, change)
    if assistant is None:
        # The update cannot tell its two reasons apart, and only a refused request pays for the second query.
        raise await _not_updated(call)
    call.assistants.invalidate(assistant_id)
    return json_response(assistant)


async def delete(call: AuthorizedRequest[None, DeleteQuery]) -> Response:
    """DELETE /assistants/{assistant_id}: delete an assistant and its versions.

    `delete_threads` deletes its threads in the same transaction.
    """
    assistant_id, with_threads = call.assistant_id, call.query.delete_threads
    # The permission for the threads comes first. Without it, the assistant stays too.
    deletable = await _deletable_threads(call) if with_threads else call.filters
    async with call.state.pool.connection(call.filters.in_common(deletable)) as conn, conn.transaction():
        if not await assistants.delete(conn, call.filters, assistant_id):
            raise NotFound(f"Assistant with ID {assistant_id} not found")
        if with_threads:
            its = await assistants.assistant_thread_ids(conn, deletable, assistant_id)
            # A run may use a thread with another assistant meanwhile. `of_assistant` is checked again after the lock.
            await threads.delete(conn, deletable, its, of_assistant=assistant_id)
    call.assistants.invalidate(assistant_id)
    return no_content_response()


async def _deletable_threads(call: AuthorizedRequest[None, DeleteQuery]) -> Filters:
    """Return the filters of the threads that the caller may delete. Raise Forbidden if it may delete none."""
    filters = UNRESTRICTED
    for permission in permissions("assistant.delete", frozenset({"the threads are deleted too"})):
        if permission.resource == "thread":
            filters = await call.authorize(permission.event, {"thread_id": None, "run_id": None, "metadata": {}})
    return filters


async def search(call: AuthorizedRequest[AssistantSearch, None]) -> Response:
    """POST /assistants/search: search assistants."""
    body = call.body
    order, request = (body.sort_by, body.sort_order), body.page(call.state.settings.answer_bytes)
    async with search_connection(call.state.pool, call.filters, call.state.settings.search_timeout_s) as conn:
        rows = await assistants.search(conn, call.filters, body.search(call.state.graphs), order=order, page=request)
        total = await assistants.count(conn, call.filters, body.search(call.state.graphs))
    return await bounded_page(rows, request, lambda row: select_fields(row, list(body.select or [])), total=total)


async def count(call: AuthorizedRequest[CountBody, None]) -> Response:
    """POST /assistants/count: count assistants."""
    async with search_connection(call.state.pool, call.filters, call.state.settings.search_timeout_s) as conn:
        return json_response(await assistants.count(conn, call.filters, call.body.search(call.state.graphs)))


async def versions(call: AuthorizedRequest[VersionsBody, None]) -> Response:
    """POST /assistants/{assistant_id}/versions: list the versions of an assistant, newest first."""
    body, assistant_id = call.body, call.assistant_id
    page = PageRequest(limit=body.limit, offset=body.offset, answer_bytes=call.state.settings.answer_bytes)
    async with call.state.pool.connection(call.filters) as conn:
        rows = await assistant_versions.search(conn, call.filters, assistant_id, body.metadata or {}, page)
        # An offset after the last version gives no rows either.
        if not rows and await assistants.get(conn, call.filters, assistant_id) is None:
            raise NotFound(f"Assistant {assistant_id} not found")
    return await bounded_page(rows, page)


async def set_latest_version(call: AuthorizedRequest[RestoreVersionBody, None]) -> Response:
    """POST /assistants/{assistant_id}/latest: restore all fields of a version."""
    assistant_id, version = call.assistant_id, call.body.version
    assistant = await assistant_versions.restore(call.state.pool, call.filters, assistant_id, version)
    if assistant is None:
        # No row was changed: either there is no such assistant, or no such version.
        await _require_assistant(call, f"Assistant {assistant_id} not found")
        raise NotFound(f"Version {version} not found for assistant {assistant_id}")
    call.assistants.invalidate(assistant_id)
    return json_response(assistant)


async def get_graph(call: AuthorizedRequest[None, GraphQuery]) -> Response:
    """GET /assistants/{assistant_id}/graph: read the nodes and edges of its graph."""
    assistant = await _require_assistant(call)
    return json_response(
        await graph_schemas.graph_drawing(call.state.graphs, call.tenant, assistant, xray=call.query.xray)
    )


async def get_schemas(call: AuthorizedRequest[None, None]) -> Response:
    """GET /assistants/{assistant_id}/schemas: read the JSON schemas of its graph."""
    assistant = await _require_assistant(call)
    return json_response(await graph_schemas.assistant_schemas(call.state.graphs, call.tenant, assistant))


async def get_subgraphs(call: AuthorizedRequest[None, SubgraphsQuery]) -> Response:
    """GET /assistants/{assistant_id}/subgraphs[/{namespace}]: read the JSON schemas of its graph's subgraphs."""
    namespace = call.request.path_params.get("namespace")
    assistant = await _require_assistant(call)
    schemas = await graph_schemas.subgraph_schemas(
        call.state.graphs, call.tenant, assistant, namespace=namespace, recurse=call.query.recurse
    )
    return json_response(schemas)


async def _require_assistant(call: AuthorizedRequest[Any, Any], error: str = "Not Found") -> Assistant:
    """Return the assistant of the path. Raise NotFound with the text `error` if the caller has no such assistant."""
    assistant_id = call.assistant_id
    async with call.state.pool.connection(call.filters) as conn:
        assistant = await assistants.get(conn, call.filters, assistant_id)
    if assistant is None:
        raise NotFound(error)
    return assistant


async def _not_updated(call: AuthorizedRequest[AssistantPatch, None]) -> Problem:
    """Return the problem of an update that changed no row: metadata too large, or no such assistant."""
    missing, limit = f"Assistant {call.assistant_id} not found", call.state.settings.metadata_bytes
    metadata = (await _require_assistant(call, missing)).metadata.load() | (call.body.metadata or {})
    return json.too_large("metadata", limit) if len(json.dumps(metadata)) > limit else NotFound(missing)


def _check_graph(call: AuthorizedRequest[Any, Any], graph_id: str) -> None:
    """Raise NotFound with the names of all graphs if `graph_id` is not one of them."""
    if graph_id not in call.state.graphs:
        raise graph_schemas.graph_not_found(call.state.graphs, graph_id)
