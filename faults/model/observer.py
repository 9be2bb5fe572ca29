"""The observer: records in Postgres, by triggers, when threads and runs come, change and go.

Its table is in a schema of its own. Rows of a transaction that is rolled back are not seen. `seq` grows in the order in
which the statements ran. For one thread that is also the order of the commits, because its row is locked.
"""

from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

FINAL = frozenset({"success", "error", "timeout", "interrupted"})
# `running` to `pending` is a takeover or a requeue. A final status never changes.
LEGAL = frozenset(
    {("pending", "running"), ("pending", "interrupted"), ("running", "pending")} | {("running", end) for end in FINAL}
)
INSTALL: LiteralString = """
CREATE SCHEMA observed;
CREATE UNLOGGED TABLE observed.events (
    seq bigint GENERATED ALWAYS AS IDENTITY, at float NOT NULL, xact xid8 NOT NULL, subject text NOT NULL,
    thread_id uuid NOT NULL, run_id uuid, old_status text, new_status text, token text, epoch text, strategy text,
    assistant_id text, ttl_s float, error text
);
CREATE FUNCTION observed.thread() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    row threads := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    INSERT INTO observed.events (at, xact, subject, thread_id, new_status, epoch, strategy, assistant_id, ttl_s)
    VALUES (extract(epoch FROM clock_timestamp()), pg_current_xact_id(), 'thread ' || lower(TG_OP), row.thread_id,
            row.status, row.metadata ->> 'epoch', row.ttl_strategy, row.metadata ->> 'assistant_id',
            row.ttl_minutes * 60);
    RETURN NULL;
END
$$;
CREATE FUNCTION observed.run() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    row runs := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.status = NEW.status AND OLD.finished_at IS NOT DISTINCT FROM NEW.finished_at THEN
        RETURN NULL;
    END IF;
    INSERT INTO observed.events (at, xact, subject, thread_id, run_id, old_status, new_status, token, epoch, strategy,
                                 assistant_id, error)
    VALUES (extract(epoch FROM clock_timestamp()), pg_current_xact_id(), 'run ' || lower(TG_OP), row.thread_id,
            row.run_id, CASE TG_OP WHEN 'INSERT' THEN NULL ELSE OLD.status END,
            CASE TG_OP WHEN 'DELETE' THEN NULL ELSE NEW.status END, row.metadata ->> 'token',
            (SELECT metadata ->> 'epoch' FROM threads WHERE threads.thread_id = row.thread_id),
            row.multitask_strategy, row.assistant_id::text, row.error ->> 'message');
    RETURN NULL;
END
$$;
CREATE TRIGGER zz_observed AFTER INSERT OR DELETE ON threads FOR EACH ROW EXECUTE FUNCTION observed.thread();
CREATE TRIGGER zz_observed AFTER INSERT OR UPDATE OR DELETE ON runs FOR EACH ROW EXECUTE FUNCTION observed.run();
"""


@dataclass(slots=True, kw_only=True)
class Epoch:
    """A thread from its creation to its deletion. Later a thread of the same id may be created."""

    thread_id: str
    name: str | None
    created: float
    """When its row was inserted, wall-clock seconds. Every earlier thread with this id was deleted by then."""
    created_seq: int
    ttl_s: float | None
    deleted: float | None = None
    deleted_seq: int | None = None
    deleted_in: int | None = None
    """The transaction."""
    assistant_id: str | None = None
    """That its metadata named when it was deleted."""
    ttl_strategy: str | None = None


@dataclass(slots=True, kw_only=True)
class ObservedRun:
    """A row of `runs`, from its insertion on."""

    run_id: str
    thread_id: str
    token: str | None
    strategy: str
    assistant_id: str
    inserted: float
    inserted_seq: int
    epoch: Epoch | None = None
    status: str = "pending"
    moves: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])
    """(seq, old status, new status)"""
    error: str | None = None
    """The message of its error."""
    finished: float | None = None
    finished_seq: int | None = None
    deleted: float | None = None
    deleted_seq: int | None = None
    deleted_in: int | None = None

    @property
    def went_with_its_thread(self) -> bool:
        """It was deleted by the transaction that deleted its thread."""
        return self.deleted_in is not None and self.epoch is not None and self.deleted_in == self.epoch.deleted_in

    @property
    def rolled_back(self) -> bool:
        """Its row alone was deleted."""
        return self.deleted is not None and not self.went_with_its_thread

    @property
    def taken_over(self) -> bool:
        return any(new == "pending" for _, _, new in self.moves)


