"""Operation: a line of the route table, and the `AuthorizedRequest` that its endpoint gets.

A call can only be made from an operation, so that no endpoint forgets to ask who is calling. What kind of operation it
is, who authorizes it and which switch takes it away are fields of the line. Nothing is inferred from its path.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from threadkeep.api import auth_values, configurable_headers
from threadkeep.api.authentication import authenticate
from threadkeep.api.body import read_body, read_bytes, read_query
from threadkeep.api.openai.message_graphs import MessageGraphs
from threadkeep.api.openai.object_ids import thread_of_conversation
from threadkeep.api.ops.scrape import MetricsExporter
from threadkeep.api.request_shares import Load, RequestShares
from threadkeep.api.responses import CountedResponse
from threadkeep.api.shapes import Event as ServerEvent
from threadkeep.auth import Authenticator, AuthEvent, AuthValue
from threadkeep.auth.caller import ANYBODY, Caller
from threadkeep.base.fair_limiter import ANONYMOUS
from threadkeep.base.problems import Conflict, Problem, ValidationFailed
from threadkeep.base.signals import ProcessSignals
from threadkeep.graphs import LoadedGraph, Tenant
from threadkeep.persistence.store import Store
from threadkeep.postgres.listen import NotificationHub
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.retry import CONFLICTS, retry_after_conflict
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.project import Project
from threadkeep.runs.assistants import AssistantCache
from threadkeep.runs.calling_run import CALLING_RUN, CallingRun
from threadkeep.runs.quotas import Quotas
from threadkeep.runs.service import RunService
from threadkeep.runs.slots import Slots
from threadkeep.settings import Settings
from threadkeep.tables.idempotency_keys import IdempotencyKey
from threadkeep.threads.history import ThreadParts

BodyT = TypeVar("BodyT")
QueryT = TypeVar("QueryT")

Kind: TypeAlias = Literal["public", "read", "write", "run", "background", "stream"]
"""`public`: for anybody. `run`: it is answered when a run has ended, and takes a slot. `background`: it leaves runs in the
queue. `stream`: it is answered for as long as something goes on."""
Switch: TypeAlias = Literal[
    "disable_assistants",
    "disable_runs",
    "disable_threads",
    "disable_store",
    "disable_meta",
    "disable_mcp",
    "disable_a2a",
    "disable_openai",
]
"""The key of `http` in langgraph.json that takes an operation away."""
IDEMPOTENCY_HEADER: Final = "idempotency-key"
IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
"""Visible ASCII."""
STARTING: Final[frozenset[Kind]] = frozenset({"run", "background"})
"""A run that was started is not started again: the run service itself repeats what conflicts before."""
LONG: Final[frozenset[Kind]] = frozenset({"run", "stream"})
"""Answers that count as one of their principal's open streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiDocs:
    """What tells of the server itself, made once."""

    spec: bytes
    """`/openapi.json`."""
    page: bytes
    """`/docs`."""
    policy: str
    """The page's Content-Security-Policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """What the lifespan opened, for endpoints."""

    settings: Settings
    project: Project
    docs: ApiDocs
    authenticator: Authenticator | None
    """None: authentication is off."""
    signals: ProcessSignals
    pool: Pool
    wakeups: NotificationHub
    graphs: Mapping[str, LoadedGraph]
    threads: ThreadParts
    store: Store
    slots: Slots
    quotas: Quotas
    shares: RequestShares
    assistants: AssistantCache
    runs: RunService
    message_graphs: MessageGraphs
    metrics_exporter: MetricsExporter


STATE: Final = "threadkeep"
"""The key of the lifespan's state under which this is found. A project's own application may have others."""


def state_of(connection: HTTPConnection) -> AppState:
    """Past `request.state`, which makes two objects more of each look."""
    return connection.scope["state"][STATE]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizedRequest(Generic[BodyT, QueryT]):
    """One request, read, and authorized unless that is left to the service that the endpoint calls."""

    request: Request[Any]
    body: BodyT
    query: QueryT
    caller: Caller = ANYBODY
    authorized: Filters | None = None
    """None: the service that the endpoint calls authorizes the caller."""
    owner_metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Metadata that authorization wrote, for an endpoint whose body has none."""

    @property
    def state(self) -> AppState:
        """What the lifespan opened."""
        return state_of(self.request)

    @property
    def filters(self) -> Filters:
        """The rows that the caller may see."""
        if self.authorized is None:
            raise RuntimeError("this operation is authorized by the service that it calls")
        return self.authorized

    @property
    def tenant(self) -> Tenant:
        """The caller to graphs that are opened for them."""
        return Tenant.of(self.caller.user, self.filters)

    async def authorize(self, event: AuthEvent, value: AuthValue) -> Filters:
        """The rows that the caller may see for one more event than the table's. Forbidden."""
        return await self.caller.authorize(event, value)

    @property
    def assistants(self) -> AssistantCache:
        return self.state.assistants

    @property
    def forwarded_headers(self) -> Mapping[str, str]:
        """The headers of the request that langgraph.json hands on to graphs, in a run's `configurable`."""
        names = self.state.project.http.configurable_headers
        return configurable_headers.matching_headers(self.request.headers, names) if names.includes else {}

    @property
    def idempotency_key(self) -> IdempotencyKey | None:
        """The key of the request, or None if it has none. Invalid if it is too long or has other characters.

        The same request is the same method, path and body, of the same principal.
        """
        sent = self.request.headers.get(IDEMPOTENCY_HEADER)
        if sent is None:
            return None
        if not IDEMPOTENCY_KEY.fullmatch(sent):
            raise ValidationFailed("Idempotency-Key must be 1 to 255 visible ASCII characters")
        parts = [self.request.method, self.request.url.path, _plain(self.body)]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()
        return IdempotencyKey(principal=self.caller.identity or "", key=sent, request_sha256=digest)

    async def read_body(self) -> bytes:
        """The body as it came, for an endpoint that reads it in its own way."""
        return await read_bytes(self.request)

    @property
    def thread_id(self) -> UUID:
        return _uuid(self.request, "thread_id", "thread")

    @property
    def run_id(self) -> UUID:
        return _uuid(self.request, "run_id", "run")

    @property
    def cron_id(self) -> UUID:
        return _uuid(self.request, "cron_id", "cron")

    @property
    def assistant_id(self) -> UUID:
        """By the assistant's id, or by a graph's name."""
        return self.assistants.id_of(self.request.path_params["assistant_id"])


