"""Execution: one run in this process, and its life from the slot to the final state.

```
opening ──► running ──► finishing ──► finished
   │           │            │
   └───────────┴────────────┴───────► lost
```

`opening`: its graph is being made. `running`: the graph runs. `finishing`: the graph has ended, no event comes any more,
and the end is being written. `finished`: the end is in Postgres, or the run has no row. `lost`: another process executes
the run, or will. What this one still has of it is dropped.
"""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any
from uuid import UUID

from threadkeep.base.flag import OneShotEvent
from threadkeep.persistence.group_commit import Fence, GroupCommit
from threadkeep.persistence.write_behind import WriteBehind
from threadkeep.runs.event_log import EventLog
from threadkeep.runs.request import GraphRunOptions
from threadkeep.tables.queue import ClaimedRun
from threadkeep.tables.runs import CancelAction, FinalStatus


class State(Enum):
    """Where an execution stands. The picture is in the module's docstring."""

    OPENING = auto()
    RUNNING = auto()
    FINISHING = auto()
    FINISHED = auto()
    LOST = auto()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    status: FinalStatus
    answer: bytes
    """JSON: the final values, with `__interrupt__` or `__error__` if there is one."""


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What the first cancel of a run asked for."""

    action: CancelAction
    reason: str


@dataclass(slots=True, kw_only=True, eq=False)
class Execution:
    """One run in this process. `claimed` is None for a stateless one: it has no row and leaves nothing behind."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    spec: GraphRunOptions
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attempt: int = 1
    user: Mapping[str, Any] | None = None
    """The user who asked for it, as the authenticator knows them. None if authentication is off."""
    claimed: ClaimedRun | None = None
    writes: WriteBehind | None = None
    """What the run writes of itself. Set exactly if `claimed` is."""
    log: EventLog
    ids: Mapping[str, str] = field(init=False)
    """Its ids as texts, for logs and for the graph's config."""
    state: State = State.OPENING
    outcome: Outcome | None = None
    """Set when it is finished."""
    cancellation: Cancellation | None = None
    first_chunk_at: float | None = None
    """Monotonic: when the graph first said something."""
    stop: OneShotEvent = field(default_factory=OneShotEvent)
    """The graph has ended, or is to end now."""
    _closed: OneShotEvent = field(default_factory=OneShotEvent)
    """It is finished or lost."""

    def __post_init__(self) -> None:
        self.ids = {
            "run_id": str(self.run_id),
            "thread_id": str(self.thread_id),
            "assistant_id": str(self.assistant_id),
            "graph_id": self.graph_id,
        }

    @classmethod
    def of_row(cls, claimed: ClaimedRun, commits: GroupCommit, *, read_by_caller: bool = True) -> "Execution":
        """The execution of a row of `runs` that this process has claimed."""
        return cls(
            run_id=claimed.run_id,
            thread_id=claimed.thread_id,
            assistant_id=claimed.assistant_id,
            graph_id=claimed.graph_id,
            spec=GraphRunOptions.model_validate_json(claimed.kwargs.raw),
            metadata=claimed.metadata.load(),
            attempt=claimed.attempt,
            user=claimed.principal.load() if claimed.principal else None,
            claimed=claimed,
            writes=WriteBehind(commits, Fence(claimed.run_id, claimed.worker_id)),
            log=EventLog(is_wanted=read_by_caller, starts_after=claimed.start_position),
        )

    @property
    def is_durable(self) -> bool:
        """It has a row and a thread, whose checkpoints are kept."""
        return self.claimed is not None

    @property
    def is_lost(self) -> bool:
        """Another process executes it, or will."""
        return self.state is State.LOST

    @property
    def status(self) -> str:
        """How it ended, for metrics and traces."""
        return self.outcome.status if self.outcome else "lost"

    def run(self) -> None:
        """opening -> running: the graph was made."""
        if self.state is State.OPENING:
            self.state = State.RUNNING

    def begin_finish(self) -> None:
        """opening, running -> finishing: the graph has ended, and no event comes any more."""
        if self.state in {State.OPENING, State.RUNNING}:
            self.state = State.FINISHING
            self.log.seal()

    def finish(self, outcome: Outcome) -> None:
        """finishing -> finished: the end is written. Readers get what is left of the events, and stop."""
        if self.state is State.FINISHING:
            self.state, self.outcome = State.FINISHED, outcome
            self._close()

    def lose_lease(self) -> None:
        """Any state but finished -> lost: stop the graph, and write nothing of the run."""
        if self.state is not State.FINISHED:
            self.state = State.LOST
            self.stop.set()
            self._close()

    def cancel(self, action: CancelAction, reason: str) -> None:
        """Stop the graph. The action and the reason of the first call stand."""
        if self.cancellation is None and self.outcome is None:
            self.cancellation = Cancellation(action, reason)
            self.stop.set()

    async def wait_result(self, within_s: float | None = None) -> Outcome | None:
        """Wait for the outcome. None if the run is lost, or has not ended `within_s` seconds."""
        await self._closed.wait(within_s)
        return self.outcome

    def _close(self) -> None:
        self._closed.set()
        self.log.close()


class Executions:
    """The runs that this process executes, by id, and the tasks that work for them.

    No task group owns these tasks (docs/decisions/0019-tasks-of-runs.md): whoever stops a run sets its `stop`.
    """

    def __init__(self) -> None:
        self._executions: dict[UUID, Execution] = {}
        self._counts: dict[str, int] = {}
        """By identity of whoever asked."""
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Execution]:
        return iter(list(self._executions.values()))

    def __len__(self) -> int:
        return len(self._executions)

    def get(self, run_id: UUID) -> Execution | None:
        """The execution of the run. None also if this process has lost it."""
        execution = self._executions.get(run_id)
        return None if execution is None or execution.is_lost else execution

    def count_of(self, identity: str) -> int:
        """How many of them a principal asked for."""
        return self._counts.get(identity, 0)

    def _count(self, identity: str, more: int) -> None:
        self._counts[identity] = self._counts.get(identity, 0) + more
        if not self._counts[identity]:
            del self._counts[identity]

    def add(self, execution: Execution) -> None:
        """From here on other parts of the process find it."""
        if (replaced := self._executions.get(execution.run_id)) is not None:  # an earlier attempt of the same run
            self.remove(replaced)
        self._executions[execution.run_id] = execution
        if execution.user is not None:
            self._count(execution.user["identity"], 1)

    def remove(self, execution: Execution) -> None:
        """The process has nothing more to do for it."""
        if self._executions.get(execution.run_id) is execution:  # not another attempt of the same run
            del self._executions[execution.run_id]
            if execution.user is not None:
                self._count(execution.user["identity"], -1)

    def start_task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do `work` for a run in a task of its own: a request that goes away does not take it along."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def lose_running(self) -> None:
        """Let go of every run whose graph still runs, and write nothing of it."""
        for execution in self:
            if not execution.stop.is_set():
                execution.lose_lease()

    async def next_ended(self) -> None:
        """Wait until one of the tasks has ended. Returns at once if there is none."""
        if self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def all_ended(self) -> None:
        """Wait until no task works for a run any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)
