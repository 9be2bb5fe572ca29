"""Target: writes what a source names into this server's database, beside running servers.

A thread is one transaction: its row, its checkpoints, and the values of the newest one. It exists as a whole or not at all.
A thread of this server is never overwritten, unless an earlier call made it and nothing has changed it since.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import psycopg

from threadkeep.app import strict_serializer
from threadkeep.auth import loading
from threadkeep.auth.ownership import BUILT_IN, OWNER, store_prefix_of_run
from threadkeep.base.problems import Problem
from threadkeep.commands.adopt.graph_choice import GraphChoice, NoGraph
from threadkeep.commands.adopt.ids import thread_id_of
from threadkeep.commands.adopt.options import AdoptOptions
from threadkeep.commands.adopt.report import Report
from threadkeep.duties.store_items import store_index_config, store_opener
from threadkeep.graphs import LoadedGraph, is_local
from threadkeep.persistence import encryption, group_commit
from threadkeep.persistence.checkpointer import Checkpointer
from threadkeep.persistence.encoding import NotKept
from threadkeep.persistence.state_limits import StateTooLarge
from threadkeep.persistence.store import Store, StoreLimits
from threadkeep.postgres import migrate as migrations
from threadkeep.postgres import pool, session
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.preparing import Prepared, patient
from threadkeep.runs import snapshots
from threadkeep.settings import Settings
from threadkeep.tables import adopted_threads, assistants, threads
from threadkeep.tables.adopted_threads import IDLE_MS, AdoptedThread, ThreadHere
from threadkeep.threads import gate, history

log = logging.getLogger(__name__)

Write: TypeAlias = Callable[[Conn, UUID], Awaitable[int]]
"""Writes the checkpoints of a thread into the caller's transaction, and returns their number."""
LEFT_OUT: Final = (NoGraph, Problem, StateTooLarge, NotKept, psycopg.DatabaseError)
"""Reasons to leave out one row and go on, unless a connection is lost (`lost`)."""


class LeftOut(NoGraph):
    """A row that is not taken over. Its text is the reason in the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceThread:
    """A thread at the source."""

    original_id: str
    source: str
    """The kind of the source."""
    newest_checkpoint_id: str | None
    """None: it has no state."""
    checkpoints: int
    graph_id: str | None = None
    """The graph that the source names. None: it names none."""
    seen_nodes: frozenset[str] = frozenset()
    """The nodes that have run."""
    owner: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    created_at: datetime | None = None
    updated_at: datetime | None = None
    in_place: bool = False
    """Its checkpoints already are in the tables of this server, with the id that it keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """This server's database, and the rules by which rows are written to it."""

    settings: Settings
    pool: Pool
    graphs: Mapping[str, LoadedGraph]
    choice: GraphChoice
    checkpoints: Checkpointer
    store: Store
    auth_type: str
    options: AdoptOptions
    report: Report
    is_empty: bool
    """The database has no tables yet. Only a dry run does not create them."""

    def owner_of(self, source_owner: str | None) -> str | None:
        """The owner of a row. LeftOut if callers could not see it without one."""
        names = (self.options.owner, source_owner)
        # With `--owner-key` the source names the owner, and `--owner` is for threads without the key.
        owner = next(filter(None, reversed(names) if self.options.owner_key else names), None)
        if owner is None and self.auth_type in BUILT_IN:
            raise LeftOut(f"it has no owner, and with AUTH_TYPE={self.auth_type} no caller could see it: use --owner")
        return owner

    def store_prefix(self, owner: str | None) -> str | None:
        """The store prefix of an owner's items. None: the whole store."""
        return store_prefix_of_run(self.auth_type, {OWNER: owner})

    async def find(self, thread_id: UUID) -> ThreadHere | None:
        """The thread that exists here with this id."""
        if self.is_empty:
            return None
        async with self.pool.connection() as conn:
            return await adopted_threads.find(conn, thread_id)


