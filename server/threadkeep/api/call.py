"""Call: a request whose body, query and ids have been read and whose caller is known.

What every endpoint gets. It can only be made from an `Operation` of the table of routes, so that no endpoint forgets
to ask who is calling.
"""

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypedDict, TypeVar, cast
from uuid import UUID

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from threadkeep import auth, wire
from threadkeep.api import headers
from threadkeep.api.shapes import Event as ServerEvent
from threadkeep.auth import Event
from threadkeep.db.filters import Filters
from threadkeep.engine.assistants import Assistants
from threadkeep.engine.engine import Engine
from threadkeep.engine.spec import RunSpec
from threadkeep.problems import Invalid, Overloaded, Problem, TooLarge, UnsupportedMedia
from threadkeep.project import Project

MAX_DEPTH = 100
"""Of a body: what is built on it, and Python's own JSON, go a good deal deeper, but not for ever."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[BodyT, QueryT]):
    """One request, read and authorized."""

    request: Request[State]
    body: BodyT
    query: QueryT
    filters: Filters

    @property
    def engine(self) -> Engine:
        return self.request.state["engine"]

    @property
    def assistants(self) -> Assistants:
        return self.request.state["assistants"]

    def configured(self, spec: RunSpec) -> RunSpec:
        """`spec` with those headers of the request that langgraph.json hands on to graphs."""
        return headers.configured(spec, self.request.headers, self.request.state["project"].http.configurable_headers)

    async def read_body(self) -> bytes:
        """The body as it came, for an endpoint that reads it in its own way."""
        return await _bytes(self.request)

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
    query: type[BaseModel] | None = None

    @property
    def shown_body(self) -> Any:
        """What the body is, whoever reads it."""
        return self.body or self.own_body

    async def __call__(self, request: Request[State]) -> Response:
        """Read the request, ask who is calling, and answer."""
        filters = await auth.authorize(self.event, request)
        if Overloaded in self.answer.refusals:  # told before its body is read: a flood is to cost little
            request.state["engine"].slots.refuse_if_full()
        body = await read_body(request, self.body) if self.body else None
        query = read_query(request, self.query) if self.query else None
        return await self.endpoint(Call(request=request, body=body, query=query, filters=filters))


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


async def read_body(request: Request[State], model: Any) -> object:
    """The body as `model`; Invalid, TooLarge or UnsupportedMedia where it is none."""
    return validated(model, decode(await _bytes(request)))


async def _bytes(request: Request[State]) -> bytes:
    """The body, counted while it is read, so that a chunked one is bounded too."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMedia("the body must not be compressed")
    limit = request.state["engine"].settings.body_bytes
    read = bytearray()
    try:
        async for chunk in request.stream():
            read += chunk
            if len(read) > limit:
                raise TooLarge(f"the body is above {limit} bytes")
    except ClientDisconnect:
        raise Invalid("the body ended too soon") from None
    return bytes(read)


def decode(raw: bytes) -> object:
    """Strict JSON, nested no deeper than what can be sent again; NUL becomes U+FFFD, as on the reference."""
    try:
        found = cast("object", orjson.loads(wire.without_nul(raw)))
    except orjson.JSONDecodeError:
        raise Invalid("Invalid JSON in request body") from None
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_deep(found):
        raise Invalid(f"the body is nested more than {MAX_DEPTH} levels deep")
    return found


def _is_deep(value: object) -> bool:
    """By a walk level by level: a recursive one would end where it matters."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inner(outer) if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


def _inner(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


def read_query(request: Request[State], model: type[BaseModel]) -> Any:
    """The query parameters as `model`; a name given several times is a list, and NUL becomes U+FFFD, as in a body."""
    given = request.query_params
    found: dict[str, object] = {}
    for name in given:
        several = [value.replace("\0", "\N{REPLACEMENT CHARACTER}") for value in given.getlist(name)]
        found[name] = several if len(several) > 1 else several[0]
    return validated(model, found)


@functools.cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def validated(model: Any, value: object) -> Any:
    """`value` as `model`; Invalid, with each place named, where it is none."""
    try:
        return _adapter(model).validate_python(value)
    except ValidationError as error:
        errors = [{"loc": list(item["loc"]), "msg": item["msg"], "type": item["type"]} for item in error.errors()]
        lines = [f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}" for item in error.errors()]
        raise Invalid("\n".join(lines), errors=errors) from None
