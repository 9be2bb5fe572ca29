"""Filters: the conditions in Postgres by which a row belongs to a caller."""

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from threadkeep.postgres.pool import open_api_pool
from threadkeep.postgres.tenancy import Filters
from threadkeep.settings import Settings
from threadkeep.tables import threads
from threadkeep.tables.threads import NewThread

OWN = {"owner": "ada"}
SHARED = {"members": ["ada"]}


@pytest.mark.parametrize(
    ("match", "given", "stamped"),
    [
        (OWN, {}, OWN),
        (OWN, {"owner": "bob", "x": 1}, OWN | {"x": 1}),
        (OWN, {"owner": ["ada"]}, OWN),
        (OWN, {"owner": {"ada": 1}}, OWN),
        (SHARED, {}, SHARED),
        (SHARED, {"members": ["bob", "ada"]}, {"members": ["bob", "ada"]}),
        (SHARED, {"members": ["bob"]}, SHARED),
        (SHARED, {"members": "ada"}, SHARED),
        ({"level": 1}, {"level": True}, {"level": 1}),
        ({"level": True}, {"level": 1}, {"level": True}),
        ({"level": 1}, {"level": 1.0}, {"level": 1}),
        ({"team": {"id": 1}}, {"team": {"id": 1, "name": "x"}}, {"team": {"id": 1, "name": "x"}}),
        ({"owner": None}, {}, {"owner": None}),
        ({}, {"owner": "bob"}, {"owner": "bob"}),
    ],
    ids=str,
)
async def test_what_is_written_is_what_the_caller_may_see(
    database: str, match: dict[str, Any], given: dict[str, Any], stamped: dict[str, Any]
) -> None:
    """Ours: a caller can't create a row that they can't find again, nor give it to another owner."""
    assert Filters(match).with_owner(given) == stamped
    async with await psycopg.AsyncConnection.connect(database) as conn:
        cursor = await conn.execute("SELECT %s @> %s", [Jsonb(stamped), Jsonb(match)])
        assert await cursor.fetchone() == (True,)


@pytest.mark.parametrize(
    ("match", "change", "left"),
    [
        (OWN, {"owner": "bob", "x": 1}, {"x": 1}),
        (OWN, {"owner": ["ada", "bob"]}, {}),
        (SHARED, {"members": ["ada", "carl"], "x": 1}, {"members": ["ada", "carl"], "x": 1}),
        (SHARED, {"members": ["carl"], "x": 1}, {"x": 1}),
        ({}, {"owner": "bob"}, {"owner": "bob"}),
    ],
    ids=str,
)
async def test_a_change_does_not_make_a_row_somebody_elses(
    settings: Settings, database: str, match: dict[str, Any], change: dict[str, Any], left: dict[str, Any]
) -> None:
    """Ours: those keys keep their values then, and the rest is changed; a list may be changed by those it names."""
    before = {"owner": "ada", "members": ["ada", "bob"]}
    filters = Filters(match)
    async with open_api_pool(settings, database) as pool, pool.connection() as conn:
        made = await threads.create(conn, NewThread(thread_id=uuid4(), metadata=before))
        assert made is not None
        changed = await threads.update(
            conn, filters, made.thread_id, threads.Change(metadata=change, metadata_bytes=65_536)
        )

    assert changed is not None
    assert changed.metadata.load() == before | left
    assert filters.merge_metadata(before, change) == before | left
