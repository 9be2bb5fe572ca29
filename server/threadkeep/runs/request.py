"""RunSpec: what a graph is to do, as the client said it; also the `kwargs` of a run's row."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

StreamMode: TypeAlias = Literal[
    "values", "updates", "messages", "messages-tuple", "custom", "debug", "tasks", "checkpoints", "events", "tools"
]
Nodes: TypeAlias = Literal["*"] | list[str]


def _several(value: object) -> object:
    """One mode or several; of none, `values`."""
    return [value] if isinstance(value, str) else ["values"] if value == [] else value


class Packet(BaseModel):
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
    goto: str | Packet | list[str | Packet] | None = None
    """Where to go on."""

    @property
    def says_something(self) -> bool:
        """Else it is as good as none: LangGraph takes no empty one."""
        return self.resume is not None or self.update is not None or bool(self.goto)


class Checkpoint(BaseModel):
    """A checkpoint of the thread to start from. `thread_id` is the path's, whatever a client writes here."""

    model_config = ConfigDict(extra="ignore")

    checkpoint_id: str | None = None
    checkpoint_ns: str = ""
    checkpoint_map: dict[str, Any] | None = None


class RunSpec(BaseModel):
    """The part of a run's body that says how its graph is run."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    input: Any = None
    """None and no command: go on from where the thread stands."""
    command: Command | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    """`tags`, `recursion_limit`, `configurable`."""
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
