"""Crons: create, update, search and delete schedules that start runs."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api import idempotency
from threadkeep.api.body import validate
from threadkeep.api.conditions import MetadataCondition
from threadkeep.api.langgraph.runs import RunBody
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.paging import PageBody, bounded_page, select_fields
from threadkeep.api.responses import json_response, no_content_response
from threadkeep.base import json
from threadkeep.base.problems import InvalidRequest, NotFound, ValidationFailed
from threadkeep.duties import cron_schedule
from threadkeep.duties.cron_schedule import MAX_SCHEDULE_LENGTH
from threadkeep.postgres.statement_timeout import search_connection
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.assistants import ResolvedAssistant
from threadkeep.runs.request import MultitaskStrategy, Nodes, RunConfig, RunRequest, StreamMode, check_config
from threadkeep.tables import crons
from threadkeep.tables.crons import Cron, CronDefinition, CronFilter, NewCron, OnRunCompleted

NULLABLE_FIELDS = frozenset({"end_time", "timezone"})
"""Fields that an update may set to null. Null in any other field is ignored."""
SCHEDULE_FIELDS = frozenset({"schedule", "timezone", "end_time", "enabled"})
"""Fields from which the next fire time is computed."""

CronField = Literal[
    "cron_id",
    "assistant_id",
    "thread_id",
    "user_id",
    "end_time",
    "schedule",
    "timezone",
    "payload",
    "next_run_date",
    "metadata",
    "on_run_completed",
    "enabled",
    "created_at",
    "updated_at",
]
CronOrder = Literal["cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "next_run_date", "end_time"]


def _in_utc(value: datetime) -> datetime:
    """Convert a time to UTC. A time without an offset is in UTC."""
    # Near the first and the last year of datetime, a change of the time zone overflows.
    if value.year < 1900 or value.year > 9000:
        raise ValueError("is out of range")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


EndTime = Annotated[datetime, AfterValidator(_in_utc)]


class CronBody(RunBody):
    """The body of a request that creates a cron: a schedule and the body of its runs."""

    schedule: str = Field(min_length=1, max_length=MAX_SCHEDULE_LENGTH)
    timezone: str | None = Field(default=None, max_length=100)
    end_time: EndTime | None = None
    enabled: bool = True
    on_run_completed: OnRunCompleted = "delete"
    """Ignored if the cron has a thread."""
    multitask_strategy: MultitaskStrategy = "enqueue"


class CronPatch(BaseModel):
    """The body of a request that updates a cron: the fields to change."""

    model_config = ConfigDict(extra="ignore")

    schedule: str | None = None
    timezone: str | None = None
    end_time: EndTime | None = None
    enabled: bool | None = None
    on_run_completed: OnRunCompleted | None = None
    multitask_strategy: MultitaskStrategy | None = None
    input: Any = None
    metadata: dict[str, Any] | None = None
    """Merged into the cron's metadata."""
    config: RunConfig | None = None
    context: dict[str, Any] | None = None
    webhook: str | None = None
    interrupt_before: Nodes | None = None
    interrupt_after: Nodes | None = None
    stream_mode: StreamMode | list[StreamMode] | None = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    durability: Literal["sync", "async", "exit"] | None = None

    @property
    def set_fields(self) -> dict[str, Any]:
        """The fields that the client set, without those that null does not change."""
        # As JSON, because the fields become a part of the stored payload.
        fields = self.model_dump(mode="json", exclude_unset=True)
        return {name: value for name, value in fields.items() if value is not None or name in NULLABLE_FIELDS}


class CountBody(BaseModel):
    """The body of a count of crons."""

    model_config = ConfigDict(extra="ignore")

    assistant_id: str | None = None
    """The id of an assistant or the name of a graph."""
    thread_id: UUID | None = None
    enabled: bool | None = None
    metadata: MetadataCondition | None = None


