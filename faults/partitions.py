"""Partitions: which tables can be spread by `thread_id` as they are, and a server on those that can."""

import random

import anyio
import psycopg

from faults.findings import Findings
from faults.servers import Place, Quick, replicas
from faults.traffic import Ledger, Talker, audit, settled

BY_THREAD = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
"""Those whose every unique index holds the thread already."""
NOT_YET = ("runs", "run_events")
PARTS = 4


async def scenario(place: Place, *, seconds: float = 2) -> Findings:
    """Spread the checkpoints' tables over hash partitions, serve from them, and say why the others can't be."""
    findings = Findings(f"the tables spread by thread_id over {PARTS} hash partitions")
    async with await psycopg.AsyncConnection.connect(place.database, autocommit=True) as conn:
        for table in BY_THREAD:
            await _spread(conn, table)
        for table in NOT_YET:
            findings.figures[f"{table} as it is"] = await _refusal(conn, table)
    ledger, until = Ledger(), anyio.Event()
    async with replicas(place, 1, Quick().settings) as fleet:
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                talker = Talker(lambda: [fleet[0].url], ledger, pause_s=0.02, chosen=random.Random(number))
                tasks.start_soon(talker.talk, until)
            await anyio.sleep(seconds)
            await ledger.first_answer()
            until.set()
        findings.expect(await settled(place.database, 20), "a run does not end")
        await audit(place.database, fleet[0].url, ledger, findings)
    used = await _rows(place.database)
    findings.figures["rows a partition"] = used
    findings.expect(sum(map(bool, used)) > 1, f"rows are in one partition alone: {used}")
    findings.expect(set(ledger.answered) == {"200"}, f"requests that failed: {dict(ledger.answered)}")
    return findings


async def _spread(conn: psycopg.AsyncConnection, table: str) -> None:
    """Put a partitioned table with the same columns, keys, indexes and policies in the place of an empty one."""
    await conn.execute(f"ALTER TABLE {table} RENAME TO {table}_whole".encode())
    await conn.execute(
        # Postgres can't make an existing table a partitioned one.
        f"CREATE TABLE {table} (LIKE {table}_whole INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)"
        " PARTITION BY HASH (thread_id)".encode()
    )
    for part in range(PARTS):
        await conn.execute(
            f"CREATE TABLE {table}_{part} PARTITION OF {table}"
            f" FOR VALUES WITH (MODULUS {PARTS}, REMAINDER {part})".encode()
        )
    await conn.execute(f"DROP TABLE {table}_whole".encode())


async def _refusal(conn: psycopg.AsyncConnection, table: str) -> str:
    """Postgres's error for a table that is not a partitioned one."""
    try:
        await conn.execute(
            f"CREATE TABLE {table}_spread (LIKE {table} INCLUDING ALL) PARTITION BY HASH (thread_id)".encode()
        )
    except psycopg.Error as refused:
        return refused.diag.message_primary or type(refused).__name__
    return "it can be spread"


async def _rows(database: str) -> list[int]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        rows = [
            await (await conn.execute(f"SELECT count(*) FROM checkpoints_{part}".encode())).fetchone()
            for part in range(PARTS)
        ]
    return [row[0] if row else 0 for row in rows]
