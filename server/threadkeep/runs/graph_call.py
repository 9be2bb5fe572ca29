"""Job: a run as the process that executes it knows it, and what its graph is called with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.types import Command as GraphCommand
from langgraph.types import Send

from threadkeep.auth.principal import NOBODY, configurable_of
from threadkeep.persistence.checkpointer import FRESH, WRITES, Fresh
from threadkeep.persistence.group_commit import GroupCommit
from threadkeep.persistence.write_behind import WriteBehind
from threadkeep.runs.request import Command, Packet, RunSpec
from threadkeep.tables.queue import Claimed

RESERVED = ("__", "langgraph_auth")
"""Prefixes of `configurable` keys that only the server sets."""
OWNED = frozenset(
    {"thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id", "assistant_id", "graph_id"}
)
"""`configurable` keys that the server sets, whatever a client wrote there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run to execute. `claimed` is None for a stateless one, which has no row and leaves nothing behind."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    spec: RunSpec
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attempt: int = 1
    user: Mapping[str, Any] | None = None
    """Who asked for it, as `authenticate` said; None where authentication is off."""
    claimed: Claimed | None = None
    writes: WriteBehind | None = None
    """What it writes of itself; set exactly when `claimed` is."""
    about: Mapping[str, str] = field(init=False)
    """Its ids as texts, for logs and configs."""

    def __post_init__(self) -> None:
        ids = {"run_id": str(self.run_id), "thread_id": str(self.thread_id)}
        about = {**ids, "assistant_id": str(self.assistant_id), "graph_id": self.graph_id}
        object.__setattr__(self, "about", about)

    @classmethod
    def of(cls, claimed: Claimed, commits: GroupCommit) -> "Job":
        """The job of a row of `runs`."""
        return cls(
            run_id=claimed.run_id,
            thread_id=claimed.thread_id,
            assistant_id=claimed.assistant_id,
            graph_id=claimed.graph_id,
            spec=RunSpec.model_validate_json(claimed.kwargs.raw),
            metadata=claimed.metadata.load(),
            attempt=claimed.attempt,
            user=claimed.principal.load() if claimed.principal else None,
            claimed=claimed,
            writes=WriteBehind(commits, claimed.worker_id),
        )

    @property
    def durable(self) -> bool:
        """It has a thread, whose checkpoints are kept."""
        return self.claimed is not None

    def graph_input(self) -> Any:
        """What the graph is called with; a command goes before an input, as agent-chat-ui sends both."""
        command = self.spec.command
        return graph_command(command) if command and command.says_something else self.spec.input

    def config(self) -> RunnableConfig:
        """The graph's config: the client's, and the server's keys over it."""
        sent = self.spec.config
        mirrored = client_configurable({"configurable": self.spec.context})
        configurable: dict[str, Any] = {**client_configurable(sent), **mirrored, **self.about}
        if self.claimed is not None:
            configurable[WRITES] = self.writes
            if self.claimed.new_thread:
                configurable[FRESH] = Fresh()
        configurable |= NOBODY if self.user is None else configurable_of(self.user)
        if start := self.spec.start_checkpoint:
            configurable["checkpoint_id"] = start.checkpoint_id
            configurable["checkpoint_ns"] = start.checkpoint_ns
        config: dict[str, Any] = {
            "configurable": configurable,
            "metadata": {**self.metadata, **self.about, "run_attempt": self.attempt},
            "run_id": self.run_id,
            "run_name": self.graph_id,
        }
        config |= {key: sent[key] for key in ("tags", "recursion_limit") if key in sent}
        return cast("RunnableConfig", config)


def client_configurable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A client's `configurable` without the keys that are the server's."""
    sent: dict[str, Any] | None = config.get("configurable")
    if not sent:
        return {}
    return {key: value for key, value in sent.items() if key not in OWNED and not key.startswith(RESERVED)}


def graph_command(command: Command) -> GraphCommand[Any]:
    """LangGraph's command of the protocol's."""
    update = command.update
    return GraphCommand(resume=command.resume, update=update, goto=_goto(command.goto))


def _goto(goto: str | Packet | list[str | Packet] | None) -> Any:
    """A node's name, a Send, or several."""
    if isinstance(goto, Packet):
        return Send(goto.node, goto.input)
    if isinstance(goto, list):
        return [_goto(one) for one in goto]
    return () if goto is None else goto
