"""Write-behind: what a run writes of itself and need not wait for.

With durability `async` and `exit` a graph goes on while its checkpoints are on their way. They are handed to the group
commit in their order, and the end of the run behind them, in the same transaction where that is still to come.
"""

from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from threadkeep.persistence import group_commit
from threadkeep.persistence.group_commit import Fence, GroupCommit, WriteSet
from threadkeep.tables.queue import FinishRequest

if TYPE_CHECKING:
    from threadkeep.postgres.batch_writer import PendingWrite

MAX_PENDING_WRITES: Final = 32
MAX_PENDING_BYTES: Final = 4 * 1024 * 1024
"""What a run may have on its way; with more it waits, so that one that outruns Postgres does not fill the memory."""

LARGE_BYTES: Final = 16 * 1024
"""Not held back to go together with more: Postgres has work with it, which it had better begin meanwhile."""

Place: TypeAlias = tuple[str, str]
"""Namespace and id of a checkpoint on the run's thread."""


class WriteBehind:
    """The writes of one run under one lease."""

    def __init__(self, commits: GroupCommit, fence: Fence) -> None:
        self.fence = fence
        self._commits = commits
        self._on_the_way: deque[PendingWrite[WriteSet, Any]] = deque()
        self._bytes = 0
        self._awaited: set[PendingWrite[WriteSet, Any]] = set()
        """Writes that the graph waits for, or waited for until it was cancelled."""
        self._inherited: set[Place] = set()
        """Checkpoints that the run read and did not write: it resumes there."""
        self._known: set[Place] = set()
        """Checkpoints that the run read or handed in. All others are not in Postgres yet, and may never be."""
        self._early: dict[Place, list[WriteSet]] = {}
        """By checkpoint that is not known: the writes to it that came before it, in their order."""
        self._closed = False

    @property
    def failure(self) -> Exception | None:
        """Of the first write that could not be made: those behind it are not made either."""
        return next((handed.error for handed in self._on_the_way if handed.error is not None), None)

    def note_read(self, place: Place, *, inherited: bool) -> None:
        """Say that the run read a checkpoint. If an earlier run wrote it, it is inherited: what this run writes to it is
        noted in the undo log."""
        self._known.add(place)
        if inherited:
            self._inherited.add(place)

    def is_inherited(self, place: Place) -> bool:
        """Whether the checkpoint is an earlier run's."""
        return place in self._inherited

    def hold_early(self, place: Place, rows: WriteSet) -> bool:
        """Hold `rows`, writes to a checkpoint, if they come before it. True if they do.

        A graph goes on while its checkpoint is serialised, so the writes of the next step may overtake it. If its process
        is killed then, the checkpoint never comes, and nobody would ever delete these writes. Raises as `put` does.
        """
        if place in self._known:
            return False
        self._admit(rows)
        self._early.setdefault(place, []).append(rows)
        return True

    def add_early(self, place: Place, rows: WriteSet) -> None:
        """Add to `rows`, those of a checkpoint, the writes that came before it."""
        self._known.add(place)
        group_commit.add_writes(rows, self._early.pop(place, ()))

    def _admit(self, rows: WriteSet) -> None:
        """Let `rows` be written under the run's lease. Raises what became of an earlier write, and RuntimeError of a run
        that has ended."""
        self._forget_written()
        if (failure := self.failure) is not None:
            raise failure
        if self._closed:
            raise RuntimeError("the run has ended, and its graph still writes")
        rows.fence = self.fence

    async def write(self, rows: WriteSet) -> None:
        """Write `rows`, and wait until they are committed. Raises what Postgres says of them, and as `put` does.

        They are written even if the caller is cancelled: what was handed in after them may belong to them.
        """
        self._admit(rows)
        handed = self._commits.submit(rows)
        self._awaited.add(handed)
        try:
            await handed.result()
        finally:
            if handed.done:
                self._awaited.discard(handed)

    async def submit(self, rows: WriteSet) -> None:
        """Hand `rows` on, and wait only if too much is on its way.

        Raises what became of an earlier write, and RuntimeError if the run has ended.
        """
        self._admit(rows)
        handed, size_bytes = self._commits.submit(rows), rows.size_bytes
        if size_bytes > LARGE_BYTES:
            handed.expedite()
        self._on_the_way.append(handed)
        self._bytes += size_bytes
        if len(self._on_the_way) > MAX_PENDING_WRITES or self._bytes > MAX_PENDING_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Wait until all of them are written; raises what became of the first that was not."""
        while self._on_the_way:
            await self._on_the_way[0].result()
            self._forget_written()

    async def finish_run(self, end: FinishRequest) -> bool | None:
        """Write the end of the run behind its other writes, or raise what became of these; see `GroupCommit`."""
        self.close()
        return await self._commits.write(WriteSet(run_result=end, fence=self.fence, depends_on=tuple(self._on_the_way)))

    def close(self) -> None:
        """From here on refuse what a graph writes that was left behind."""
        self._closed = True

    async def close_and_settle(self) -> None:
        """Refuse further writes, and wait until no earlier one is on its way any more.

        A cancelled graph no longer waits for what it has handed in, and it may be committed after that. Raises what
        became of the first write that was to be written behind and could not be.
        """
        self.close()
        for handed in list(self._awaited):
            await handed.wait()
        self._awaited.clear()
        await self.flush()

    def _forget_written(self) -> None:
        while self._on_the_way and self._on_the_way[0].done and self._on_the_way[0].error is None:
            self._bytes -= self._on_the_way.popleft().item.size_bytes