@dataclass(slots=True)
class Observed:
    """Postgres's records so far."""

    database: str
    epochs: dict[str, list[Epoch]] = field(default_factory=dict[str, list[Epoch]])
    runs: dict[str, ObservedRun] = field(default_factory=dict[str, ObservedRun])
    of_token: dict[str, list[ObservedRun]] = field(default_factory=dict[str, list[ObservedRun]])
    fresh_moves: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """(run, old status, new status) since the last reading."""
    lines: dict[str, list[tuple[float, str]]] = field(default_factory=dict[str, list[tuple[float, str]]])
    """The records since the last read, for people: by thread, with their times."""
    _seq: int = 0

    async def install(self) -> None:
        """Create the table and the triggers."""
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as conn:
            await conn.execute(INSTALL)

    async def read(self) -> None:
        """Read the new records. Call it only while nothing goes on: rows commit out of order."""
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as conn:
            cursor = conn.cursor(row_factory=dict_row)
            await cursor.execute(
                """
                SELECT seq, at, xact::text::bigint AS xact, subject, thread_id::text, run_id::text, old_status,
                       new_status, token, epoch, strategy, assistant_id, ttl_s, error
                  FROM observed.events
                 WHERE seq > %(seq)s
                 ORDER BY seq
                """,
                {"seq": self._seq},
            )
            rows = await cursor.fetchall()
        self.fresh_moves, self.lines = [], {}
        for row in rows:
            # Read only while nothing goes on: a row with a smaller number may commit later, and would be skipped.
            self._seq = row["seq"]
            self.lines.setdefault(row["thread_id"], []).append((row["at"], _line(row)))
            (self._thread if row["run_id"] is None else self._run)(row)

    def current(self, thread_id: str) -> Epoch | None:
        """Return the present thread, or None."""
        epochs = self.epochs.get(thread_id)
        return epochs[-1] if epochs and epochs[-1].deleted is None else None

    def during(self, thread_id: str, since: float, until: float) -> Epoch | None:
        """Return the only thread with this id from `since` to `until`, or None if that is not certain."""
        for epoch in self.epochs.get(thread_id, []):
            if epoch.created < since and (epoch.deleted is None or epoch.deleted > until):
                return epoch
        return None

    def _thread(self, row: dict[str, Any]) -> None:
        epochs = self.epochs.setdefault(row["thread_id"], [])
        if row["subject"] == "thread insert":
            epochs.append(
                Epoch(
                    thread_id=row["thread_id"],
                    name=row["epoch"],
                    created=row["at"],
                    created_seq=row["seq"],
                    ttl_s=row["ttl_s"],
                    ttl_strategy=row["strategy"],
                )
            )
        elif epochs:
            gone = epochs[-1]
            gone.deleted, gone.deleted_seq, gone.deleted_in = row["at"], row["seq"], row["xact"]
            gone.assistant_id, gone.ttl_s, gone.ttl_strategy = row["assistant_id"], row["ttl_s"], row["strategy"]

    def _run(self, row: dict[str, Any]) -> None:
        run = self.runs.get(row["run_id"])
        if row["subject"] == "run insert":
            run = ObservedRun(
                run_id=row["run_id"],
                thread_id=row["thread_id"],
                token=row["token"],
                strategy=row["strategy"],
                assistant_id=row["assistant_id"],
                inserted=row["at"],
                inserted_seq=row["seq"],
                epoch=self.current(row["thread_id"]),
                status=row["new_status"],
            )
            self.runs[run.run_id] = run
            self.of_token.setdefault(run.token or "", []).append(run)
        elif run is not None and row["subject"] == "run update":
            self.fresh_moves.append((run.run_id, row["old_status"], row["new_status"]))
            run.moves.append((row["seq"], row["old_status"], row["new_status"]))
            run.status, run.error = row["new_status"], row["error"]
            if run.status in FINAL:
                run.finished, run.finished_seq = row["at"], row["seq"]
        elif run is not None:
            run.deleted, run.deleted_seq, run.deleted_in = row["at"], row["seq"], row["xact"]


def _line(row: dict[str, Any]) -> str:
    if row["run_id"] is None:
        return f"{row['subject']}, epoch {row['epoch']}, last run by assistant {(row['assistant_id'] or 'none')[-6:]}"
    moved = " -> ".join(status for status in (row["old_status"], row["new_status"]) if status)
    by = f" by assistant {row['assistant_id'][-6:]}" if row["subject"] == "run insert" else ""
    return f"{row['subject']} {row['token']} {row['run_id'][-6:]} {moved}{by}"
