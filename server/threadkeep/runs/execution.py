"""Execution: one run in this process, and its life from the slot to the final state.

```
opening ──► running ──► finishing ──► finished
   │           │            │
   └───────────┴────────────┴───────► lost
```

`opening`: the graph is being built. `running`: the graph runs. `finishing`: the graph has ended, no more events are
added, and the final state is being written. `finished`: the final state is in Postgres, or the run has no row. `lost`:
another process executes the run, or will. This process drops everything that it has not written.
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
from threadkeep.runs.request import GraphRunOptions, SurfaceRunOptions
from threadkeep.tables.queue import ClaimedRun
from threadkeep.tables.runs import CancelAction, FinalStatus


class State(Enum):
    """The state of an execution. The diagram is in the module's docstring."""

    OPENING = auto()
    RUNNING = auto()
    FINISHING = auto()
    FINISHED = auto()
    LOST = auto()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The final status and the answer of a run."""

    status: FinalStatus
    answer: bytes
    """JSON: the final values, with `__interrupt__` or `__error__` if there is one."""


@dataclass(frozen=True, slots=True)
class Cancellation:
    """The action and reason of the first cancellation of a run."""

    action: CancelAction
    reason: str


@dataclass(slots=True, kw_only=True, eq=False)
class Execution:
    """One run in this process. `claimed` is None for a stateless run, which has no row and leaves nothing."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    spec: GraphRunOptions
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attempt: int = 1
    user: Mapping[str, Any] | None = None
    """The user that started it, as the authenticator returned it. None if authentication is off."""
    claimed: ClaimedRun | None = None
    writes: WriteBehind | None = None
    """The queue of the run's writes. It is set exactly if `claimed` is set."""
    log: EventLog
    ids: Mapping[str, str] = field(init=False)
    """Its ids as strings, for logs and for the graph's config."""
    state: State = State.OPENING
    outcome: Outcome | None = None
    """Set when it is finished."""
    cancellation: Cancellation | None = None
    first_chunk_at: float | None = None
    """Monotonic time of the graph's first chunk."""
    stop: OneShotEvent = field(default_factory=OneShotEvent)
    """Set when the graph has ended, or must stop now."""
    _closed: OneShotEvent = field(default_factory=OneShotEvent)
    """Set when it is finished or lost."""

    def __post_init__(self) -> None:
        self.ids = {
            "run_id": str(self.run_id),
            "thread_id": str(self.thread_id),
            "assistant_id": str(self.assistant_id),
            "graph_id": self.graph_id,
        }

    @classmethod
    def of_row(cls, claimed: ClaimedRun, commits: GroupCommit, *, read_by_caller: bool = True) -> "Execution":
        """Create the execution of a row of `runs` that this process has claimed."""
        return cls(
            run_id=claimed.run_id,
            thread_id=claimed.thread_id,
            assistant_id=claimed.assistant_id,
            graph_id=claimed.graph_id,
            spec=SurfaceRunOptions.model_validate_json(claimed.kwargs.raw),
            metadata=claimed.metadata.load(),
            attempt=claimed.attempt,
            user=claimed.principal.load() if claimed.principal else None,
            claimed=claimed,
            writes=WriteBehind(commits, Fence(claimed.run_id, claimed.worker_id)),
            log=EventLog(is_wanted=read_by_caller, starts_after=claimed.start_position),
        )

    @property
    def is_durable(self) -> bool:
        """It has a row, and its thread's checkpoints are stored."""
        return self.claimed is not None

    @property
    def is_lost(self) -> bool:
        """Another process executes it, or will execute it."""
        return self.state is State.LOST

    @property
    def status(self) -> str:
        """The final status for metrics and traces, or `lost`."""
        return self.outcome.status if self.outcome else "lost"

    def run(self) -> None:
        """opening -> running: the graph was built."""
        if self.state is State.OPENING:
            self.state = State.RUNNING

    def begin_finish(self) -> None:
        """opening, running -> finishing: the graph has ended, and no more events are added."""
        if self.state in {State.OPENING, State.RUNNING}:
            self.state = State.FINISHING
            self.log.seal()

    def finish(self, outcome: Outcome) -> None:
        """finishing -> finished: the final state is written. Readers read the remaining events and stop."""
        if self.state is State.FINISHING:
            self.state, self.outcome = State.FINISHED, outcome
            self._close()

    def lose_lease(self) -> None:
        """Any state but finished -> lost: stop the graph, and write nothing more for the run."""
        if self.state is not State.FINISHED:
            self.state = State.LOST
            self.stop.set()
            self._close()

    def cancel(self, action: CancelAction, reason: str) -> None:
        """Stop the graph. Only the first call sets the action and the reason."""
        # A finished run can't be cancelled, and a second cancel does not change the action of the first.
        if self.cancellation is None and self.outcome is None:
            self.cancellation = Cancellation(action, reason)
            self.stop.set()

    async def wait_result(self, within_s: float | None = None) -> Outcome | None:
        """Wait for the outcome. None if the run is lost, or has not ended after `within_s` seconds."""
        await self._closed.wait(within_s)
        return self.outcome

    def _close(self) -> None:
        self._closed.set()
        self.log.close()


class Executions:
    """The runs that this process executes, by id, and the tasks that execute them.

    No task group owns these tasks (docs/decisions/0019-tasks-of-runs.md). To stop a run, set its `stop`.
    """

    def __init__(self) -> None:
        self._executions: dict[UUID, Execution] = {}
        self._counts: dict[str, int] = {}
        """The number of runs by the identity of their principal."""
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Execution]:
        # A copy, because runs begin and end while a caller waits inside its loop.
        return iter(list(self._executions.values()))

    def __len__(self) -> int:
        return len(self._executions)

    def get(self, run_id: UUID) -> Execution | None:
        """The execution of the run. None if there is none, or this process has lost it."""
        execution = self._executions.get(run_id)
        return None if execution is None or execution.is_lost else execution

    def count_of(self, identity: str) -> int:
        """The number of executions of one principal."""
        return self._counts.get(identity, 0)

    def _count(self, identity: str, change: int) -> None:
        self._counts[identity] = self._counts.get(identity, 0) + change
        if not self._counts[identity]:
            del self._counts[identity]

    def add(self, execution: Execution) -> None:
        """Add an execution, so that other parts of the process can find it."""
        if (replaced := self._executions.get(execution.run_id)) is not None:  # an earlier attempt of the same run
            self.remove(replaced)
        self._executions[execution.run_id] = execution
        if execution.user is not None:
            self._count(execution.user["identity"], 1)

    def remove(self, execution: Execution) -> None:
        """Remove an execution that has ended."""
        if self._executions.get(execution.run_id) is execution:  # not another attempt of the same run
            del self._executions[execution.run_id]
            if execution.user is not None:
                self._count(execution.user["identity"], -1)

    def start_task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work` in a task of its own. The end of the request does not cancel it."""
        # asyncio keeps only weak references to tasks, so the set holds them.
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def lose_running(self) -> None:
        """Lose the lease of every run whose graph still runs, and write nothing more for it."""
        for execution in self:
            if not execution.stop.is_set():
                execution.lose_lease()

    async def next_ended(self) -> None:
        """Wait until one task has ended. Returns at once if there is none."""
        if self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def all_ended(self) -> None:
        """Wait until all tasks have ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)