def _uuid(request: Request[Any], name: str, kind: str) -> UUID:
    try:
        return UUID(request.path_params[name])
    except ValueError:
        raise ValidationFailed(f"Invalid {kind} ID: must be a UUID") from None


def _refuse_own_thread(run: CallingRun, request: Request[Any]) -> None:
    """Conflict where a graph would wait for its own end."""
    if "thread_id" in request.path_params and _uuid(request, "thread_id", "thread") in run.threads:
        raise Conflict("a run can't wait for its own thread, or for that of a run which waits for it")


def _plain(body: object) -> object:
    if isinstance(body, list):
        return [_plain(each) for each in cast("list[object]", body)]
    return body.model_dump() if isinstance(body, BaseModel) else body


def _ids(call: AuthorizedRequest[Any, Any], body: object) -> dict[str, UUID]:
    """The ids of the path, as what they are, and that of the assistant that a run's body names."""
    names = {"thread_id", "run_id", "cron_id", "assistant_id"} & call.request.path_params.keys()
    found: dict[str, UUID] = {name: getattr(call, name) for name in sorted(names)}
    if (conversation := call.request.path_params.get("conversation_id")) is not None:
        found["thread_id"] = thread_of_conversation(conversation)
    if isinstance(named := getattr(body, "assistant_id", None), str):
        found["assistant_id"] = call.assistants.id_of(named)
    return found


