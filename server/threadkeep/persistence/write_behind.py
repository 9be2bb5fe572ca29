"""Write-behind: the writes of a run that its graph does not wait for.

With durability `async` and `exit` a graph continues while its checkpoints are being written. The group commit gets them
in order, and then the run's result, in the same transaction if they are not committed yet.
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
"""The limits for unfinished writes of a run. Above them the run waits, so that it does not fill the memory."""

LARGE_BYTES: Final = 16 * 1024
"""Larger writes are sent without waiting for a fuller batch, because Postgres needs more time for them."""

Place: TypeAlias = tuple[str, str]
"""The namespace and id of a checkpoint of the run's thread."""


class WriteBehind:
    """The writes of one run under one lease."""

    def __init__(self, commits: GroupCommit, fence: Fence) -> None:
        self.fence = fence
        self._commits = commits
        self._pending: deque[PendingWrite[WriteSet, Any]] = deque()
        self._bytes = 0
        self._awaited: set[PendingWrite[WriteSet, Any]] = set()
        """Writes that the graph waits for, or waited for before its cancellation."""
        self._inherited: set[Place] = set()
        """Checkpoints of earlier runs that the run has read. It resumes from them."""
        self._known: set[Place] = set()
        """Checkpoints that the run has read or written. Other checkpoints are not in Postgres and may never be."""
        self._early: dict[Place, list[WriteSet]] = {}
        """The writes that came before their checkpoint, in order, by checkpoint."""
        self._closed = False

    @property
    def failure(self) -> Exception | None:
        """The error of the first failed write. Later writes are not made either."""
        return next((write.error for write in self._pending if write.error is not None), None)

    def note_read(self, place: Place, *, inherited: bool) -> None:
        """Record that the run has read a checkpoint.

        `inherited` means that an earlier run wrote it. Writes to it are then recorded in the undo log.
        """
        self._known.add(place)
        if inherited:
            self._inherited.add(place)

    def is_inherited(self, place: Place) -> bool:
        """Whether an earlier run wrote the checkpoint."""
        return place in self._inherited

    def hold_early(self, place: Place, rows: WriteSet) -> bool:
        """Hold writes that come before their checkpoint, and return True. False if the checkpoint is known.

        A graph continues while its checkpoint is serialised, so the writes of the next step may come first. If the process
        is killed then, the checkpoint is never written, and nothing would delete these writes. Raises as `submit` does.
        """
        if place in self._known:
            return False
        self._admit(rows)
        self._early.setdefault(place, []).append(rows)
        return True

    def add_early(self, place: Place, rows: WriteSet) -> None:
        """Add the writes that came before their checkpoint to the checkpoint's rows."""
        self._known.add(place)
        group_commit.add_writes(rows, self._early.pop(place, ()))

    def _admit(self, rows: WriteSet) -> None:
        """Set the fence of `rows`. Raises the error of an earlier write, and RuntimeError if the run has ended."""
        self._forget_written()
        if (failure := self.failure) is not None:
            raise failure
        if self._closed:
            raise RuntimeError("the run has ended, but its graph still writes")
        rows.fence = self.fence

    async def write(self, rows: WriteSet) -> None:
        """Write `rows`, and wait until they are committed. Raises their error, or as `submit` does.

        They are written even if the caller is cancelled, because later writes may depend on them.
        """
        self._admit(rows)
        write = self._commits.submit(rows)
        self._awaited.add(write)
        try:
            await write.result()
        finally:
            # A cancelled graph leaves its write in `_awaited`. `close_and_settle` waits for it.
            if write.done:
                self._awaited.discard(write)

    async def submit(self, rows: WriteSet) -> None:
        """Submit `rows`, and wait only if there are too many unfinished writes.

        Raises the error of an earlier write, and RuntimeError if the run has ended.
        """
        self._admit(rows)
        write, size_bytes = self._commits.submit(rows), rows.size_bytes
        if size_bytes > LARGE_BYTES:
            write.expedite()
        self._pending.append(write)
        self._bytes += size_bytes
        if len(self._pending) > MAX_PENDING_WRITES or self._bytes > MAX_PENDING_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Wait until all writes are committed. Raises the error of the first failed write."""
        while self._pending:
            await self._pending[0].result()
            self._forget_written()

    async def finish_run(self, end: FinishRequest) -> bool | None:
        """Write the run's result after its other writes. Raises their error. The result is described at `GroupCommit`."""
        self.close()
        return await self._commits.write(WriteSet(run_result=end, fence=self.fence, depends_on=tuple(self._pending)))

    def close(self) -> None:
        """Refuse further writes, which an abandoned graph might still make."""
        self._closed = True

    async def close_and_settle(self) -> None:
        """Refuse further writes, and wait until all earlier ones have ended.

        A cancelled graph no longer waits for its writes, but they may still be committed. Raises the error of the first
        failed write that was written behind.
        """
        self.close()
        # A copy, because each write leaves the set when it ends.
        for write in list(self._awaited):
            await write.wait()
        self._awaited.clear()
        await self.flush()

    def _forget_written(self) -> None:
        # A failed write stays, so that each later write raises its error.
        while self._pending and self._pending[0].done and self._pending[0].error is None:
            self._bytes -= self._pending.popleft().item.size_bytes