class CronSearch(CountBody, PageBody):
    """The body of a search for crons."""

    sort_by: CronOrder = "created_at"
    select: Annotated[list[CronField], Field(max_length=100)] | None = None


async def create(call: AuthorizedRequest[CronBody, None]) -> Response:
    """POST /runs/crons: create a cron. Each of its runs gets a new thread."""
    return await _create(call, None)


async def create_on_thread(call: AuthorizedRequest[CronBody, None]) -> Response:
    """POST /threads/{thread_id}/runs/crons: create a cron. All its runs use this thread."""
    return await _create(call, call.thread_id)


async def search(call: AuthorizedRequest[CronSearch, None]) -> Response:
    """POST /runs/crons/search: search crons."""
    body, conditions = call.body, _conditions(call)
    order, request = (body.sort_by, body.sort_order), body.page(call.state.settings.answer_bytes)
    async with search_connection(call.state.pool, call.filters, call.state.settings.search_timeout_s) as conn:
        rows = await crons.search(conn, call.filters, conditions, order=order, page=request)
        total = await crons.count(conn, call.filters, conditions)
    return await bounded_page(rows, request, lambda cron: select_fields(cron, list(body.select or [])), total=total)


async def count(call: AuthorizedRequest[CountBody, None]) -> Response:
    """POST /runs/crons/count: count crons."""
    async with search_connection(call.state.pool, call.filters, call.state.settings.search_timeout_s) as conn:
        return json_response(await crons.count(conn, call.filters, _conditions(call)))


async def get(call: AuthorizedRequest[None, None]) -> Response:
    """GET /runs/crons/{cron_id}: read a cron."""
    return json_response(await _require_cron(call))


async def update(call: AuthorizedRequest[CronPatch, None]) -> Response:
    """PATCH /runs/crons/{cron_id}: update a cron. Omitted fields stay as they are."""
    cron_id, changes = call.cron_id, call.body.set_fields
    if not changes:
        raise InvalidRequest("Request body cannot be empty")
    # Before the transaction: a handler of the project may take long, and a connection and a lock would wait for it.
    runs = await _authorized_runs(call, await _require_cron(call), changes)
    async with call.state.pool.connection(call.filters) as conn, conn.transaction():
        cron = await crons.lock(conn, call.filters, cron_id)
        if cron is None:
            raise NotFound(f"Cron '{cron_id}' not found")
        body, payload = _merged(call, cron, changes)
        definition = await _definition(
            call, body, payload, thread_id=cron.thread_id, now=await crons.database_time(conn)
        )
        # A fire time that is due stays due. A new one would skip it.
        if not SCHEDULE_FIELDS & changes.keys():
            definition = replace(definition, next_run_date=cron.next_run_date)
        updated = await crons.update(conn, call.filters, cron_id, definition, runs=runs)
    return json_response(updated)


def _merged(
    call: AuthorizedRequest[CronPatch, None], cron: Cron, changes: Mapping[str, Any]
) -> tuple[CronBody, dict[str, Any]]:
    """Return the cron's body with the changes, as a model and as the payload to store."""
    metadata = call.filters.merge_metadata(cron.metadata.load(), changes.get("metadata", {}))
    payload = {**cron.payload.load(), **changes, "metadata": metadata}
    return cast("CronBody", validate(CronBody, payload)), payload


async def _authorized_runs(call: AuthorizedRequest[CronPatch, None], cron: Cron, changes: Mapping[str, Any]) -> Filters:
    """Return the filters of the threads that the changed cron's runs may use. Raise Forbidden if it may not start them."""
    body, _ = _merged(call, cron, changes)
    request = _request(body, str(cron.assistant_id), cron.thread_id)
    return (await call.state.runs.authorize(call.caller, request)).threads


async def _require_cron(call: AuthorizedRequest[Any, Any]) -> Cron:
    async with call.state.pool.connection(call.filters) as conn:
        cron = await crons.get(conn, call.filters, call.cron_id)
    if cron is None:
        raise NotFound(f"Cron '{call.cron_id}' not found")
    return cron


