"""The race model: `make faults ARGS=model` runs it for ten minutes."""

import json
from collections.abc import Sequence

import psycopg

from faults.model.scenario import Plan, scenario
from faults.servers import Place

TAMPERING = {
    "changes": """
        DELETE FROM checkpoints
         WHERE thread_id = %(changes)s
           AND checkpoint_id >= (SELECT checkpoint_id FROM checkpoints WHERE thread_id = %(changes)s
                                  ORDER BY checkpoint_id DESC OFFSET 3 LIMIT 1)
        """,
    "forks": """
        INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
        SELECT thread_id, checkpoint_ns, left(checkpoint_id, -6) || 'ffffff', parent_checkpoint_id, checkpoint, metadata
          FROM checkpoints
         WHERE thread_id = %(forks)s
         ORDER BY checkpoint_id
         LIMIT 1
        """,
    "status": "UPDATE threads SET status = 'busy' WHERE thread_id::text = %(status)s",
    "leftovers": "DELETE FROM threads WHERE thread_id::text = %(leftovers)s",
    "writes": """
        INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, blob)
        VALUES (%(writes)s, '1f1ea36d-bb76-6098-800f-1db5a15c19aa', 'task', 0, 'log', '')
        """,
    "transitions": """
        UPDATE runs SET status = 'error', error = '{}' WHERE thread_id::text = %(transitions)s AND status = 'success'
        """,
    "idempotency": """
        INSERT INTO runs (run_id, project_id, thread_id, assistant_id, graph_id, status, metadata, kwargs, finished_at)
        SELECT gen_random_uuid(), project_id, thread_id, assistant_id, graph_id, 'success', metadata, kwargs, now()
          FROM runs
         WHERE thread_id::text = %(idempotency)s
         LIMIT 1
        """,
}
"""By invariant: what breaks it on one thread."""


async def _tamper(place: Place, threads: Sequence[str]) -> None:
    """Break each invariant on a thread of its own."""
    names = dict(zip([*TAMPERING, "running"], threads, strict=True))
    async with await psycopg.AsyncConnection.connect(place.database, autocommit=True) as conn:
        for statement in TAMPERING.values():
            done = await conn.execute(statement.encode(), names)
            assert done.rowcount > 0
        cursor = await conn.execute("SELECT run_id::text FROM runs WHERE thread_id::text = %(running)s LIMIT 2", names)
        runs = [run_id for (run_id,) in await cursor.fetchall()]
    with place.journal.open("a") as journal:
        for at, run_id in enumerate(runs, start=10**9):
            line = {"pid": 1, "node": "work", "thread_id": names["running"], "run_id": run_id, "phase": "begin"}
            journal.write(json.dumps({**line, "at": at}) + "\n")


async def test_model_finds_what_is_broken_by_hand(place: Place) -> None:
    """Ours: a checkpoint, a status, a run or a write that is not as the answers promised is reported by its name."""
    kinds = frozenset({"wait", "background", "update"})
    plan = Plan(minutes=0.05, seed=1, threads=8, clients=8, kinds=kinds, kills=False, tamper=_tamper)

    found = await scenario(place, plan)

    assert set(found.figures["violations"]) >= {*TAMPERING, "running"}


async def test_every_acknowledged_change_is_there_once_whatever_races(place: Place) -> None:
    """Ours: runs, updates, forks, cancels, copies, deletions and kills at once leave what their answers promised."""
    found = await scenario(place, Plan(minutes=0.6, stop_at_first=True))

    assert found.broken == [], "\n".join(found.broken)