@asynccontextmanager
async def open_target(
    prepared: Prepared, uri: str, graphs: Mapping[str, LoadedGraph], options: AdoptOptions, report: Report
) -> AsyncGenerator[Target]:
    """Migrate the database, unless it is a dry run, and open it for the length of the block."""
    settings, project = prepared.settings, prepared.project
    if not options.dry_run:
        await migrations.migrate(patient(settings.database_direct_uri or uri), index=store_index_config(project))
    pooler, serializer = await session.detect_pooler(uri), strict_serializer(project)
    limits = StoreLimits(item_bytes=settings.max_channel_bytes)
    async with (
        pool.open_api_pool(settings, uri, pooler) as api_pool,
        pool.open_runs_pool(settings, uri, pooler) as runs_pool,
        group_commit.open_group_commit(runs_pool) as commits,
    ):
        serde = encryption.encrypted_serializer(serializer, settings.aes_keys)
        target = Target(
            settings=settings,
            pool=api_pool,
            graphs=graphs,
            choice=await GraphChoice.of(graphs, options.graph),
            checkpoints=Checkpointer(runs_pool, commits, serde, channel_bytes=settings.max_channel_bytes),
            store=store_opener(project, limits, serializer)(runs_pool),
            auth_type=loading.auth_type_of(settings, project),
            options=options,
            report=report,
            is_empty=await _is_empty(api_pool),
        )
        await _bind(target)
        yield target


async def _is_empty(target_pool: Pool) -> bool:
    async with target_pool.connection() as conn:
        row = await (await conn.execute("SELECT to_regclass('threads') IS NULL")).fetchone()
    return row is None or row[0]


async def _bind(target: Target) -> None:
    """Give the graphs this database, and create their own assistants."""
    for graph in target.graphs.values():
        graph.bind(checkpointer=target.checkpoints, store=target.store)
    if target.options.dry_run:
        return
    async with target.pool.connection() as conn:
        descriptions = {name: graph.description for name, graph in target.graphs.items()}
        await assistants.ensure_system_assistants(conn, descriptions)


async def adopt_thread(target: Target, thread: SourceThread, write: Write) -> bool:
    """Take over a thread, and report the result. False if nothing was to do or it was left out."""
    report = target.report
    try:
        row = _row(target, thread)
        step = _decide(target, await target.find(row.thread_id), thread, row)
        if step == "here":
            report.here["threads"] += 1
            return False
        count = thread.checkpoints if target.options.dry_run else await _write(target, thread, row, write, step)
    except LEFT_OUT as reason:
        if lost(reason):
            raise
        report.skip("threads", thread.original_id, words(reason))
        return False
    report.taken["threads"] += 1
    report.taken["checkpoints"] += count
    return True


def _row(target: Target, thread: SourceThread) -> AdoptedThread:
    """The row of the thread. LeftOut if its graph or its owner is not known."""
    owner = target.owner_of(thread.owner)
    marks: dict[str, object] = {
        adopted_threads.SOURCE_KEY: thread.source,
        adopted_threads.ORIGINAL_KEY: thread.original_id,
        adopted_threads.CHECKPOINT_KEY: thread.newest_checkpoint_id,
    }
    if thread.newest_checkpoint_id is not None or thread.graph_id is not None:
        graph_id = target.choice.choose(thread.graph_id, thread.seen_nodes)
        marks |= {"graph_id": graph_id, "assistant_id": _assistant_id(thread, graph_id)}
    if owner is not None:
        marks[OWNER] = owner
    return AdoptedThread(
        thread_id=thread_id_of(thread.original_id),
        project_id=target.settings.project_id,
        metadata={**thread.metadata, **marks},
        created_at=thread.created_at,
        updated_at=thread.updated_at,
    )


def _assistant_id(thread: SourceThread, graph_id: str) -> str:
    named = thread.metadata.get("assistant_id")
    if isinstance(named, str) and thread.metadata.get("graph_id") == graph_id:
        return named
    return str(assistants.system_id(graph_id))


Step: TypeAlias = Literal["create", "replace", "here"]


