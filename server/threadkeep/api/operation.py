"""Operation: one line of the route table, and the `AuthorizedRequest` that its endpoint gets.

Only an operation creates an `AuthorizedRequest`, so that no endpoint can skip authentication. The kind of an operation,
its authorization and the switches that disable it are explicit fields. Nothing is inferred from its path.
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
from threadkeep.api.agents.message_graphs import MessageGraphs
from threadkeep.api.authentication import authenticate
from threadkeep.api.body import read_body, read_bytes, read_query
from threadkeep.api.console_files import ConsoleFile
from threadkeep.api.mcp.surface import McpSurface
from threadkeep.api.openai.object_ids import thread_of_conversation
from threadkeep.api.ops.scrape import MetricsExporter
from threadkeep.api.request_shares import Load, RequestShares
from threadkeep.api.responses import CountedResponse
from threadkeep.api.shapes import Event as ServerEvent
from threadkeep.auth import Authenticator, AuthEvent, AuthValue
from threadkeep.auth.caller import ANYBODY, Caller
from threadkeep.auth.principal import Principal
from threadkeep.base.fair_limiter import ANONYMOUS
from threadkeep.base.problems import Conflict, Problem, Unauthenticated, ValidationFailed
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
from threadkeep.settings import AuthType, Settings
from threadkeep.tables.idempotency_keys import IdempotencyKey
from threadkeep.threads.change_stream import ChangeFeed
from threadkeep.threads.history import ThreadParts

BodyT = TypeVar("BodyT")
QueryT = TypeVar("QueryT")

Kind: TypeAlias = Literal["public", "read", "write", "run", "background", "stream"]
"""`public`: needs no authentication. `run`: takes a slot and answers after its run has ended. `background`: puts runs in
the queue. `stream`: the response stays open while events may follow."""
Switch: TypeAlias = Literal[
    "disable_assistants",
    "disable_runs",
    "disable_threads",
    "disable_store",
    "disable_meta",
    "disable_mcp",
    "disable_a2a",
    "disable_agui",
    "disable_openai",
    "disable_ui",
]
"""The key of `http` in langgraph.json that disables an operation."""
IDEMPOTENCY_HEADER: Final = "idempotency-key"
IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
"""Visible ASCII."""
STARTING: Final[frozenset[Kind]] = frozenset({"run", "background"})
"""Operations that start runs are never repeated as a whole. The run service retries conflicts before the start."""
LONG: Final[frozenset[Kind]] = frozenset({"run", "stream"})
"""Kinds whose responses count as open streams of their principal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiDocs:
    """The documentation of the API, made once at start."""

    spec: bytes
    """`/openapi.json`."""
    page: bytes
    """`/docs`."""
    policy: str
    """The page's Content-Security-Policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """The objects that the lifespan opened, for endpoints."""

    settings: Settings
    project: Project
    docs: ApiDocs
    authenticator: Authenticator | None
    """None if authentication is off."""
    auth_type: AuthType
    """How callers are known."""
    signals: ProcessSignals
    pool: Pool
    wakeups: NotificationHub
    graphs: Mapping[str, LoadedGraph]
    threads: ThreadParts
    changes: ChangeFeed
    store: Store
    slots: Slots
    quotas: Quotas
    shares: RequestShares
    assistants: AssistantCache
    runs: RunService
    message_graphs: MessageGraphs
    mcp: McpSurface
    metrics_exporter: MetricsExporter
    console: Mapping[str, ConsoleFile]
    """The files of the console, by name. Empty: it is not served."""


STATE: Final = "threadkeep"
"""The key of `AppState` in the lifespan's state. A project's own application may have other keys."""


def state_of(connection: HTTPConnection) -> AppState:
    """Return the `AppState`. It does not use `request.state`, which makes two objects at each access."""
    return connection.scope["state"][STATE]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizedRequest(Generic[BodyT, QueryT]):
    """A request with its parsed body and query. It is authorized, unless the service that the endpoint calls does so."""

    request: Request[Any]
    body: BodyT
    query: QueryT
    caller: Caller = ANYBODY
    authorized: Filters | None = None
    """None if the service that the endpoint calls authorizes the caller."""
    owner_metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Metadata from authorization, for an endpoint whose body has none."""

    @property
    def state(self) -> AppState:
        """The objects that the lifespan opened."""
        return state_of(self.request)

    @property
    def filters(self) -> Filters:
        """The filters of the rows that the caller may see."""
        if self.authorized is None:
            raise RuntimeError("this operation is authorized by the service that it calls")
        return self.authorized

    @property
    def tenant(self) -> Tenant:
        """The caller, for graphs that are opened on its behalf."""
        return Tenant.of(self.caller.user, self.filters)

    async def authorize(self, event: AuthEvent, value: AuthValue) -> Filters:
        """Return the filters of the caller for another event than the operation's own. Raise Forbidden."""
        return await self.caller.authorize(event, value)

    @property
    def assistants(self) -> AssistantCache:
        return self.state.assistants

    @property
    def forwarded_headers(self) -> Mapping[str, str]:
        """Headers of the request that langgraph.json passes to graphs, in a run's `configurable`."""
        names = self.state.project.http.configurable_headers
        return configurable_headers.matching_headers(self.request.headers, names) if names.includes else {}

    @property
    def idempotency_key(self) -> IdempotencyKey | None:
        """The request's key, or None. Raise ValidationFailed if it is too long or has other characters.

        Requests are the same if method, path, body and principal are equal.
        """
        header = self.request.headers.get(IDEMPOTENCY_HEADER)
        if header is None:
            return None
        if not IDEMPOTENCY_KEY.fullmatch(header):
            raise ValidationFailed("Idempotency-Key must be 1 to 255 visible ASCII characters")
        # The parsed body and not its bytes: a client may order its keys differently in a repeated request.
        parts = [self.request.method, self.request.url.path, _plain(self.body)]
        # `default`: bodies have UUIDs and times, which are compared as text.
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()
        return IdempotencyKey(principal=self.caller.identity or "", key=header, request_sha256=digest)

    async def read_body(self) -> bytes:
        """Return the raw body, for an endpoint that parses it itself."""
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
        """The assistant's id, from an id or the name of a graph in the path."""
        return self.assistants.id_of(self.request.path_params["assistant_id"])