async def delete(call: AuthorizedRequest[None, None]) -> Response:
    """DELETE /runs/crons/{cron_id}: delete a cron. Its runs are not deleted."""
    cron_id = call.cron_id
    async with call.state.pool.connection(call.filters) as conn:
        is_deleted = await crons.delete(conn, call.filters, cron_id)
    if not is_deleted:
        raise NotFound(f"Cron '{cron_id}' not found")
    return no_content_response()


async def _create(call: AuthorizedRequest[CronBody, None], thread_id: UUID | None) -> Response:
    body = call.body
    authorized = await call.state.runs.authorize(call.caller, _request(body, body.assistant_id, thread_id))
    assistant = await _assistant(call, authorized.assistants, body.assistant_id)
    check_config({**assistant.config, **(body.config or {})}, call.state.settings.max_recursion)
    payload = {**body.model_dump(mode="json", exclude_unset=True), "assistant_id": str(assistant.assistant_id)}
    if body.checkpoint_during is not None:
        # Fires read the payload as `GraphRunOptions`, which lack the deprecated field.
        payload["durability"] = body.run_spec.durability
    async with call.state.pool.connection() as conn:
        # Fire times follow the clock of Postgres, because clocks of processes differ.
        now = await crons.database_time(conn)
    new = NewCron(
        assistant_id=assistant.assistant_id,
        thread_id=thread_id,
        definition=await _definition(call, body, payload, thread_id=thread_id, now=now),
        filters=call.filters,
        runs=authorized.threads,
    )
    cron = await idempotency.create_cron_once(call, new)
    if cron is None:
        raise NotFound(f"Thread with ID {thread_id} not found")
    return json_response(cron)


def _request(body: CronBody, assistant: str, thread_id: UUID | None) -> RunRequest:
    """Return a cron's run as a run request, for authorization."""
    return RunRequest(
        spec=body.run_spec,
        assistant=assistant,
        thread_id=thread_id,
        metadata=body.merged_metadata,
        multitask_strategy=body.multitask_strategy,
        temporary=thread_id is None and body.on_run_completed == "delete",
    )


async def _assistant(call: AuthorizedRequest[CronBody, None], filters: Filters, reference: str) -> ResolvedAssistant:
    try:
        return await call.assistants.resolve(filters, reference)
    except (ValidationFailed, NotFound):
        raise NotFound(f"Assistant {reference[:100]!r} not found") from None


async def _definition(
    call: AuthorizedRequest[Any, None],
    body: CronBody,
    payload: Mapping[str, Any],
    *,
    thread_id: UUID | None,
    now: datetime,
) -> CronDefinition:
    """Return the cron that `body` describes. Raise the Problem with which its runs would be refused."""
    call.state.runs.webhooks.check(body.run_spec.webhook)
    limit = call.state.settings.metadata_bytes
    json.check_bytes(limit, metadata=body.metadata, config=body.config, context=body.context)
    check_config(body.config or {}, call.state.settings.max_recursion)
    zone = await cron_schedule.load_timezone(body.timezone)
    return CronDefinition(
        schedule=body.schedule,
        timezone=body.timezone,
        end_time=body.end_time,
        enabled=body.enabled,
        on_run_completed=body.on_run_completed if thread_id is None else None,
        payload=payload,
        metadata=body.metadata,
        next_run_date=cron_schedule.next_run_date(body.schedule, zone, now, body.end_time),
        # A run of a cron has no request, so the user of its graph is stored here.
        principal=call.caller.user,
    )


def _conditions(call: AuthorizedRequest[Any, None]) -> CronFilter:
    body: CountBody = call.body
    return CronFilter(
        assistant_id=call.assistants.id_of(body.assistant_id) if body.assistant_id else None,
        thread_id=body.thread_id,
        enabled=body.enabled,
        metadata=body.metadata,
    )
