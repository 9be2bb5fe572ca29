"""Run request: the parameters of a new run.

`GraphRunOptions` holds the parameters of the graph, which the run's row stores as `kwargs`. `RunRequest` holds all
parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeGuard, cast
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from threadkeep.base.problems import UnsupportedField
from threadkeep.tables.idempotency_keys import IdempotencyKey
from threadkeep.tables.threads import Ttl

StreamMode: TypeAlias = Literal[
    "values",
    "updates",
    "messages",
    "messages-tuple",
    "custom",
    "debug",
    "tasks",
    "checkpoints",
    "events",
    "tools",
    "lifecycle",
]
"""LangGraph sends nothing in the mode `lifecycle`. It is accepted because both SDKs have it."""
Nodes: TypeAlias = Literal["*"] | list[str]
MultitaskStrategy: TypeAlias = Literal["reject", "enqueue", "interrupt", "rollback"]
"""The rule for a new run on a busy thread."""

RESERVED_PREFIXES: Final = ("__", "langgraph_auth")
"""Prefixes of `configurable` keys that only the server sets."""
OWNED_KEYS: Final = frozenset(
    {"thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id", "assistant_id", "graph_id"}
)
"""`configurable` keys that the server overwrites."""
OBJECT_KEYS: Final = ("configurable", "metadata")
"""Keys of a config that hold objects."""


def _mode_list(value: object) -> object:
    """Turn a single mode into a list. An empty list becomes `values`."""
    return [value] if isinstance(value, str) else ["values"] if value == [] else value


class SendCommand(BaseModel):
    """A node and its input, used instead of the state (`langgraph.types.Send`)."""

    model_config = ConfigDict(extra="ignore")

    node: str
    input: Any = None


class Command(BaseModel):
    """An answer to interrupts, a jump, or an update of the state (`langgraph.types.Command`)."""

    model_config = ConfigDict(extra="ignore")

    resume: Any = None
    """The answer to an interrupt. If several interrupts are open: a dict from interrupt id to answer."""
    update: dict[str, Any] | list[tuple[str, Any]] | None = None
    goto: str | SendCommand | list[str | SendCommand] | None = None
    """The nodes to continue at."""

    @property
    def has_content(self) -> bool:
        """Whether any field is set. LangGraph refuses an empty command, so the server ignores it."""
        return self.resume is not None or self.update is not None or bool(self.goto)


class Checkpoint(BaseModel):
    """The checkpoint of the thread to start from. A `thread_id` in it is ignored, because the path has one."""

    model_config = ConfigDict(extra="ignore")

    checkpoint_id: str | None = None
    checkpoint_ns: str = ""
    checkpoint_map: dict[str, Any] | None = None


def _with_objects(config: dict[str, Any]) -> dict[str, Any]:
    """Check that `configurable` and `metadata` are objects. Null is the same as absent."""
    checked = {name: value for name, value in config.items() if value is not None or name not in OBJECT_KEYS}
    for name in OBJECT_KEYS:
        if not isinstance(checked.get(name, {}), dict):
            raise PydanticCustomError(name, "{name} must be an object", {"name": name})
    return checked


RunConfig: TypeAlias = Annotated[dict[str, Any], AfterValidator(_with_objects)]
"""A `RunnableConfig` in a request body."""


class UnusedConfigBody(BaseModel):
    """A request body that ignores a config, but refuses a malformed one."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_malformed_config(cls, body: object) -> object:
        fields = _object(body)
        parts = (fields.get("config"), _object(fields.get("config")).get("configurable"), fields.get("configurable"))
        if any(part is not None and not isinstance(part, dict) for part in parts):
            raise PydanticCustomError("config", "config and its configurable must be objects")
        return body