def _decide(target: Target, here: ThreadHere | None, thread: SourceThread, row: AdoptedThread) -> Step:
    """The way to take over a thread. LeftOut if it would overwrite something, or show it to another owner."""
    if here is None:
        return "create"
    if here.project_id != row.project_id:
        raise LeftOut("a thread with this id belongs to another project")
    if thread.in_place:
        return "here"
    if here.adopted_from != thread.source:
        raise LeftOut("a thread with this id exists here, and does not come from this source")
    if here.adopted_checkpoint_id == thread.newest_checkpoint_id:
        return "here"
    if here.adopted_checkpoint_id != here.newest_checkpoint_id:
        raise LeftOut("it has changed here and at the source since it was taken over: it stays as it is here")
    if not _is_of_owner(target, here, row):
        raise LeftOut("a thread with this id belongs to another owner here")
    return "replace"


def _is_of_owner(target: Target, here: ThreadHere, row: AdoptedThread) -> bool:
    """Whether the thread here belongs to the owner at the source.

    Clients write metadata, so they may create a thread that looks adopted. Only the built-in methods of authentication make
    sure that a client's thread has an owner.
    """
    owner = row.metadata.get(OWNER)
    if target.auth_type == "custom" and owner is not None:
        return here.owner == owner
    return here.owner in (None, owner)


async def _write(target: Target, thread: SourceThread, row: AdoptedThread, write: Write, step: Step) -> int:
    """Write the thread in one transaction. Returns the number of its checkpoints. LeftOut if it exists by now."""
    async with target.pool.connection() as conn, conn.transaction():
        await adopted_threads.allow_long_copy(conn)
        if step == "create":
            await _create(conn, thread, row)
        else:
            await _clear(target, conn, thread, row)
        count = await write(conn, row.thread_id)
        if thread.newest_checkpoint_id is not None and (reason := await _settle(target, conn, row)):
            target.report.note("threads", thread.original_id, reason)
        await adopted_threads.set_times(conn, row)
    return count


async def _create(conn: Conn, thread: SourceThread, row: AdoptedThread) -> None:
    if not thread.in_place and await adopted_threads.has_checkpoints(conn, row.thread_id):
        raise LeftOut("checkpoints with this id exist here without a thread: adopt from this database first")
    if not await adopted_threads.create(conn, row):
        raise LeftOut("a thread with this id was just created here")


async def _clear(target: Target, conn: Conn, thread: SourceThread, row: AdoptedThread) -> None:
    """Lock the thread and delete its checkpoints. LeftOut if a run has used it."""
    is_there = await threads.lock(conn, UNRESTRICTED, row.thread_id, within_s=IDLE_MS / 1000)
    here = await adopted_threads.find(conn, row.thread_id)
    if not is_there or here is None or _decide(target, here, thread, row) != "replace":
        raise LeftOut("it was just changed here")
    if await adopted_threads.has_runs(conn, row.thread_id):
        raise LeftOut("it has been used here and at the source since it was taken over: it stays as it is here")
    await adopted_threads.forget_checkpoints(conn, row)


async def _settle(target: Target, conn: Conn, row: AdoptedThread) -> str | None:
    """Set the values, the status and the interrupts of the thread's row. Returns the reason if they can't be read."""
    loaded, config = target.graphs[row.metadata["graph_id"]], history.checkpoint_config(row.thread_id)
    try:
        async with loaded.open(config, durable=True, access="threads.read") as graph:
            if not is_local(graph):
                return "its graph runs on another server, so its values are not read"
            # Only this transaction sees the new checkpoints.
            snapshot = await snapshots.snapshot_of(gate.in_transaction(graph, conn), config)
            summary = snapshots.thread_summary(snapshot)
    # The transaction has failed, so the thread can't be written even without its values.
    except psycopg.Error:
        raise
    except Exception as failure:  # noqa: BLE001 - a row may hold anything, and a factory is its author's code
        log.info("the values of a thread can't be read", extra={"error_type": type(failure).__name__})
        return f"its newest checkpoint can't be read, so it has no values yet ({type(failure).__name__})"
    await threads.update_summary(conn, row.thread_id, summary)
    return None


def lost(reason: Exception) -> bool:
    """Whether a database could not be used any more, so that the call ends."""
    return isinstance(reason, psycopg.OperationalError)


def words(reason: Exception) -> str:
    """The reason in the report."""
    if isinstance(reason, psycopg.Error):
        return reason.diag.message_primary or type(reason).__name__
    return reason.detail if isinstance(reason, Problem) else str(reason)
