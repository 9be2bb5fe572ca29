"""Call: a request whose body, query and ids have been read and whose caller is known.

What every endpoint gets. It can only be made from an `Operation` of the table of routes, so that no endpoint forgets
to ask who is calling.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypedDict, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from threadkeep.api import auth_values, configurable_headers
from threadkeep.api.authentication import entered
from threadkeep.api.body import read_body, read_bytes, read_query
from threadkeep.api.held_quota import Held
from threadkeep.api.ops.scrape import Scrape
from threadkeep.api.shapes import Event as ServerEvent
from threadkeep.auth import Door, Event, Principal, Value
from threadkeep.base.problems import Forbidden, Invalid, Overloaded, Problem
from threadkeep.graphs import Tenant
from threadkeep.postgres.tenancy import EVERYTHING, Filters
from threadkeep.project import Project
from threadkeep.runs.assistants import Assistants
from threadkeep.runs.engine import Engine
from threadkeep.runs.quotas import Quotas
from threadkeep.runs.request import RunSpec

BodyT = TypeVar("BodyT")
QueryT = TypeVar("QueryT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Docs:
    """What tells of the server itself, made once."""

    spec: bytes
    """`/openapi.json`."""
    page: bytes
    """`/docs`."""
    policy: str
    """The page's Content-Security-Policy."""


class State(TypedDict):
    """What the lifespan opened."""

    engine: Engine
    assistants: Assistants
    project: Project
    docs: Docs
    quotas: Quotas
    door: Door | None
    """None: authentication is off."""
    scrape: Scrape