def _object(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


class GraphRunOptions(BaseModel):
    """The part of a run's body that holds the parameters of its graph."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    input: Any = None
    """If it and `command` are None, the run continues from the thread's state."""
    command: Command | None = None
    config: RunConfig = Field(default_factory=dict)
    """`tags`, `recursion_limit`, `max_concurrency`, `run_name`, `configurable`, `metadata`."""
    context: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_id: str | None = None
    interrupt_before: Nodes | None = None
    interrupt_after: Nodes | None = None
    stream_mode: Annotated[
        list[StreamMode], BeforeValidator(_mode_list, json_schema_input_type=StreamMode | list[StreamMode])
    ] = Field(default_factory=lambda: ["values"])
    stream_subgraphs: bool = False
    stream_resumable: bool = False
    durability: Literal["sync", "async", "exit"] = "async"
    webhook: str | None = Field(default=None, min_length=1, max_length=10_000)
    """The URL that gets a POST when the run has ended."""

    @property
    def start_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to start from, from `checkpoint` or `checkpoint_id`."""
        if self.checkpoint and self.checkpoint.checkpoint_id:
            return self.checkpoint
        return Checkpoint(checkpoint_id=self.checkpoint_id) if self.checkpoint_id else None


class SurfaceRunOptions(GraphRunOptions):
    """The parameters of a graph's run with those that only an API surface sets."""

    direct_events: bool = False
    """Its events are the messages of the graph and its subgraphs, its values, the nodes' writes, and the nodes' starts and ends.
    They go to the log as they come (`runs/message_events.py`). `stream_mode` holds for a graph that runs elsewhere."""


def without_reserved_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A client's `configurable` without the keys that only the server sets."""
    configurable: dict[str, Any] | None = config.get("configurable")
    if not configurable:
        return {}
    return {
        key: value
        for key, value in configurable.items()
        if key not in OWNED_KEYS and not key.startswith(RESERVED_PREFIXES)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChain:
    """The chain of runs that a run begins or continues: a task of MCP or A2A (`tables/run_chains.py`)."""

    chain_id: UUID | None = None
    """The id of its first run. None: the run begins a chain."""
    message_id: str | None = None
    """The client's id of the message that starts the run, and a digest of its content."""

    def mark(self, run_id: UUID) -> dict[str, str]:
        """The metadata that makes the run a part of the chain."""
        mark = {"id": str(self.chain_id or run_id), "run_id": str(run_id)}
        return mark if self.message_id is None else {**mark, "message_id": self.message_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """All parameters of a new run, from any API surface."""

    spec: GraphRunOptions
    assistant: str
    """An assistant's id or a graph's name."""
    thread_id: UUID | None = None
    """None: the run gets a new thread, or none."""
    run_id: UUID | None = None
    """The id of the run. Another request with the same id gets the same run. None: the run gets a new id."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Metadata of the run, and of the thread that it creates."""
    marks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Metadata of the run alone, which only an API surface writes."""
    chain: RunChain | None = None
    multitask_strategy: MultitaskStrategy = "enqueue"
    create_thread: bool = False
    """Create the thread if it does not exist."""
    new_thread_only: bool = False
    """Create no run if the thread exists. Only together with `create_thread`."""
    after_s: float = 0
    temporary: bool = False
    """The run's own thread is deleted some time after the run."""
    resumable: bool = False
    """Its events are stored for later readers and other processes."""
    read_by_caller: bool = False
    """The client reads its events."""
    is_answered_at_end: bool = False
    """The events are read for an answer at the end. The client hears nothing of the run before."""
    configurable: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Keys that overwrite the client's `configurable`: forwarded headers, the id of a cron."""
    key: IdempotencyKey | None = None
    """The idempotency key of the request."""
    thread_ttl: Ttl | None = None
    """The TTL of a thread that it creates. None: the server's default."""

    @property
    def stops_others(self) -> bool:
        """Its strategy stops the active runs of the thread."""
        return self.multitask_strategy in {"interrupt", "rollback"}

    @property
    def may_leave_thread(self) -> bool:
        """It may create a thread that outlives it."""
        return self.create_thread or (self.thread_id is None and not self.temporary)

    @property
    def leaves_nothing(self) -> bool:
        """It is executed in memory only: without a row, a checkpoint or an SQL statement."""
        return (
            self.thread_id is None
            and self.temporary
            and not self.resumable
            and self.after_s == 0
            and self.spec.webhook is None
            and self.key is None
        )

    @property
    def graph_spec(self) -> GraphRunOptions:
        """`spec` whose `configurable` is overwritten by the server's keys."""
        if not self.configurable:
            return self.spec
        client_configurable: dict[str, Any] = self.spec.config.get("configurable") or {}
        config = {**self.spec.config, "configurable": {**client_configurable, **self.configurable}}
        return self.spec.model_copy(update={"config": config})


SERVER_KEYS: Final = frozenset({"callbacks", "configurable", "metadata", "run_id"})
"""Keys that the server sets. `callbacks` are code, and the others mix the client's values with the server's."""
CLIENT_KEYS: Final = frozenset(RunnableConfig.__annotations__) - SERVER_KEYS
"""Keys that reach the graph unchanged."""


def client_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a client's config that a graph gets unchanged. Null is the same as absent."""
    return {key: value for key, value in config.items() if key in CLIENT_KEYS and value is not None}


def check_config(config: Mapping[str, Any], max_recursion: int) -> None:
    """UnsupportedField, with the reason, if a graph can not run with this config."""
    options = client_keys(config)
    if not 1 <= _integer(options.get("recursion_limit", 1)) <= max_recursion:
        raise _refusal(f"recursion_limit must be from 1 to {max_recursion} (the server's THREADKEEP_MAX_RECURSION)")
    if _integer(options.get("max_concurrency", 1)) < 1:
        raise _refusal("max_concurrency must be an integer above 0")
    if not isinstance(options.get("run_name", ""), str):
        raise _refusal("run_name must be a string")
    if not _are_texts(options.get("tags", [])):
        raise _refusal("tags must be a list of strings")


def _integer(value: object) -> int:
    """The value, or 0 if it is not an integer."""
    # Not `isinstance`, because True is an int too.
    return value if type(value) is int else 0


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(tag, str) for tag in cast("list[object]", value))


def _refusal(reason: str) -> UnsupportedField:
    return UnsupportedField(f"config.{reason}", field="config")