def _uuid(request: Request[Any], name: str, kind: str) -> UUID:
    try:
        return UUID(request.path_params[name])
    except ValueError:
        raise ValidationFailed(f"Invalid {kind} ID: must be a UUID") from None


def _refuse_own_thread(run: CallingRun, request: Request[Any]) -> None:
    """Raise Conflict if a run would wait for its own end."""
    if "thread_id" in request.path_params and _uuid(request, "thread_id", "thread") in run.threads:
        raise Conflict("a run can't wait for its own thread, or for the thread of a run that waits for it")


def _plain(body: object) -> object:
    if isinstance(body, list):
        return [_plain(item) for item in cast("list[object]", body)]
    return body.model_dump() if isinstance(body, BaseModel) else body


def _ids(call: AuthorizedRequest[Any, Any], body: object) -> dict[str, UUID]:
    """Return the ids of the path, and the id of the assistant in a run's body."""
    names = {"thread_id", "run_id", "cron_id", "assistant_id"} & call.request.path_params.keys()
    ids: dict[str, UUID] = {name: getattr(call, name) for name in sorted(names)}
    if (conversation := call.request.path_params.get("conversation_id")) is not None:
        ids["thread_id"] = thread_of_conversation(conversation)
    if isinstance(assistant := getattr(body, "assistant_id", None), str):
        ids["assistant_id"] = call.assistants.id_of(assistant)
    return ids


