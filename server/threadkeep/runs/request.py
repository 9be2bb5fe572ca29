"""Request: what a caller asks for when it starts a run.

`GraphRunOptions` is the part that the graph is called with, and the `kwargs` of the run's row. `RunRequest` is all of it.
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
    "values", "updates", "messages", "messages-tuple", "custom", "debug", "tasks", "checkpoints", "events", "tools"
]
Nodes: TypeAlias = Literal["*"] | list[str]
MultitaskStrategy: TypeAlias = Literal["reject", "enqueue", "interrupt", "rollback"]
"""What becomes of a run on a thread on which another goes on."""

RESERVED_PREFIXES: Final = ("__", "langgraph_auth")
"""Of `configurable` keys that only the server sets."""
OWNED_KEYS: Final = frozenset(
    {"thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id", "assistant_id", "graph_id"}
)
"""`configurable` keys that the server sets, whatever a client wrote there."""
OBJECT_KEYS: Final = ("configurable", "metadata")
"""Keys of a config that hold objects."""


def _several(value: object) -> object:
    """One mode or several; of none, `values`."""
    return [value] if isinstance(value, str) else ["values"] if value == [] else value


class SendCommand(BaseModel):
    """A node, and what it gets in place of the state (`langgraph.types.Send`)."""

    model_config = ConfigDict(extra="ignore")

    node: str
    input: Any = None


class Command(BaseModel):
    """An answer to interrupts, a jump, or an update of the state (`langgraph.types.Command`)."""

    model_config = ConfigDict(extra="ignore")

    resume: Any = None
    """The answer; or interrupt id -> answer, where several wait."""
    update: dict[str, Any] | list[tuple[str, Any]] | None = None
    goto: str | SendCommand | list[str | SendCommand] | None = None
    """Where to go on."""

    @property
    def is_empty(self) -> bool:
        """Else it is as good as none: LangGraph takes no empty one."""
        return self.resume is not None or self.update is not None or bool(self.goto)


class Checkpoint(BaseModel):
    """A checkpoint of the thread to start from. `thread_id` is the path's, whatever a client writes here."""

    model_config = ConfigDict(extra="ignore")

    checkpoint_id: str | None = None
    checkpoint_ns: str = ""
    checkpoint_map: dict[str, Any] | None = None


def _with_objects(config: dict[str, Any]) -> dict[str, Any]:
    """`configurable` and `metadata` must be objects. Null is the same as none."""
    sent = {name: value for name, value in config.items() if value is not None or name not in OBJECT_KEYS}
    for name in OBJECT_KEYS:
        if not isinstance(sent.get(name, {}), dict):
            raise PydanticCustomError(name, "{name} must be an object", {"name": name})
    return sent


RunConfig: TypeAlias = Annotated[dict[str, Any], AfterValidator(_with_objects)]
"""A `RunnableConfig` as clients send it, wherever it can stand."""


