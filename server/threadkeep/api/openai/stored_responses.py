"""Stored responses: an earlier response, from its run, the run's events and the thread's checkpoints."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import anyio

from threadkeep.api.agents.content import messages_of
from threadkeep.api.agents.questions import questions_of
from threadkeep.api.agents.run_end import RunEnd, run_end
from threadkeep.api.agents.thread_reader import SETTLE_S, ThreadReader
from threadkeep.api.openai.answer import AnswerReader
from threadkeep.api.openai.conversation_items import message_items
from threadkeep.api.openai.errors import InvalidParameter, ResourceNotFound
from threadkeep.api.openai.message_input import require_object
from threadkeep.api.openai.object_ids import parse_item_id, run_of_response
from threadkeep.api.openai.response_object import ResponseHead
from threadkeep.api.openai.response_output import DONE, Event, ResponseOutput
from threadkeep.api.openai.run_answer import answer_pieces
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.streaming import StreamReader
from threadkeep.base import json
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.runs.event_log import LogItem
from threadkeep.runs.service import RunHandle
from threadkeep.tables import run_events, runs, thread_checkpoints, threads
from threadkeep.tables.run_events import PAGE_SIZE
from threadkeep.tables.runs import FINAL, Run
from threadkeep.threads import history
from threadkeep.threads.history import HistoryRequest

NO_RUN = UUID(int=0)
HISTORY_STATES = 200
"""Largest number of states in which an item is searched."""


def require_response(named: str) -> UUID:
    """Return the run of a response. Raise ResourceNotFound if `named` is not the id of a response."""
    run_id = run_of_response(named)
    if run_id is None:
        raise _not_found(named)
    return run_id


def _not_found(named: str) -> ResourceNotFound:
    return ResourceNotFound(f"Response with id {named[:100]!r} not found.")


def require_head(run: Run | None, named: str) -> ResponseHead:
    """Return a run as a response. Raise ResourceNotFound if the run is not a response."""
    head = ResponseHead.of_run(run) if run is not None else None
    if head is None:
        raise _not_found(named)
    return head


async def thread_of_response(call: AuthorizedRequest[Any, Any], run_id: UUID) -> UUID:
    """Return the thread of a response, for authorization. The caller's right to see it is checked afterwards."""
    async with call.state.pool.connection() as conn:
        found_runs = await runs.get_several(conn, UNRESTRICTED, [run_id])
    return found_runs[0].thread_id if found_runs and ResponseHead.of_run(found_runs[0]) is not None else NO_RUN


def reader_of(head: ResponseHead, run: Run | None = None) -> AnswerReader:
    """Return the reader of a response's answer."""
    return AnswerReader(head.tool_names, [message["id"] for message in input_messages(run)] if run else ())


def input_messages(run: Run) -> list[dict[str, Any]]:
    """Return the messages of the request: the input of its run, or its answer to a question."""
    kwargs: dict[str, Any] = run.kwargs.load()
    if (answer := kwargs["config"]["configurable"]["openai"].get("answer")) is not None:
        return answer
    return messages_of(kwargs.get("input"))


async def events_of(
    handle: RunHandle, events: AsyncGenerator[LogItem], output: ResponseOutput, reader: AnswerReader
) -> AsyncGenerator[tuple[int, list[Event]]]:
    """Yield the events of a response, with the position of the event of the run that they come from."""
    yield 0, output.created()
    async for position, pieces in answer_pieces(events, reader):
        yield position, output.events(pieces)
    last, _ = await finish(handle, output)
    yield 0, last


async def finish(handle: RunHandle, output: ResponseOutput) -> tuple[list[Event], dict[str, Any]]:
    """Return the last events of a response, and the response, after the events of its run."""
    end = await run_end(handle)
    return output.finished(end, await _ended_at(handle))


async def _ended_at(handle: RunHandle) -> int:
    """Return the end of the run in seconds. Of a stored run it is that of Postgres, so it is always the same."""
    run = handle.run and await read_run(handle)
    return int(run.updated_at.timestamp()) if run else int(time.time())


async def read_run(handle: RunHandle) -> Run | None:
    """Return the present row of the run, or None if it was deleted."""
    async with handle.follower.pool.connection(handle.filters) as conn:
        return await runs.get(conn, handle.filters, handle.thread_id, handle.run_id)


