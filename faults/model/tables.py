"""The tables: finds rows that must not be in Postgres, by SQL."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from faults.model.ledger import Ledger
from faults.model.observer import Observed


async def rows(database: str, query: str, **parameters: object) -> list[tuple[Any, ...]]:
    """The rows of one statement."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        return await (await conn.execute(query.encode(), parameters)).fetchall()


@dataclass(slots=True)
class Tables:
    """Looks at the checkpoints, runs and all else of the threads of the model."""

    database: str
    ledger: Ledger
    observed: Observed

    async def check_running(self, threads: Sequence[str]) -> None:
        """Never two running runs on a thread. Holds at any time."""
        for thread_id, count in await rows(
            self.database,
            """
            SELECT thread_id::text, count(*)
              FROM runs
             WHERE status = 'running' AND thread_id::text = ANY(%(threads)s)
             GROUP BY thread_id
            HAVING count(*) > 1
            """,
            threads=list(threads),
        ):
            self.ledger.report("running", thread_id, f"{count} runs are running")

    async def check_forks(self, threads: Sequence[str]) -> None:
        """No checkpoint has two children, unless a client asked for a fork there. Holds at any time.

        A rolled back run takes its checkpoints along before its end is written, and a run that is taken over goes on
        from its last checkpoint: neither explains a second child.
        """
        for thread_id, namespace, parent, children, last in await rows(
            self.database,
            """
            SELECT thread_id, checkpoint_ns, parent_checkpoint_id,
                   array_agg(right(checkpoint_id, 6) || ' (' || coalesce(metadata ->> 'source', '?') || coalesce(
                             ' of run ' || right(metadata ->> 'run_id', 6), '') || ')' ORDER BY checkpoint_id),
                   max(checkpoint_id)
              FROM checkpoints
             WHERE thread_id = ANY(%(threads)s)
             GROUP BY thread_id, checkpoint_ns, parent_checkpoint_id
            HAVING count(*) > 1
            """,
            threads=list(threads),
        ):
            if parent not in self.ledger.forked_at:
                where = f" of namespace {namespace}" if namespace else ""
                begin = f"checkpoint {parent[-6:]}" if parent else "the beginning"
                text = f"{begin}{where} has {len(children)} children: {', '.join(children)}"
                self.ledger.report("forks", self._source(thread_id), text, at=made_at(last))

    async def forkable(self, threads: Sequence[str]) -> set[str]:
        """The checkpoints of these threads at which a client asked for a fork, and which are still there."""
        present = await rows(
            self.database,
            "SELECT checkpoint_id FROM checkpoints WHERE thread_id = ANY(%(threads)s) AND checkpoint_id = ANY(%(places)s)",
            threads=list(threads),
            places=list(self.ledger.forked_at),
        )
        return {checkpoint_id for (checkpoint_id,) in present}

    async def check_parents(self, threads: Sequence[str]) -> None:
        """Each checkpoint's parent is there, unless the thread was pruned."""
        for thread_id, checkpoint_id, parent in await rows(
            self.database,
            """
            SELECT thread_id, checkpoint_id, parent_checkpoint_id
              FROM checkpoints AS child
             WHERE thread_id = ANY(%(threads)s) AND parent_checkpoint_id IS NOT NULL
               AND NOT EXISTS (SELECT FROM checkpoints AS parent
                                WHERE parent.thread_id = child.thread_id
                                  AND parent.checkpoint_ns = child.checkpoint_ns
                                  AND parent.checkpoint_id = child.parent_checkpoint_id)
            """,
            threads=list(threads),
        ):
            if thread_id not in self.ledger.pruned and parent not in self.ledger.forked_at:
                text = f"checkpoint {checkpoint_id[-6:]} has lost its parent {parent[-6:]}"
                self.ledger.report("forks", self._source(thread_id), text, at=made_at(checkpoint_id))

    def _source(self, thread_id: str) -> str:
        """A fault in a copy's checkpoints is most often a fault of the copied thread."""
        copied = self.ledger.copies.get(thread_id)
        return copied.thread_id if copied else thread_id

    async def check_leftovers(self, threads: Sequence[str]) -> None:
        """Check that deleted threads, runs and checkpoints have left no rows."""
        counts = await rows(self.database, LEFTOVERS, threads=list(threads))
        by_thread: dict[str, list[str]] = defaultdict(list)
        for thread_id, table, count in counts:
            by_thread[thread_id].append(f"{count} {table}")
        for thread_id, tables in by_thread.items():
            self.ledger.report("leftovers", thread_id, f"left of a deleted thread: {', '.join(tables)}")
        own = [thread_id for thread_id in threads if thread_id not in self.ledger.copies]
        for thread_id, run_id, count in await rows(self.database, OF_GONE_RUNS, threads=own):
            run = self.observed.runs.get(run_id)
            token = (run.token if run else None) or "?"
            why = "rolled back" if run and run.rolled_back else "deleted with its thread"
            text = f"{count} checkpoints of run {run_id[-6:]} ({token}), which was {why}"
            self.ledger.report("leftovers", thread_id, text, [token])

    async def check_writes(self, threads: Sequence[str]) -> None:
        """No checkpoint's writes are there without it."""
        for thread_id, checkpoints, first, count in await rows(self.database, STRAY_WRITES, threads=list(threads)):
            text = f"{count} writes of {checkpoints} checkpoints that are not there"
            self.ledger.report("writes", thread_id, text, at=made_at(first))


