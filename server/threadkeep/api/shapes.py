"""Shapes: what is answered where no row of a table is. The endpoints build these; the spec tells of them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from threadkeep.tables.threads import Thread

JsonSchema: TypeAlias = dict[str, Any]


class ValidationErrorItem(TypedDict):
    """One place in a request that has the wrong form."""

    loc: list[str | int]
    """The keys and indices that lead there."""
    msg: str
    type: str


class Problem(TypedDict):
    """An error, and for some of them further fields that name what it is about."""

    detail: str
    """For people."""
    code: str
    """For programs: one word for each kind of problem."""
    errors: NotRequired[list[ValidationErrorItem]]


class EmptyObject(TypedDict):
    """An object without fields."""


class Event(TypedDict):
    """An event of a stream (`text/event-stream`)."""

    event: str
    """What it is: `metadata`, `error`, or a stream mode, with `|` and a namespace behind it where it is a subgraph's."""
    data: str
    """JSON, on one line."""
    id: NotRequired[str]
    """For `Last-Event-ID`, where the stream can be taken up again."""


class Ok(TypedDict):
    """The server answers."""

    ok: bool
    services: NotRequired[dict[str, Literal["healthy", "unhealthy"]]]
    """With `check_db`."""


class ReadyChecks(TypedDict):
    """What readiness hangs on."""

    database: bool
    migrations: bool
    accepting: bool
    """False while the server stops."""


class Ready(TypedDict):
    """Whether the server takes requests, and why not."""

    ready: bool
    checks: ReadyChecks


class Limits(TypedDict):
    """The limits of this process."""

    run_slots: int
    """Graphs that run at once."""
    max_waiting: int
    """Requests that wait for a slot."""
    queue_timeout_s: float
    query_timeout_s: float
    run_timeout_s: float
    body_bytes: int


class Load(TypedDict):
    """What this process is doing."""

    running: int
    waiting: int


class Info(TypedDict):
    """What this server is."""

    version: str
    langgraph_py_version: str
    flags: dict[str, bool]
    host: dict[str, str | None]
    server: str
    row_level_security: bool
    """Postgres itself shows a principal's requests only what is theirs."""
    limits: Limits
    load: Load


class Node(TypedDict):
    """A node of a drawing."""

    id: str
    type: NotRequired[str]
    data: NotRequired[Any]
    metadata: NotRequired[dict[str, Any]]


class Edge(TypedDict):
    """An edge of a drawing."""

    source: str
    target: str
    data: NotRequired[str]
    conditional: NotRequired[bool]


class GraphDrawing(TypedDict):
    """A graph's nodes and edges."""

    nodes: list[Node]
    edges: list[Edge]


class SubgraphSchemas(TypedDict):
    """The JSON schemas of a graph; null where its types have none."""

    input_schema: JsonSchema | None
    output_schema: JsonSchema | None
    state_schema: JsonSchema | None
    config_schema: JsonSchema | None
    context_schema: JsonSchema | None


class GraphSchemas(SubgraphSchemas):
    """The JSON schemas of an assistant's graph; null where its types have none."""

    graph_id: str


class ThreadTtl(TypedDict):
    """When a thread goes."""

    strategy: Literal["delete", "keep_latest"]
    ttl_minutes: float
    """Since it was last touched."""
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadWithTtl(Thread):
    """A thread, and with `include=ttl` when it goes."""

    ttl: ThreadTtl | None = None


class PruneResult(TypedDict):
    """How many threads were pruned."""

    pruned_count: int


class StateCheckpoint(TypedDict):
    """The ids of a checkpoint; without `checkpoint_id`, the newest of its namespace."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: NotRequired[str]
    checkpoint_map: NotRequired[dict[str, Any]]


class Interrupt(TypedDict):
    """A question that a graph waits to have answered."""

    id: str
    value: Any


class Task(TypedDict):
    """A node that is to run next, or that waits."""

    id: str
    name: str
    path: list[Any]
    error: str | None
    interrupts: list[Interrupt]
    checkpoint: StateCheckpoint | None
    """Of a subgraph that waits: where to ask for its state."""
    state: Any
    """With `subgraphs`: the subgraph's own state, in this form."""
    result: Any


class ThreadState(TypedDict):
    """What a thread holds at a checkpoint; with `select`, only the fields that it names."""

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
    """The checkpoint that a change of the state has made."""

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
    """An item that a search has found."""

    score: NotRequired[float | None]
    """How near it comes to `query`, where langgraph.json names an index."""


class SearchItems(TypedDict):
    """The items that a search has found."""

    items: list[SearchItem]


class Namespaces(TypedDict):
    """Where there are items."""

    namespaces: list[list[str]]


class QueryAnswer(TypedDict):
    """The agent's answer, and the thread by which the conversation goes on."""

    response: str
    thread_id: str
    run_id: str