async def frames_of(
    events: AsyncGenerator[tuple[int, list[Event]]], *, after: int = -1, reading: StreamReader | None = None
) -> AsyncGenerator[bytes]:
    """Yield the frames of the events with a number above `after`, and the end of the stream. `reading` gets the position."""
    async for position, several in events:
        # The first and the last events of a response are not made from an event of the run.
        if reading is not None and position:
            reading.position = position
        if frames := b"".join(event.frame for event in several if event.number > after):
            yield frames
    yield DONE


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A stored response that the caller may see."""

    reader: ThreadReader
    handle: RunHandle
    run: Run
    head: ResponseHead

    @classmethod
    async def of(cls, call: AuthorizedRequest[Any, Any], handle: RunHandle, named: str) -> "StoredResponse":
        """Return the response of a run. Raise ResourceNotFound if the run is not a response."""
        run = await read_run(handle)
        head = require_head(run, named)
        if run is None:
            raise _not_found(named)
        return cls(ThreadReader(call=call, filters=handle.filters), handle, run, head)

    async def fields(self) -> dict[str, Any]:
        """Return the present response."""
        output = ResponseOutput(self.head, reader := reader_of(self.head, self.run))
        if self.run.status not in FINAL:
            await self._read_recorded(output, reader)
            return self.head.fields("queued" if self.run.status == "pending" else "in_progress", output.items)
        end = await self._end()
        if not await self._read_recorded(output, reader):
            await self._read_state(output, reader, end)
        return output.finished(end, int(self.run.updated_at.timestamp()))[1]

    async def _end(self) -> RunEnd:
        async with self.handle.follower.pool.connection(self.handle.filters) as conn:
            stored = await runs.get_result(conn, self.handle.filters, self.run.thread_id, self.run.run_id)
        if stored is None:
            raise ResourceNotFound("The response was deleted.")
        # Postgres has the end, whichever process executed the run.
        return RunEnd(status=stored.status, error=stored.error.load() if stored.error else None)

    async def _read_recorded(self, output: ResponseOutput, reader: AnswerReader) -> bool:
        """Read the events that are recorded. False if there are none, because they were deleted."""
        position = 0
        while True:
            async with self.handle.follower.pool.connection(self.handle.filters) as conn:
                # Only the read of a page holds a connection.
                page = await run_events.read(conn, self.run.run_id, position)
            for row in page:
                position = row.position
                output.events(reader.read(row.event, row.data.encode()))
            if len(page) < PAGE_SIZE:
                return position > 0

    async def _read_state(self, output: ResponseOutput, reader: AnswerReader, end: RunEnd) -> None:
        """Read what the run has added to its thread. Content that is not in the state, such as a router's reasoning, is lost."""
        thread = await self.thread()
        last = await self.reader.newest_with(thread, {"run_id": str(self.run.run_id)})
        if last is None:
            return
        state, before = await self.reader.state_at(thread, last), await self._held_before(thread)
        # The state has all messages of the thread. The run added those that are new and were not its input.
        known = {str(message.get("id")) for message in [*before, *input_messages(self.run)]}
        for message in messages_of(state["values"]):
            if str(message.get("id")) not in known:
                # Read like a streamed message, so that both ways give the same items and ids.
                output.events(reader.read("messages", json.dumps([message, {}])))
        if end.is_success:
            reader.questions = questions_of(state["interrupts"])

    async def _held_before(self, thread: threads.Thread) -> list[dict[str, Any]]:
        filters = self.handle.filters
        async with self.handle.follower.pool.connection(filters) as conn:
            parent = await thread_checkpoints.parent_of_run(conn, filters, self.run.thread_id, self.run.run_id)
        return [] if parent is None else messages_of((await self.reader.state_at(thread, parent))["values"])

    async def thread(self) -> threads.Thread:
        """Return the response's thread. Raise ResourceNotFound if it was deleted."""
        async with self.handle.follower.pool.connection(self.handle.filters) as conn:
            thread = await threads.get(conn, self.handle.filters, self.run.thread_id)
        if thread is None:
            raise ResourceNotFound("The response was deleted.")
        return thread

    def input_items(self) -> list[dict[str, Any]]:
        """Return the items of the request."""
        return message_items(input_messages(self.run), self.run.thread_id, self.head.graph_id)


