"""Aegra: takes over the database of an Aegra server. Its checkpoints and items are in the tables of LangGraph."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, LiteralString

from threadkeep.commands.adopt import postgres_source, saver, store_items
from threadkeep.commands.adopt.assistants import SourceAssistant, adopt_assistant
from threadkeep.commands.adopt.postgres_source import PAGE, SourceConn
from threadkeep.commands.adopt.schedules import SourceCron, adopt_cron
from threadkeep.commands.adopt.store_items import Place
from threadkeep.commands.adopt.target import SourceThread, Target, adopt_thread
from threadkeep.progress import Step

SOURCE: Final = "aegra"
"""The kind in the metadata of adopted rows."""
SCOPE: Final = "users."
"""The beginning of the namespaces that Aegra's API gives each user."""
ANONYMOUS: Final = "anonymous"
"""The user of an Aegra server without authentication."""
READ_ASSISTANTS: Final[LiteralString] = """
    SELECT assistant_id AS id, graph_id, name, description, user_id, coalesce(config, '{}') AS config,
           coalesce(context, '{}') AS context, coalesce(metadata, '{}') AS metadata
      FROM assistant
     WHERE assistant_id > %(after)s
     ORDER BY assistant_id
     LIMIT %(limit)s
"""
READ_THREADS: Final[LiteralString] = """
    SELECT thread_id AS id, status, coalesce(metadata_json, '{}') AS metadata, user_id, created_at, updated_at
      FROM thread
     WHERE thread_id > %(after)s
     ORDER BY thread_id
     LIMIT %(limit)s
"""
READ_CRONS: Final[LiteralString] = """
    SELECT cron_id AS id, assistant_id, thread_id, schedule, on_run_completed, enabled, end_time, user_id,
           coalesce(payload, '{}') AS payload, coalesce(metadata, '{}') AS metadata
      FROM crons
     WHERE cron_id > %(after)s
     ORDER BY cron_id
     LIMIT %(limit)s
"""


async def is_aegra(source: SourceConn) -> bool:
    """Whether the database is Aegra's."""
    return "metadata_json" in await postgres_source.columns(source, "thread")


async def adopt(target: Target, source: SourceConn, step: Step) -> None:
    """Take over assistants, threads, store items and crons, in this order."""
    await postgres_source.check_saver_tables(source)
    everything = not target.options.only
    if everything:
        async for row in _rows(source, READ_ASSISTANTS):
            await adopt_assistant(target, _assistant(row))
    await _adopt_threads(target, source, step)
    if target.report.is_cut or not everything:
        return
    users = await _users(source)
    await store_items.adopt_table(target, source, step, place=lambda prefix: _place(prefix, users, target))
    # This server's own table has the same name, and may be in the same database. It has no such column.
    if "claimed_until" in await postgres_source.columns(source, "crons"):
        async for row in _rows(source, READ_CRONS):
            await adopt_cron(target, _cron(row))


async def _rows(source: SourceConn, query: LiteralString) -> AsyncGenerator[Mapping[str, Any]]:
    """The rows of a query, in pages in the order of their ids."""
    after = ""  # ids are texts, and every text is greater
    while True:
        cursor = await source.execute(query, {"after": after, "limit": PAGE})
        page = await cursor.fetchall()
        for row in page:
            yield row
        if len(page) < PAGE:
            return
        after = page[-1]["id"]


async def _users(source: SourceConn) -> Sequence[str]:
    """All users, the longest first. A user's name may begin with another's."""
    cursor = await source.execute("SELECT user_id FROM thread UNION SELECT user_id FROM assistant")
    return sorted((row["user_id"] for row in await cursor.fetchall()), key=len, reverse=True)


async def _adopt_threads(target: Target, source: SourceConn, step: Step) -> None:
    cursor = await source.execute("SELECT count(*) AS threads FROM thread")
    count = await cursor.fetchone()
    step.total = count["threads"] if count else None
    async for row in _rows(source, READ_THREADS):
        if not target.options.selects(row["id"]):
            continue
        if target.report.taken["threads"] == target.options.limit:
            target.report.is_cut = True
            return
        await _adopt_thread(target, source, row)
        step(1, row["id"])


async def _adopt_thread(target: Target, source: SourceConn, row: Mapping[str, Any]) -> None:
    if row["status"] == "busy":
        target.report.skip("threads", row["id"], "a run is in progress at the source: call again when it has ended")
        return
    # One snapshot for the row's newest checkpoint and its copy.
    async with source.transaction():
        newest = await postgres_source.head(source, row["id"], target.options.owner_key or saver.NO_KEY)
        thread = _thread(row, newest or {})
        await adopt_thread(target, thread, saver.copier(target, source, thread))


def _thread(row: Mapping[str, Any], newest: Mapping[str, Any]) -> SourceThread:
    """A thread, with its newest checkpoint if it has one."""
    return SourceThread(
        original_id=row["id"],
        source=SOURCE,
        newest_checkpoint_id=newest.get("newest_checkpoint_id"),
        checkpoints=newest.get("checkpoints", 0),
        graph_id=row["metadata"].get("graph_id") or newest.get("graph_id"),
        seen_nodes=frozenset(newest.get("seen_nodes", ())) - saver.NOT_NODES,
        owner=row["user_id"],
        metadata=row["metadata"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _assistant(row: Mapping[str, Any]) -> SourceAssistant:
    return SourceAssistant(
        original_id=row["id"],
        source=SOURCE,
        graph_id=row["graph_id"],
        name=row["name"],
        description=row["description"],
        config=row["config"],
        context=row["context"],
        metadata=row["metadata"],
        owner=row["user_id"],
    )


def _cron(row: Mapping[str, Any]) -> SourceCron:
    return SourceCron(
        original_id=row["id"],
        source=SOURCE,
        assistant_id=row["assistant_id"],
        thread_id=row["thread_id"],
        schedule=row["schedule"],
        timezone=row["payload"].get("timezone"),
        payload=row["payload"],
        metadata=row["metadata"],
        on_run_completed=row["on_run_completed"],
        end_time=row["end_time"],
        enabled=row["enabled"],
        owner=row["user_id"],
    )


def _place(prefix: str, users: Sequence[str], target: Target) -> Place:
    """The owner and the namespace of an item.

    Aegra's API puts `users` and the user before each namespace. If owners have a store prefix here, it takes the place of
    both. Without owners, only the items of a server without authentication lose them, because clients no longer name them.
    """
    for user in users:
        scope = f"{SCOPE}{user}."
        if prefix.startswith(scope) and (target.store_prefix(user) or user == ANONYMOUS):
            return Place(owner=user, prefix=prefix.removeprefix(scope))
    return Place(owner=None, prefix=prefix)