Endpoint = Callable[[AuthorizedRequest[Any, Any]], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationResponse:
    """What an operation answers, for the spec alone."""

    schema: Any = None
    """A row, a type that pydantic describes, or a list of one; of a stream, its events. None: no body, or a text."""
    status: int = 200
    media_type: str | None = "application/json"
    """None: no body."""
    other_responses: Mapping[int, Any] = field(default_factory=dict[int, Any])
    """Further statuses that are no problem, and their shapes."""
    problems: tuple[type[Problem], ...] = ()
    """Beside those that follow from its event, its path, its query and its body."""
    has_own_errors: bool = False
    """Its problems have a format of their own, which `other_responses` describes."""


def json_response(shape: Any, *refusals: type[Problem], others: Mapping[int, Any] | None = None) -> OperationResponse:
    """200 and JSON."""
    return OperationResponse(schema=shape, problems=refusals, other_responses=others or {})


def empty_response(
    *refusals: type[Problem], status: int = 204, others: Mapping[int, Any] | None = None
) -> OperationResponse:
    """Nothing but the status."""
    return OperationResponse(status=status, media_type=None, problems=refusals, other_responses=others or {})


def event_stream_response(*refusals: type[Problem]) -> OperationResponse:
    """A stream of events."""
    return OperationResponse(schema=ServerEvent, media_type="text/event-stream", problems=refusals)


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One line of the table of routes: all that is known of an endpoint, for the router, for auth and for the spec."""

    name: str
    """The method and the path."""
    endpoint: Endpoint
    event: AuthEvent
    kind: Kind
    response: OperationResponse
    _: KW_ONLY
    body: Any = None
    """A pydantic model, or a type of several, such as `list[Model]`."""
    custom_body: Any = None
    """What an endpoint takes that reads the body in its own way."""
    body_parser: Callable[[Request[Any]], Awaitable[BaseModel]] | None = None
    """How `custom_body` is read, if an endpoint does not read it itself."""
    query: type[BaseModel] | None = None
    load: Load = "light"
    """What it costs. Requests that are not light share a part of the server."""
    switches: tuple[Switch, ...] = ()
    """Each takes it away."""
    route_path: str | None = None
    """The path as the router reads it. None: `path`."""
    authorized_by: Literal["operation", "service"] = "operation"
    """`service`: what the endpoint calls asks for every permission (`auth/authorization.py`)."""
    method: str = field(init=False)
    path: str = field(init=False)

    def __post_init__(self) -> None:
        method, path = self.name.split(" ")
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "path", path)

    @property
    def documented_body(self) -> Any:
        """What the body is, whoever reads it."""
        return self.body or self.custom_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The operation as an ASGI application, which the router calls as it is."""
        response = await self.respond(Request(scope, receive, send))
        run: CallingRun | None = scope.get(CALLING_RUN)
        async with run.slot.aside() if run is not None and self.kind in LONG else nullcontext():
            await response(scope, receive, send)

    async def respond(self, request: Request[Any]) -> Response:
        """Ask who is calling, read the request, ask what they may, and answer."""
        state = state_of(request)
        run: CallingRun | None = request.scope.get(CALLING_RUN)
        if run is not None and self.kind in LONG:
            _refuse_own_thread(run, request)
        slot = run and run.slot
        if self.kind == "public" or state.authenticator is None:
            return await self._answered(request, ANYBODY if slot is None else Caller(None, None, slot))
        principal, request = await authenticate(state.authenticator, request)
        caller = Caller(principal, state.authenticator, slot, connection=request)
        state.quotas.count_request(principal.identity, has_others=principal.has_others)
        if self.kind not in LONG:
            return await self._answered(request, caller)
        counted = state.quotas.hold_stream(principal.identity)
        try:
            return CountedResponse(await self._answered(request, caller), counted)
        except BaseException:
            counted.end()
            raise

    async def _answered(self, request: Request[Any], caller: Caller) -> Response:
        if self.kind == "run" and caller.slot is None:  # refused before its body is read: a flood is to cost little
            state_of(request).slots.check_capacity(caller.identity or ANONYMOUS)
        body = await self._read(request)
        query = read_query(request, self.query) if self.query else None
        call = AuthorizedRequest(request=request, body=body, query=query, caller=caller)
        if self.load == "light":
            return await self._called(call)
        holder = caller.identity or ANONYMOUS
        return await state_of(request).shares.answered(self.load, holder, lambda: self._called(call))

    @property
    def _is_repeatable(self) -> bool:
        """It can be done again if its transaction was taken back: it starts no run, and does not read its body itself."""
        return self.kind not in STARTING and (self.custom_body is None or self.body_parser is not None)

    async def _called(self, call: AuthorizedRequest[Any, Any]) -> Response:
        """What the endpoint answers, after it was repeated for as long as its transaction conflicts with others."""
        try:
            return await self._called_once(call)
        except CONFLICTS:
            if not self._is_repeatable:
                raise
            return await retry_after_conflict(lambda: self._called_once(call))

    async def _called_once(self, call: AuthorizedRequest[Any, Any]) -> Response:
        """What the endpoint answers, once the caller is authorized."""
        if self.authorized_by == "service":
            return await self.endpoint(call)
        if call.caller.authenticator is None:
            return await self.endpoint(replace(call, authorized=UNRESTRICTED))
        return await self.endpoint(await self._authorized(call))

    async def _read(self, request: Request[Any]) -> Any:
        if self.body_parser is not None:
            return await self.body_parser(request)
        return await read_body(request, self.body) if self.body else None

    async def _authorized(self, call: AuthorizedRequest[Any, Any]) -> AuthorizedRequest[Any, Any]:
        """`call` with the filters of its caller, and with what authorization made of its body and query."""
        value = auth_values.auth_value(self.event, _ids(call, call.body), call.body or call.query)
        filters = await call.caller.authorize(self.event, value)
        body, query = (auth_values.apply_value(self.event, value, said) for said in (call.body, call.query))
        return replace(call, body=body, query=query, authorized=filters, owner_metadata=value.get("metadata") or {})
