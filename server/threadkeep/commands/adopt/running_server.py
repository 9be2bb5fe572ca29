"""Running server: takes over a server of the LangGraph API, by the API: LangGraph's own, or another Threadkeep."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

import httpx
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from threadkeep.auth.ownership import OWNER
from threadkeep.base import json
from threadkeep.base.problems import StartupError
from threadkeep.commands.adopt import saver, store_items
from threadkeep.commands.adopt.assistants import SourceAssistant, adopt_assistant
from threadkeep.commands.adopt.report import Kind
from threadkeep.commands.adopt.schedules import SourceCron, adopt_cron
from threadkeep.commands.adopt.snapshots import SnapshotWriter, same_next
from threadkeep.commands.adopt.store_items import SourceItem
from threadkeep.commands.adopt.target import LeftOut, SourceThread, Target, adopt_thread
from threadkeep.postgres.pool import Conn
from threadkeep.progress import Step
from threadkeep.threads import gate, history

SOURCE: Final = "langgraph-server"
"""The kind in the metadata of adopted rows."""
PAGE: Final = 100
STATES: Final = 10
"""States of a history that are in memory at once."""
TIMEOUT_S: Final = 60.0
CONNECT_S: Final = 10.0
THREAD_FIELDS: Final = ("thread_id", "metadata", "status", "created_at", "updated_at")

Row: TypeAlias = Mapping[str, Any]
Part: TypeAlias = tuple[Kind, Callable[[Target, LangGraphClient], Awaitable[None]]]
"""A kind of rows, and the function that takes over all of them."""
Search: TypeAlias = Callable[[int], Awaitable[Any]]
"""Returns the page that begins at an offset."""


@asynccontextmanager
async def open_server(target: Target) -> AsyncGenerator[LangGraphClient]:
    """Open a client of the server. StartupError in one line if it can't be reached, or is lost later."""
    options = target.options
    try:
        httpx.URL(options.source)
    except httpx.InvalidURL as error:  # not an httpx.HTTPError
        raise StartupError(f"--from: this is not a URL: {error}") from None
    client = get_client(
        url=options.source, api_key=options.api_key, headers=dict(options.headers or {}), timeout=TIMEOUT_S
    )
    async with client:
        try:
            await _connect(options.source)
            yield client
        except httpx.HTTPStatusError as refused:
            raise StartupError(f"--from: the server answered {_answer(refused)}") from None
        except httpx.HTTPError as lost:
            raise StartupError(f"--from: the server can't be reached: {type(lost).__name__}") from None


async def _connect(url: str) -> None:
    """Raise httpx.HTTPError if nothing answers. The client itself would try again for seconds."""
    async with httpx.AsyncClient(timeout=CONNECT_S) as http:
        await http.get(f"{url.rstrip('/')}/ok")


async def adopt(target: Target, client: LangGraphClient, step: Step) -> None:
    """Take over assistants, threads, store items and crons, in this order."""
    everything = not target.options.only
    if everything:
        async for row in _rows(lambda offset: client.assistants.search(limit=PAGE, offset=offset)):
            await adopt_assistant(target, _assistant(row))
    step.total = await _count(client)
    await _adopt_threads(target, client, step)
    if target.report.is_cut or not everything:
        return
    parts: Sequence[Part] = (("store items", _adopt_items), ("crons", _adopt_crons))
    for kind, work in parts:
        try:
            await work(target, client)
        except httpx.HTTPStatusError as refused:  # a server may have neither
            target.report.skip(kind, "all", f"the source answered {_answer(refused)}")


async def _rows(search: Search) -> AsyncGenerator[Row]:
    """The rows of all pages."""
    offset = 0
    while page := await search(offset):
        for row in page:
            yield row
        offset += len(page)


async def _count(client: LangGraphClient) -> int | None:
    """The number of threads. None if the server does not count them."""
    try:
        return await client.threads.count()
    except httpx.HTTPStatusError:
        return None


async def _adopt_threads(target: Target, client: LangGraphClient, step: Step) -> None:
    def search(offset: int) -> Awaitable[Any]:
        select = cast("Any", list(THREAD_FIELDS))
        # The oldest first: a thread that is created meanwhile comes at the end and shifts no page.
        return client.threads.search(limit=PAGE, offset=offset, sort_by="created_at", sort_order="asc", select=select)

    async for row in _rows(search):
        thread_id = str(row["thread_id"])
        if not target.options.selects(thread_id):
            continue
        if target.report.taken["threads"] == target.options.limit:
            target.report.is_cut = True
            return
        await _adopt_thread(target, client, row)
        step(1, thread_id)


async def _adopt_thread(target: Target, client: LangGraphClient, row: Row) -> None:
    thread_id = str(row["thread_id"])
    if row["status"] == "busy":
        target.report.skip("threads", thread_id, "a run is in progress at the source: call again when it has ended")
        return
    try:
        newest = next(iter(await client.threads.get_history(thread_id, limit=1)), None)
        thread = _thread(row, newest)
        await adopt_thread(target, thread, _writer(target, client, thread, newest))
    except httpx.HTTPStatusError as refused:
        target.report.skip("threads", thread_id, f"the source answered {_answer(refused)}")