Endpoint = Callable[[AuthorizedRequest[Any, Any]], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationResponse:
    """The responses of an operation, which only the OpenAPI document uses."""

    schema: Any = None
    """A row, a type that pydantic describes, or a list of one. For a stream, the type of its events. None: no body or text."""
    status: int = 200
    media_type: str | None = "application/json"
    """None: no body."""
    other_responses: Mapping[int, Any] = field(default_factory=dict[int, Any])
    """Other statuses that are not problems, and their shapes."""
    problems: tuple[type[Problem], ...] = ()
    """Problems in addition to those that follow from the event, path, query and body."""
    has_own_errors: bool = False
    """Whether its errors have another format, which `other_responses` describes."""


def json_response(
    shape: Any, *refusals: type[Problem], other_responses: Mapping[int, Any] | None = None
) -> OperationResponse:
    """Describe a response with status 200 and JSON."""
    return OperationResponse(schema=shape, problems=refusals, other_responses=other_responses or {})


def empty_response(
    *refusals: type[Problem], status: int = 204, other_responses: Mapping[int, Any] | None = None
) -> OperationResponse:
    """Describe a response without a body."""
    return OperationResponse(status=status, media_type=None, problems=refusals, other_responses=other_responses or {})


def event_stream_response(*refusals: type[Problem]) -> OperationResponse:
    """Describe a stream of events."""
    return OperationResponse(schema=ServerEvent, media_type="text/event-stream", problems=refusals)


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One line of the route table: an endpoint with all that the router, authorization and the OpenAPI document need."""

    name: str
    """Method and path."""
    endpoint: Endpoint
    event: AuthEvent
    kind: Kind
    response: OperationResponse
    _: KW_ONLY
    body: Any = None
    """A pydantic model, or a type such as `list[Model]`."""
    custom_body: Any = None
    """The type of a body that the endpoint parses itself."""
    body_parser: Callable[[Request[Any]], Awaitable[BaseModel]] | None = None
    """Parses `custom_body` before the endpoint is called."""
    query: type[BaseModel] | None = None
    load: Load = "light"
    """The cost of a request. Requests that are not light share a part of the server's resources."""
    switches: tuple[Switch, ...] = ()
    """Switches of which each disables the operation."""
    route_path: str | None = None
    """The path for the router. None: the same as `path`."""
    challenge: Callable[[Request[Any]], str | None] | None = None
    """Makes a further parameter of `WWW-Authenticate`, for a request without valid credentials."""
    authorized_by: Literal["operation", "service"] = "operation"
    """`service`: the service that the endpoint calls checks every permission (`auth/authorization.py`)."""
    method: str = field(init=False)
    path: str = field(init=False)

    def __post_init__(self) -> None:
        method, path = self.name.split(" ")
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "path", path)

    @property
    def documented_body(self) -> Any:
        """The type of the body, whether the operation or the endpoint parses it."""
        return self.body or self.custom_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as an ASGI application, which the router calls directly."""
        response = await self.respond(Request(scope, receive, send))
        run: CallingRun | None = scope.get(CALLING_RUN)
        # The run that waits for this response gives its slot back, or nested runs could wait for each other for ever.
        async with run.slot.aside() if run is not None and self.kind in LONG else nullcontext():
            await response(scope, receive, send)

    async def respond(self, request: Request[Any]) -> Response:
        """Authenticate the caller, read the request, authorize it, and call the endpoint."""
        state = state_of(request)
        run: CallingRun | None = request.scope.get(CALLING_RUN)
        # Only a request that waits for a run can wait for itself.
        if run is not None and self.kind in LONG:
            _refuse_own_thread(run, request)
        slot = run and run.slot
        if self.kind == "public" or state.authenticator is None:
            return await self._answered(request, ANYBODY if slot is None else Caller(None, None, slot))
        principal, request = await self._authenticated(state.authenticator, request)
        caller = Caller(principal, state.authenticator, slot, connection=request)
        state.quotas.count_request(principal.identity, has_others=principal.has_others)
        if self.kind not in LONG:
            return await self._answered(request, caller)
        counted = state.quotas.hold_stream(principal.identity)
        try:
            # A long response counts until its end, which comes after this function has returned.
            return CountedResponse(await self._answered(request, caller), counted)
        except BaseException:
            counted.end()
            raise

    async def _authenticated(
        self, authenticator: Authenticator, request: Request[Any]
    ) -> tuple[Principal, Request[Any]]:
        try:
            return await authenticate(authenticator, request)
        except Unauthenticated as refusal:
            if self.challenge is not None and (parameter := self.challenge(request)) is not None:
                refusal.headers["www-authenticate"] += f", {parameter}"
            raise

    async def _answered(self, request: Request[Any], caller: Caller) -> Response:
        if self.kind == "run" and caller.slot is None:  # refuse before reading the body, so that a flood costs little
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
        """Whether it may run again after a transaction conflict: it starts no run, and does not parse its body itself."""
        # The stream of a body can be read only once.
        return self.kind not in STARTING and (self.custom_body is None or self.body_parser is not None)

    async def _called(self, call: AuthorizedRequest[Any, Any]) -> Response:
        """Call the endpoint. Repeat it while its transaction conflicts with others."""
        try:
            return await self._called_once(call)
        except CONFLICTS:
            if not self._is_repeatable:
                raise
            return await retry_after_conflict(lambda: self._called_once(call))

    async def _called_once(self, call: AuthorizedRequest[Any, Any]) -> Response:
        """Authorize the caller and call the endpoint once."""
        if self.authorized_by == "service":
            return await self.endpoint(call)
        if call.caller.authenticator is None:
            return await self.endpoint(replace(call, authorized=UNRESTRICTED))
        # The endpoint shows callers only data about themselves, so no handler decides on it.
        if self.event == "caller":
            return await self.endpoint(call)
        return await self.endpoint(await self._authorized(call))

    async def _read(self, request: Request[Any]) -> Any:
        if self.body_parser is not None:
            return await self.body_parser(request)
        return await read_body(request, self.body) if self.body else None

    async def _authorized(self, call: AuthorizedRequest[Any, Any]) -> AuthorizedRequest[Any, Any]:
        """Return `call` with the caller's filters, and with the changes that authorization made to body and query."""
        value = auth_values.auth_value(self.event, _ids(call, call.body), call.body or call.query)
        filters = await call.caller.authorize(self.event, value)
        body, query = (auth_values.apply_value(self.event, value, part) for part in (call.body, call.query))
        return replace(call, body=body, query=query, authorized=filters, owner_metadata=value.get("metadata") or {})