LEFTOVERS = """
WITH left_over (thread_id, place) AS (
    SELECT thread_id, 'checkpoints' FROM checkpoints
    UNION ALL SELECT thread_id, 'checkpoint_blobs' FROM checkpoint_blobs
    UNION ALL SELECT thread_id, 'checkpoint_writes' FROM checkpoint_writes
    UNION ALL SELECT thread_id::text, 'runs' FROM runs
    UNION ALL SELECT thread_id::text, 'crons' FROM crons WHERE thread_id IS NOT NULL
    UNION ALL SELECT body ->> 'thread_id', 'webhook_deliveries' FROM webhook_deliveries
)
SELECT thread_id, place, count(*)
  FROM left_over
 WHERE thread_id = ANY(%(threads)s)
   AND NOT EXISTS (SELECT FROM threads WHERE threads.thread_id::text = left_over.thread_id)
 GROUP BY thread_id, place
 UNION ALL
SELECT 'any thread', 'run_events', count(*)
  FROM run_events
 WHERE NOT EXISTS (SELECT FROM runs WHERE runs.run_id = run_events.run_id)
HAVING count(*) > 0
"""
STRAY_WRITES = """
SELECT thread_id, count(DISTINCT checkpoint_id), min(checkpoint_id), count(*)
  FROM checkpoint_writes AS written
 WHERE thread_id = ANY(%(threads)s)
   AND EXISTS (SELECT FROM threads WHERE threads.thread_id::text = written.thread_id)
   AND NOT EXISTS (SELECT FROM checkpoints AS c
                    WHERE c.thread_id = written.thread_id AND c.checkpoint_ns = written.checkpoint_ns
                      AND c.checkpoint_id = written.checkpoint_id)
 GROUP BY thread_id
"""
OF_GONE_RUNS = """
SELECT thread_id, metadata ->> 'run_id', count(*)
  FROM checkpoints
 WHERE thread_id = ANY(%(threads)s) AND metadata ? 'run_id'
   AND EXISTS (SELECT FROM threads WHERE threads.thread_id::text = checkpoints.thread_id)
   AND NOT EXISTS (SELECT FROM runs WHERE runs.run_id::text = checkpoints.metadata ->> 'run_id')
 GROUP BY thread_id, metadata ->> 'run_id'
"""


@dataclass(slots=True)
class Spans:
    """When nodes ran, by the journal that the graph writes: never those of two runs of a thread at once."""

    observed: Observed
    ledger: Ledger
    killed: dict[int, float] = field(default_factory=dict[int, float])
    """When a process was gone, by its pid: monotonic seconds."""
    _read: int = 0

    def check(self, lines: Sequence[dict[str, Any]]) -> None:
        """Look at the lines that were added since."""
        by_thread: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in lines[self._read :]:
            by_thread[line["thread_id"]].append(line)
        self._read = len(lines)
        for thread_id, of_thread in by_thread.items():
            self._check_thread(thread_id, sorted(of_thread, key=lambda line: line["at"]))

    def _check_thread(self, thread_id: str, lines: Sequence[dict[str, Any]]) -> None:
        going_on: dict[str, dict[str, Any]] = {}
        for line in lines:
            if line["phase"] == "end":
                going_on.pop(line["run_id"], None)
                continue
            for run_id, other in list(going_on.items()):
                if run_id != line["run_id"] and self._overlap(other, line):
                    text = f"run {line['run_id'][-6:]} was in {line['node']} while run {run_id[-6:]} was in {other['node']}"
                    self.ledger.report("running", thread_id, text)
            going_on[line["run_id"]] = line

    def _overlap(self, other: dict[str, Any], line: dict[str, Any]) -> bool:
        """Whether `other`, which has not ended, must have stopped before `line`."""
        # A killed process writes no end of its node.
        if self.killed.get(other["pid"], line["at"]) < line["at"]:
            return False
        runs = self.observed.runs.get(other["run_id"]), self.observed.runs.get(line["run_id"])
        if runs[0] is None or runs[1] is None:
            return False
        # A run that was taken over may still be in a node of the late process, which fencing keeps from writing.
        return runs[0].epoch is runs[1].epoch and not runs[0].taken_over


def journal(text: str) -> list[dict[str, Any]]:
    """The lines that the graph wrote. The last one may be cut off by a kill."""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def made_at(checkpoint_id: str) -> float:
    """When a checkpoint was made, by its id, a UUID of version 6: wall-clock seconds."""
    digits = checkpoint_id.replace("-", "")
    ticks = int(digits[:12] + digits[13:16], 16)
    # 100 ns since the beginning of the Gregorian calendar, less those until 1970.
    return (ticks - 0x01B2_1DD2_1381_4000) / 1e7