@dataclass(frozen=True, slots=True)
class References:
    """The items that a request refers to by their ids, of the caller's threads."""

    call: AuthorizedRequest[Any, Any]
    granted: dict[UUID, Filters]
    """The filters for the thread that the caller asked for. Each further thread is authorized separately."""

    async def replace(self, sent: str | Sequence[object]) -> str | list[object]:
        """Return the input with the items in place of references. Raise InvalidParameter if one does not exist."""
        if isinstance(sent, str):
            return sent
        known: dict[str, dict[str, Any]] = {}
        items: list[object] = []
        for index, item in enumerate(sent):
            named = _referenced(item, index)
            if named is not None and named not in known:
                known |= await self._look(named)
                if named not in known:
                    raise InvalidParameter(f"Item with id {named[:100]!r} not found.", param=f"input[{index}]")
            items.append(item if named is None else known[named])
        return items

    async def _look(self, named: str) -> Mapping[str, dict[str, Any]]:
        """Return the items of the state or the run that contains the item."""
        item = parse_item_id(named)
        if item is None:
            return {}
        reader = await self._reader(item.thread_id)
        thread = await reader.thread(item.thread_id)
        if thread is None:
            return {}
        if item.run_id is not None and (run := await reader.run(item.thread_id, item.run_id)) is not None:
            return _by_id(await self._output(reader, run))
        # Most references are to the newest state, and the history costs more.
        newest = _by_id(state_items(thread, messages_of(thread.values.load() if thread.values else None)))
        return newest if named in newest else await self._look_in_history(reader, thread, named)

    async def _reader(self, thread_id: UUID) -> ThreadReader:
        """Return the reader of a thread for the caller. Raise Forbidden."""
        if thread_id not in self.granted:
            value: dict[str, Any] = {"thread_id": thread_id, "run_id": None, "metadata": {}}
            self.granted[thread_id] = await self.call.authorize("threads.read", value)
        return ThreadReader(call=self.call, filters=self.granted[thread_id])

    async def _output(self, reader: ThreadReader, run: Run) -> list[dict[str, Any]]:
        head = ResponseHead.of_run(run)
        if head is None:
            return []
        handle = self.call.state.runs.handle_of(reader.filters, run)
        return (await StoredResponse(reader, handle, run, head).fields())["output"]

    async def _look_in_history(
        self, reader: ThreadReader, thread: threads.Thread, named: str
    ) -> Mapping[str, dict[str, Any]]:
        """Return the items of an older state with the item. Its message is on another branch of the thread."""
        parts, tenant = self.call.state.threads, reader.tenant
        request = HistoryRequest(limit=HISTORY_STATES)
        page = await history.page(parts, tenant, thread, request, lambda state: {"values": state["values"]})
        for encoded in page.states:
            items = _by_id(state_items(thread, messages_of(json.loads(encoded)["values"])))
            if named in items:
                return items
        return {}


def _referenced(item: object, index: int) -> str | None:
    """Return the id that an item refers to, or None if it is not a reference."""
    sent = require_object(item, f"input[{index}]")
    # The type of a reference is optional.
    if sent.get("type") == "item_reference" or sent.keys() == {"id"}:
        return str(sent.get("id"))
    return None


def first_reference(sent: str | Sequence[object]) -> UUID | None:
    """Return the thread of the first item that a request refers to, or None if there is none."""
    for index, item in enumerate(() if isinstance(sent, str) else sent):
        if (named := _referenced(item, index)) is not None:
            parsed = parse_item_id(named)
            return parsed.thread_id if parsed else NO_RUN
    return None


def state_items(thread: threads.Thread, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages of a thread's state as items."""
    return message_items(messages, thread.thread_id, str(thread.metadata.load().get("graph_id", "")))


def _by_id(items: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in items}


async def settled_run(handle: RunHandle, *, within_s: float = SETTLE_S) -> Run | None:
    """Wait for the end of the run, at most some seconds, and return the run. None if it was deleted."""
    with anyio.move_on_after(within_s):
        await handle.ended()
    return await read_run(handle)