def _thread(row: Row, newest: Any) -> SourceThread:
    metadata: Mapping[str, Any] = row["metadata"] or {}
    owner = metadata.get(OWNER)
    return SourceThread(
        original_id=str(row["thread_id"]),
        source=SOURCE,
        newest_checkpoint_id=newest and newest["checkpoint"]["checkpoint_id"],
        checkpoints=0 if newest is None else 1,
        graph_id=metadata.get("graph_id"),
        owner=owner if isinstance(owner, str) else None,
        metadata=metadata,
        created_at=time_of(row["created_at"]),
        updated_at=time_of(row["updated_at"]),
    )


def _writer(target: Target, client: LangGraphClient, thread: SourceThread, newest: Any) -> Any:
    """The function that writes the history of a thread."""

    async def write(conn: Conn, thread_id: UUID) -> int:
        if newest is None:
            return 0
        loaded = target.graphs[target.choice.choose(thread.graph_id, thread.seen_nodes)]
        config = history.checkpoint_config(thread_id)
        async with loaded.open(config, durable=True, access="threads.update") as opened:
            graph = gate.in_transaction(opened, conn)
            # `in_transaction` returns a graph that it can't bind as it is.
            if graph is opened:
                raise LeftOut("its graph runs on another server")
            writer = SnapshotWriter(graph=graph, thread_id=str(thread_id))
            count = 0
            async for snapshot in _history(client, thread, newest):
                await writer.write(snapshot)
                count += 1
            # The same nodes must be next as at the source, or a run would continue elsewhere.
            actual = (await graph.aget_state(config)).next
        if not same_next(newest["next"], actual):
            target.report.note("threads", thread.original_id, LOST_NEXT)
        return count

    return write


LOST_NEXT: Final = "its next tasks were made by Send or by a join, which the API does not tell"


async def _history(client: LangGraphClient, thread: SourceThread, newest: Any) -> AsyncGenerator[Row]:
    """The states up to the newest one that was read first. This one comes with the states of its subgraphs."""
    if newest["tasks"]:
        # A history has no states of subgraphs.
        newest = await client.threads.get_state(
            thread.original_id, checkpoint_id=newest["checkpoint"]["checkpoint_id"], subgraphs=True
        )
    yield newest
    before: Any = _before(newest)
    while page := await client.threads.get_history(thread.original_id, limit=STATES, before=before):
        for snapshot in page:
            yield cast("Row", snapshot)
        before = _before(page[-1])


def _before(snapshot: Any) -> dict[str, object]:
    """The position in a history after a state. LangGraph's own server takes only a config here."""
    return {"configurable": {"checkpoint_id": snapshot["checkpoint"]["checkpoint_id"], "checkpoint_ns": ""}}


async def _adopt_items(target: Target, client: LangGraphClient) -> None:
    offset = 0
    while True:
        page = await client.store.search_items((), limit=PAGE, offset=offset)
        items = cast("list[Row]", page["items"])
        if not items:
            return
        await store_items.adopt_items(target, [_item(item) for item in items])
        offset += len(items)


async def _adopt_crons(target: Target, client: LangGraphClient) -> None:
    async for row in _rows(lambda offset: client.crons.search(limit=PAGE, offset=offset)):
        await adopt_cron(target, _cron(row))


def _item(row: Row) -> SourceItem:
    return SourceItem(
        namespace=tuple(row["namespace"]),
        key=row["key"],
        value=json.dumps(row["value"]).decode(),
        created_at=time_of(row["created_at"]),
        updated_at=time_of(row["updated_at"]),
    )


def _assistant(row: Row) -> SourceAssistant:
    metadata: Mapping[str, Any] = row["metadata"] or {}
    return SourceAssistant(
        original_id=str(row["assistant_id"]),
        source=SOURCE,
        graph_id=row["graph_id"],
        name=row["name"],
        description=row.get("description"),
        config=row["config"] or {},
        context=row.get("context") or {},
        metadata=metadata,
        owner=metadata.get(OWNER),
    )


def _cron(row: Row) -> SourceCron:
    metadata: Mapping[str, Any] = row.get("metadata") or {}
    return SourceCron(
        original_id=str(row["cron_id"]),
        source=SOURCE,
        assistant_id=str(row["assistant_id"]),
        thread_id=row["thread_id"] and str(row["thread_id"]),
        schedule=row["schedule"],
        timezone=row.get("timezone"),
        payload=row["payload"] or {},
        metadata=metadata,
        on_run_completed=row.get("on_run_completed"),
        end_time=time_of(row["end_time"]),
        enabled=row.get("enabled", True),
        owner=metadata.get(OWNER),
    )


def time_of(value: Any) -> datetime | None:
    """A time of the API, which the client may have parsed already."""
    return value if isinstance(value, datetime) else saver.time_of(value)


def _answer(refused: httpx.HTTPStatusError) -> str:
    """The status of an answer, with its first line."""
    text = str(refused).splitlines()
    return f"{refused.response.status_code}: {text[0][:200]}" if text else str(refused.response.status_code)