class UnusedConfigBody(BaseModel):
    """A request body that ignores a config. A malformed config is refused all the same."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_malformed_config(cls, body: object) -> object:
        sent = _object(body)
        parts = (sent.get("config"), _object(sent.get("config")).get("configurable"), sent.get("configurable"))
        if any(part is not None and not isinstance(part, dict) for part in parts):
            raise PydanticCustomError("config", "config and its configurable must be objects")
        return body


def _object(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


class GraphRunOptions(BaseModel):
    """The part of a run's body that says how its graph is run."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    input: Any = None
    """None and no command: go on from where the thread stands."""
    command: Command | None = None
    config: RunConfig = Field(default_factory=dict)
    """`tags`, `recursion_limit`, `max_concurrency`, `run_name`, `configurable`, `metadata`."""
    context: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_id: str | None = None
    interrupt_before: Nodes | None = None
    interrupt_after: Nodes | None = None
    stream_mode: Annotated[
        list[StreamMode], BeforeValidator(_several, json_schema_input_type=StreamMode | list[StreamMode])
    ] = Field(default_factory=lambda: ["values"])
    stream_subgraphs: bool = False
    stream_resumable: bool = False
    durability: Literal["sync", "async", "exit"] = "async"
    webhook: str | None = Field(default=None, min_length=1, max_length=10_000)
    """An address that is told when the run has ended."""

    @property
    def start_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to start from, by whichever of the two fields."""
        if self.checkpoint and self.checkpoint.checkpoint_id:
            return self.checkpoint
        return Checkpoint(checkpoint_id=self.checkpoint_id) if self.checkpoint_id else None


def without_reserved_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A client's `configurable` without the keys that are the server's."""
    sent: dict[str, Any] | None = config.get("configurable")
    if not sent:
        return {}
    return {
        key: value for key, value in sent.items() if key not in OWNED_KEYS and not key.startswith(RESERVED_PREFIXES)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A run that a caller asks for, from any API surface."""

    spec: GraphRunOptions
    assistant: str
    """The id of an assistant, or the name of a graph."""
    thread_id: UUID | None = None
    """None: the run gets a thread of its own, or none at all."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    multitask_strategy: MultitaskStrategy = "enqueue"
    create_thread: bool = False
    """If there is no thread of that id, create one."""
    after_s: float = 0
    temporary: bool = False
    """The run's own thread is deleted some time after it."""
    resumable: bool = False
    """Its events can be read later, and in other processes."""
    read_by_caller: bool = False
    """The caller reads its events."""
    configurable: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Keys of `configurable` that go over the client's: forwarded headers, the id of a cron."""
    key: IdempotencyKey | None = None
    """The idempotency key of the request."""
    thread_ttl: Ttl | None = None
    """Of a thread that is created for it. None: the server's default."""

    @property
    def stops_others(self) -> bool:
        """Its strategy stops the runs that go on on the thread."""
        return self.multitask_strategy in {"interrupt", "rollback"}

    @property
    def may_leave_thread(self) -> bool:
        """A thread may be created for it that stays after it."""
        return self.create_thread or (self.thread_id is None and not self.temporary)

    @property
    def leaves_nothing(self) -> bool:
        """It is executed from memory alone: no row, no checkpoint, no statement of ours."""
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
        """`spec` with the `configurable` of the server over the client's."""
        if not self.configurable:
            return self.spec
        sent: dict[str, Any] = self.spec.config.get("configurable") or {}
        config = {**self.spec.config, "configurable": {**sent, **self.configurable}}
        return self.spec.model_copy(update={"config": config})


SERVER_KEYS: Final = frozenset({"callbacks", "configurable", "metadata", "run_id"})
"""Keys that the server fills itself: `callbacks` are code, the others hold a client's values beside its own."""
CLIENT_KEYS: Final = frozenset(RunnableConfig.__annotations__) - SERVER_KEYS
"""Keys that reach the graph as the client sent them."""


def client_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a client's config that a graph gets as it is. Null is the same as none."""
    return {key: value for key, value in config.items() if key in CLIENT_KEYS and value is not None}


def check_config(config: Mapping[str, Any], max_recursion: int) -> None:
    """Unsupported, with the reason, if a graph could not run with this config."""
    sent = client_keys(config)
    if not 1 <= _integer(sent.get("recursion_limit", 1)) <= max_recursion:
        raise _refusal(f"recursion_limit must be from 1 to {max_recursion} (the server's THREADKEEP_MAX_RECURSION)")
    if _integer(sent.get("max_concurrency", 1)) < 1:
        raise _refusal("max_concurrency must be an integer above 0")
    if not isinstance(sent.get("run_name", ""), str):
        raise _refusal("run_name must be a text")
    if not _are_texts(sent.get("tags", [])):
        raise _refusal("tags must be a list of texts")


def _integer(value: object) -> int:
    """The value, or 0 if it is not an integer."""
    return value if type(value) is int else 0


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(tag, str) for tag in cast("list[object]", value))


def _refusal(reason: str) -> UnsupportedField:
    return UnsupportedField(f"config.{reason}", field="config")