def state_of(request: Request[State]) -> State:
    """Past `request.state`, which makes two objects more of each look."""
    return cast("State", request.scope["state"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[BodyT, QueryT]):
    """One request, read and authorized."""

    request: Request[State]
    body: BodyT
    query: QueryT
    filters: Filters
    principal: Principal | None = None
    """None: authentication is off, or the path is for anybody."""
    marks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Metadata that authorization wrote, for an endpoint whose body has none."""

    @property
    def state(self) -> State:
        """What the lifespan opened."""
        return state_of(self.request)

    async def allowed(self, event: Event, value: Value) -> Filters:
        """What the caller may see of a further event than the table's; `value` may be changed. Forbidden."""
        door = self.state["door"]
        if door is None:
            return EVERYTHING
        if self.principal is None:
            raise Forbidden("the path is for anybody, and shows nobody's")
        return await door.authorize(self.principal, event, value)

    @property
    def user(self) -> Mapping[str, Any] | None:
        """The caller as their graphs see them; None: authentication is off."""
        return self.principal.user if self.principal else None

    @property
    def tenant(self) -> Tenant:
        """The caller to graphs that are opened for them."""
        return Tenant.of(self.user, self.filters)

    @property
    def engine(self) -> Engine:
        return self.state["engine"]

    @property
    def assistants(self) -> Assistants:
        return self.state["assistants"]

    def configured(self, spec: RunSpec) -> RunSpec:
        """`spec` with those headers of the request that langgraph.json hands on to graphs."""
        return configurable_headers.configured(
            spec, self.request.headers, self.state["project"].http.configurable_headers
        )

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


def _uuid(request: Request[State], name: str, kind: str) -> UUID:
    try:
        return UUID(request.path_params[name])
    except ValueError:
        raise Invalid(f"Invalid {kind} ID: must be a UUID") from None


def _ids(call: Call[Any, Any], body: object) -> dict[str, UUID]:
    """The ids of the path, as what they are, and that of the assistant that a run's body names."""
    names = {"thread_id", "run_id", "cron_id", "assistant_id"} & call.request.path_params.keys()
    found: dict[str, UUID] = {name: getattr(call, name) for name in sorted(names)}
    if isinstance(named := getattr(body, "assistant_id", None), str):
        found["assistant_id"] = call.assistants.id_of(named)
    return found


Endpoint = Callable[[Call[Any, Any]], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an operation answers, for the spec alone."""

    shape: Any = None
    """A row, a type that pydantic describes, or a list of one; of a stream, its events. None: no body, or a text."""
    status: int = 200
    media: str | None = "application/json"
    """None: no body."""
    others: Mapping[int, Any] = field(default_factory=dict[int, Any])
    """Further statuses that are no problem, and their shapes."""
    refusals: tuple[type[Problem], ...] = ()
    """Beside those that follow from its event, its path, its query and its body."""


def gives(shape: Any, *refusals: type[Problem], others: Mapping[int, Any] | None = None) -> Answer:
    """200 and JSON."""
    return Answer(shape=shape, refusals=refusals, others=others or {})


def done(*refusals: type[Problem], status: int = 204, others: Mapping[int, Any] | None = None) -> Answer:
    """Nothing but the status."""
    return Answer(status=status, media=None, refusals=refusals, others=others or {})


def events(*refusals: type[Problem]) -> Answer:
    """A stream of events."""
    return Answer(shape=ServerEvent, media="text/event-stream", refusals=refusals)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operation:
    """One line of the table of routes: all that is known of an endpoint, for the router, for auth and for the spec."""

    method: str
    path: str
    endpoint: Endpoint
    event: Event
    answer: Answer
    body: Any = None
    """A pydantic model, or a type of several, such as `list[Model]`."""
    own_body: Any = None
    """What an endpoint takes that reads the body in its own way."""
    reader: Callable[[Request[Any]], Awaitable[BaseModel]] | None = None
    """How `own_body` is read where it is needed to know what is asked for."""
    query: type[BaseModel] | None = None

    @property
    def shown_body(self) -> Any:
        """What the body is, whoever reads it."""
        return self.body or self.own_body

    @property
    def is_long(self) -> bool:
        """Its answer may take as long as a run."""
        return self.answer.media == "text/event-stream" or self.path.endswith(("/wait", "/join"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The operation as an ASGI application, which the router calls as it is."""
        response = await self.answered(Request(scope, receive, send))
        await response(scope, receive, send)

    async def answered(self, request: Request[State]) -> Response:
        """Ask who is calling, read the request, ask what they may, and answer."""
        state = state_of(request)
        door = None if self.event == "public" else state["door"]
        if door is None:
            return await self._answered(request, None)
        principal, request = await entered(door, request)
        quotas = state["quotas"]
        quotas.request(principal.identity)
        if not self.is_long:
            return await self._answered(request, principal)
        is_run = self.event == "threads.create_run"
        with quotas.held(principal.identity, is_run=is_run) as held:
            return Held(await self._answered(request, principal), held.pop_all())

    async def _answered(self, request: Request[State], principal: Principal | None) -> Response:
        if Overloaded in self.answer.refusals:  # told before its body is read: a flood is to cost little
            state_of(request)["engine"].slots.refuse_if_full()
        body = await self._read(request)
        query = read_query(request, self.query) if self.query else None
        if self.event == "threads.create_run" and not self.is_long:
            await state_of(request)["quotas"].enqueue(principal and principal.identity, _runs_of(body))
        call = Call(request=request, body=body, query=query, filters=EVERYTHING, principal=principal)
        if principal is None:
            return await self.endpoint(call)
        return await self.endpoint(await self._authorized(call))

    async def _read(self, request: Request[State]) -> Any:
        if self.reader is not None:
            return await self.reader(request)
        return await read_body(request, self.body) if self.body else None

    async def _authorized(self, call: Call[Any, Any]) -> Call[Any, Any]:
        """`call` with the filters of its caller, and with what authorization made of its body and query."""
        if isinstance(call.body, list):
            return await self._all_authorized(call, cast("list[BaseModel]", call.body))
        value = auth_values.of(self.event, _ids(call, call.body), call.body or call.query)
        filters = await call.allowed(self.event, value)
        body, query = (auth_values.applied(self.event, value, said) for said in (call.body, call.query))
        return replace(call, body=body, query=query, filters=filters, marks=value.get("metadata") or {})

    async def _all_authorized(self, call: Call[Any, Any], bodies: list[BaseModel]) -> Call[Any, Any]:
        """Each of several bodies is asked about; all must be the same caller's."""
        asked = [(body, auth_values.of(self.event, _ids(call, body), body)) for body in bodies]
        filters = [await call.allowed(self.event, value) for _, value in asked]
        if any(one != filters[0] for one in filters):
            raise Forbidden("these can't be asked for together")
        return replace(
            call, body=[auth_values.applied(self.event, value, body) for body, value in asked], filters=filters[0]
        )


def _runs_of(body: Any) -> int:
    """How many runs a body asks for."""
    return len(cast("list[object]", body)) if isinstance(body, list) else 1


def operation(
    name: str,
    endpoint: Endpoint,
    event: Event,
    answer: Answer,
    *,
    body: Any = None,
    query: type[BaseModel] | None = None,
) -> Operation:
    """A line of the table; `name` is the method and the path, `body` what pydantic can make of the JSON."""
    method, path = name.split(" ")
    return Operation(method=method, path=path, endpoint=endpoint, event=event, answer=answer, body=body, query=query)
