"""Saver: takes over the threads of an application that uses LangGraph's AsyncPostgresSaver or PostgresSaver itself."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from threadkeep.commands.adopt import checkpoint_tables, postgres_source, store_items
from threadkeep.commands.adopt.ids import thread_id_of
from threadkeep.commands.adopt.postgres_source import SourceConn
from threadkeep.commands.adopt.target import SourceThread, Target, adopt_thread
from threadkeep.postgres.pool import Conn
from threadkeep.progress import Step

SOURCE: Final = "langgraph-postgres"
"""The kind in the metadata of adopted threads."""
NOT_NODES: Final = frozenset({"__input__", "__interrupt__"})
"""Keys among the nodes that have run, which are none."""
NO_KEY: Final = "owner"
"""The key of the owner without `--owner-key`. A server with owners writes it."""


async def adopt(target: Target, source: SourceConn, step: Step) -> None:
    """Take over all threads and store items."""
    await postgres_source.check_saver_tables(source)
    async with target.pool.connection() as conn:
        same = await postgres_source.is_same_table(source, conn)
    step.total = await postgres_source.count_threads(source)
    await _adopt_threads(target, source, step, same=same)
    # Items belong to no thread, so a selection of threads selects none of them.
    if not target.report.is_cut and not target.options.only:
        await store_items.adopt_table(target, source, step, same=same)


async def _adopt_threads(target: Target, source: SourceConn, step: Step, *, same: bool) -> None:
    async for page in postgres_source.thread_ids(source):
        for thread_id in filter(target.options.selects, page):
            if target.report.taken["threads"] == target.options.limit:
                target.report.is_cut = True
                return
            await adopt_one(target, source, thread_id, same=same)
            step(1, thread_id)


async def adopt_one(target: Target, source: SourceConn, thread_id: str, *, same: bool) -> None:
    """Take over one thread, as it is at one moment."""
    async with source.transaction():
        row = await postgres_source.head(source, thread_id, target.options.owner_key or NO_KEY)
        if row is None:
            target.report.skip("threads", thread_id, "it has only checkpoints of subgraphs")
            return
        thread = _thread(thread_id, row, in_place=same and str(thread_id_of(thread_id)) == thread_id)
        await adopt_thread(target, thread, copier(target, source, thread))


def _thread(thread_id: str, row: Mapping[str, Any], *, in_place: bool) -> SourceThread:
    return SourceThread(
        original_id=thread_id,
        source=SOURCE,
        newest_checkpoint_id=row["newest_checkpoint_id"],
        checkpoints=row["checkpoints"],
        graph_id=row["graph_id"],
        seen_nodes=frozenset(row["seen_nodes"]) - NOT_NODES,
        owner=row["owner"],
        created_at=time_of(row["created_at"]),
        updated_at=time_of(row["updated_at"]),
        in_place=in_place,
    )


def time_of(text: str | None) -> datetime | None:
    """The time in a checkpoint, in UTC if it has no offset. None if it has none that can be read."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def copier(target: Target, source: SourceConn, thread: SourceThread) -> Any:
    """The function that copies the checkpoints of a thread."""
    serde = target.checkpoints.serde
    encrypts = serde if isinstance(serde, EncryptedSerializer) else None

    async def copy(conn: Conn, thread_id: UUID) -> int:
        if not thread.in_place:  # otherwise the rows are there already, and only the thread is new
            await checkpoint_tables.copy_rows(source, conn, thread.original_id, thread_id, encrypts)
        return thread.checkpoints

    return copy
