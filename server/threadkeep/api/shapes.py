"""Shapes of responses that are not rows of a table. Endpoints build them, and the OpenAPI document describes them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict  # pydantic refuses that of typing before Python 3.12

from threadkeep.tables.threads import Thread

JsonSchema: TypeAlias = dict[str, Any]


class ValidationErrorItem(TypedDict):
    """One error at one place in a request."""

    loc: list[str | int]
    """The keys and indices of the place."""
    msg: str
    type: str


class Problem(TypedDict):
    """An error. Some kinds have further fields with details."""

    detail: str
    """A description for people."""
    code: str
    """A code for programs, one for each kind of problem."""
    errors: NotRequired[list[ValidationErrorItem]]


class EmptyObject(TypedDict):
    """An object without fields."""


class Event(TypedDict):
    """An event of a stream (`text/event-stream`)."""

    event: str
    """`metadata`, `error`, or a stream mode. Events of a subgraph have `|` and the namespace after the mode."""
    data: str
    """JSON on one line."""
    id: NotRequired[str]
    """The value for `Last-Event-ID`, if the stream can be resumed."""


class Ok(TypedDict):
    """The server answers."""

    ok: bool
    services: NotRequired[dict[str, Literal["healthy", "unhealthy"]]]
    """Present with `check_db`."""


class ReadyChecks(TypedDict):
    """The conditions of readiness."""

    database: bool
    migrations: bool
    accepting: bool
    """False while the server is stopping."""


class Ready(TypedDict):
    """Whether the server accepts requests, with the result of each check."""

    ready: bool
    checks: ReadyChecks


class Limits(TypedDict):
    """The limits of this process."""

    run_slots: int
    """Largest number of graphs that run at once."""
    max_waiting: int
    """Largest number of requests that wait for a slot."""
    queue_timeout_s: float
    query_timeout_s: float
    run_timeout_s: float
    body_bytes: int


class Load(TypedDict):
    """The current load of this process."""

    running: int
    waiting: int


class AuthInfo(TypedDict):
    """How callers authenticate."""

    kind: Literal["none", "api_key", "jwt", "custom"]
    """`custom`: by the `auth` of langgraph.json."""


class DatabaseInfo(TypedDict):
    """How this process is connected to Postgres."""

    pooler: Literal["none", "session", "transaction"]
    """The connection pooler in front of Postgres, by the time for which a connection keeps its session."""
    wake_ups: Literal["listen", "polling"]
    """How processes hear of new rows: by notifications, or only by polling."""


class Info(TypedDict):
    """The version, features and limits of this server."""

    version: str
    langgraph_py_version: str
    flags: dict[str, bool]
    surfaces: list[str]
    """The further APIs that are served, beside the LangGraph API."""
    host: dict[str, str | None]
    server: str
    role: Literal["all", "api"]
    """`api`: this process runs no graphs. Others take its runs from the queue."""
    auth: AuthInfo
    row_level_security: bool
    """Whether row-level security of Postgres hides the rows of other principals."""
    database: DatabaseInfo
    limits: Limits
    load: Load


class Me(TypedDict):
    """The caller, as the server knows them."""

    identity: str | None
    """null: authentication is off."""
    display_name: str | None
    scopes: list[str] | None
    """The events that the key or token grants. null: scopes do not limit the caller."""
    permissions: list[str]
    """As the authenticator gave them, and as graphs see them."""


class Node(TypedDict):
    """A node of a graph."""

    id: str
    type: NotRequired[str]
    data: NotRequired[Any]
    metadata: NotRequired[dict[str, Any]]


class Edge(TypedDict):
    """An edge of a graph."""

    source: str
    target: str
    data: NotRequired[str]
    conditional: NotRequired[bool]


class GraphDrawing(TypedDict):
    """A graph's nodes and edges."""

    nodes: list[Node]
    edges: list[Edge]


class SubgraphSchemas(TypedDict):
    """The JSON schemas of a graph. Null if a type has none."""

    input_schema: JsonSchema | None
    output_schema: JsonSchema | None
    state_schema: JsonSchema | None
    config_schema: JsonSchema | None
    context_schema: JsonSchema | None


class GraphSchemas(SubgraphSchemas):
    """The JSON schemas of an assistant's graph. Null if a type has none."""

    graph_id: str


class ThreadTtl(TypedDict):
    """When a thread expires."""

    strategy: Literal["delete", "keep_latest"]
    ttl_minutes: float
    """Minutes after the thread's last use."""
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadWithTtl(Thread):
    """A thread, with its expiry if `include=ttl` is set."""

    ttl: ThreadTtl | None = None


class PruneResult(TypedDict):
    """The number of threads that were pruned."""

    pruned_count: int


class StateCheckpoint(TypedDict):
    """The ids of a checkpoint. Without `checkpoint_id` it is the newest one of its namespace."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: NotRequired[str]
    checkpoint_map: NotRequired[dict[str, Any]]


class Interrupt(TypedDict):
    """A question that a graph waits for an answer to."""

    id: str
    value: Any


class Task(TypedDict):
    """A node that runs next, or that waits for an answer."""

    id: str
    name: str
    path: list[Any]
    error: str | None
    interrupts: list[Interrupt]
    checkpoint: StateCheckpoint | None
    """The checkpoint of a waiting subgraph, by which you can read its state."""
    state: Any
    """With `subgraphs`, the state of the subgraph in the same form."""
    result: Any


class ThreadState(TypedDict):
    """The state of a thread at a checkpoint. With `select`, only the selected fields."""

    values: NotRequired[Any]
    next: NotRequired[list[str]]
    tasks: NotRequired[list[Task]]
    metadata: NotRequired[dict[str, Any] | None]
    created_at: NotRequired[datetime | None]
    checkpoint: NotRequired[StateCheckpoint | None]
    parent_checkpoint: NotRequired[StateCheckpoint | None]
    interrupts: NotRequired[list[Interrupt]]
    checkpoint_id: NotRequired[str | None]
    parent_checkpoint_id: NotRequired[str | None]


class StateUpdateResult(TypedDict):
    """The checkpoint that a state update created."""

    checkpoint: StateCheckpoint
    configurable: StateCheckpoint
    checkpoint_id: str


class Item(TypedDict):
    """An item of the store."""

    namespace: list[str]
    key: str
    value: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class SearchItem(Item):
    """An item in the result of a search."""

    score: NotRequired[float | None]
    """The similarity to `query`, if langgraph.json configures an index."""


class SearchItems(TypedDict):
    """The result of a search for items."""

    items: list[SearchItem]


class Namespaces(TypedDict):
    """Namespaces that contain items."""

    namespaces: list[list[str]]


class QueryAnswer(TypedDict):
    """The agent's answer, and the thread with which you can continue the conversation."""

    response: str
    thread_id: str
    run_id: str
