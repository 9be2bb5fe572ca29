"""Conversations: threads under another name, and the messages of their newest state as items."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from typing_extensions import TypedDict

from threadkeep.api.agents.content import messages_of
from threadkeep.api.agents.pieces import calls_of
from threadkeep.api.openai.errors import InvalidParameter, ResourceNotFound
from threadkeep.api.openai.models import headers_of
from threadkeep.api.openai.object_ids import conversation_id, parse_item_id, thread_of_conversation
from threadkeep.api.openai.paging import ItemList, ListQuery, item_list, page
from threadkeep.api.openai.request_settings import check_metadata
from threadkeep.api.openai.response_input import response_messages
from threadkeep.api.openai.stored_responses import state_items
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import json_response
from threadkeep.base import ids, json
from threadkeep.tables import threads
from threadkeep.tables.threads import Change, NewThread, Thread
from threadkeep.threads import retention, updates
from threadkeep.threads.history import LATEST
from threadkeep.threads.updates import Superstep, ThreadStateUpdate, ThreadUpdate

METADATA_KEY: Final = "conversation"
"""The key of a thread's metadata that has the metadata of the conversation."""
DEFAULT_GRAPH: Final = "agent"
"""The graph whose state has the items of a conversation before its first run, if the graph is served."""
INPUT_NODE: Final = "__start__"
END_NODE: Final = "__end__"

Items = Annotated[list[dict[str, Any]], Field(max_length=20)]


class ConversationBody(BaseModel):
    """The body of a conversation's creation."""

    model_config = ConfigDict(extra="ignore")

    metadata: dict[str, Any] | None = None
    items: Items | None = None


class ConversationPatch(BaseModel):
    """The body of a conversation's change."""

    model_config = ConfigDict(extra="ignore")

    metadata: dict[str, Any] | None = None


class ItemsBody(BaseModel):
    """The body of new items."""

    model_config = ConfigDict(extra="ignore")

    items: Items


class ConversationAnswer(TypedDict):
    """A conversation."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, Any]


class DeletedConversation(TypedDict):
    """A conversation that was deleted."""

    id: str
    object: Literal["conversation.deleted"]
    deleted: bool


class ItemAnswer(TypedDict):
    """An item of a conversation. Its further fields follow from its type."""

    id: str
    type: str


async def create(call: AuthorizedRequest[ConversationBody, None]) -> Response:
    """POST /v1/conversations: create a conversation with its first items."""
    # Handlers of authorization have added the owner to the metadata of the body. It belongs to that of the thread.
    metadata = call.filters.without_owner(call.body.metadata or {})
    check_metadata(metadata)
    graph_id = await _default_graph(call)
    call.state.quotas.refuse_thread(call.caller.identity)
    thread_id = ids.uuid7()
    marks: dict[str, Any] = {METADATA_KEY: metadata} | ({"graph_id": graph_id} if graph_id else {})
    json.check_bytes(call.state.settings.metadata_bytes, metadata=marks)
    new = NewThread(thread_id=thread_id, metadata=call.filters.with_owner(marks), ttl=call.state.runs.thread_ttl)
    messages = response_messages(call.body.items or [], thread_id)
    # Without a graph, no reducer can put the messages into a state.
    if messages and graph_id is None:
        raise InvalidParameter("no graph of this server accepts messages", param="items")
    thread = await updates.create_thread(call.state.threads, call.tenant, new, _steps(messages))
    if thread is None:
        raise ResourceNotFound("The conversation could not be created.")
    call.state.quotas.count_thread(call.caller.identity)
    return json_response(_conversation(thread), headers=headers_of(call))


async def get(call: AuthorizedRequest[None, None]) -> Response:
    """GET /v1/conversations/{conversation_id}: read a conversation."""
    return json_response(_conversation(await _thread(call)), headers=headers_of(call))


async def update(call: AuthorizedRequest[ConversationPatch, None]) -> Response:
    """POST /v1/conversations/{conversation_id}: replace the metadata of a conversation."""
    metadata = call.filters.without_owner(call.body.metadata or {})
    check_metadata(metadata)
    change = Change(metadata={METADATA_KEY: metadata}, metadata_bytes=call.state.settings.metadata_bytes)
    async with call.state.pool.connection(call.filters) as conn:
        thread = await threads.update(conn, call.filters, thread_id_of(call), change)
        # The update cannot tell its two reasons apart. Only a refused request pays for the second query.
        if thread is None and await threads.get_without_values(conn, call.filters, thread_id_of(call)) is not None:
            raise json.too_large("metadata", change.metadata_bytes)
    if thread is None:
        raise _not_found(call)
    return json_response(_conversation(thread), headers=headers_of(call))


async def delete(call: AuthorizedRequest[None, None]) -> Response:
    """DELETE /v1/conversations/{conversation_id}: delete a conversation, with its thread and its responses."""
    thread_id = thread_id_of(call)
    if not await retention.delete(call.state.threads, call.filters, [thread_id]):
        raise _not_found(call)
    deleted: DeletedConversation = {
        "id": conversation_id(thread_id),
        "object": "conversation.deleted",
        "deleted": True,
    }
    return json_response(deleted, headers=headers_of(call))


async def list_items(call: AuthorizedRequest[None, ListQuery]) -> Response:
    """GET /v1/conversations/{conversation_id}/items: list the messages, tool calls and results of the newest state."""
    return json_response(page(await _items(call), call.query), headers=headers_of(call))


async def add_items(call: AuthorizedRequest[ItemsBody, None]) -> Response:
    """POST /v1/conversations/{conversation_id}/items: add up to 20 items, as messages of the state."""
    if not call.body.items:
        raise InvalidParameter("must have at least one item", param="items")
    thread = await _thread(call)
    messages = response_messages(call.body.items, thread.thread_id)
    # Items such as reasoning are not messages, so nothing may be left to add.
    if messages:
        await _change(call, messages)
    added: ItemList = item_list(state_items(thread, messages))
    return json_response(added, headers=headers_of(call))


async def get_item(call: AuthorizedRequest[None, None]) -> Response:
    """GET /v1/conversations/{conversation_id}/items/{item_id}: read an item."""
    named = str(call.request.path_params["item_id"])
    item = next((each for each in await _items(call) if each["id"] == named), None)
    if item is None:
        raise _item_not_found(named)
    return json_response(item, headers=headers_of(call))


async def delete_item(call: AuthorizedRequest[None, None]) -> Response:
    """DELETE /v1/conversations/{conversation_id}/items/{item_id}: delete an item: its message is removed from the state."""
    named = str(call.request.path_params["item_id"])
    thread = await _thread(call)
    messages = messages_of(thread.values.load()) if thread.values else []
    message_ids = _messages_of_item(thread, messages, named)
    if not message_ids:
        raise _item_not_found(named)
    # LangGraph reads this role as a RemoveMessage.
    await _change(call, [{"role": "remove", "content": "", "id": message_id} for message_id in message_ids])
    return json_response(_conversation(thread), headers=headers_of(call))


def thread_id_of(call: AuthorizedRequest[Any, Any]) -> UUID:
    """Return the thread of the conversation of the path. Raise ResourceNotFound if its id is malformed."""
    return thread_of_conversation(str(call.request.path_params["conversation_id"]))


def _not_found(call: AuthorizedRequest[Any, Any]) -> ResourceNotFound:
    return ResourceNotFound(f"Conversation with id {conversation_id(thread_id_of(call))!r} not found.")


def _item_not_found(named: str) -> ResourceNotFound:
    return ResourceNotFound(f"Item with id {named[:100]!r} not found.")


async def _thread(call: AuthorizedRequest[Any, Any]) -> Thread:
    async with call.state.pool.connection(call.filters) as conn:
        thread = await threads.get(conn, call.filters, thread_id_of(call))
    if thread is None:
        raise _not_found(call)
    return thread


async def _items(call: AuthorizedRequest[Any, Any]) -> list[dict[str, Any]]:
    thread = await _thread(call)
    return state_items(thread, messages_of(thread.values.load()) if thread.values else [])


def _messages_of_item(thread: Thread, messages: Sequence[Mapping[str, Any]], named: str) -> list[str]:
    """Return the ids of an item's messages: for a call, the message that calls and its result."""
    item = parse_item_id(named)
    if item is None or item.thread_id != thread.thread_id:
        return []
    return [str(message["id"]) for message in messages if item.key in _keys(message)]


def _keys(message: Mapping[str, Any]) -> list[Any]:
    """Return the keys of the ids of the items of a message."""
    calls = [call.call_id for call in calls_of(message)]
    return [message.get("id"), message.get("tool_call_id"), *calls]


async def _change(call: AuthorizedRequest[Any, Any], messages: Sequence[Mapping[str, Any]]) -> None:
    """Add messages to the state of the thread, or remove some from it, as if they were input."""
    first, last = (step.updates[0] for step in _steps(messages))
    change = ThreadUpdate(checkpoint=LATEST, update=first, then=[last])
    await updates.update_state(call.state.threads, call.tenant, thread_id_of(call), change)


def _steps(messages: Sequence[Mapping[str, Any]]) -> list[Superstep]:
    """Return the steps that add messages to a state. After them no node runs."""
    if not messages:
        return []
    added = ThreadStateUpdate(values={"messages": [dict(message) for message in messages]}, as_node=INPUT_NODE)
    # Without the second step, the first node of the graph would be next.
    return [Superstep(updates=[added]), Superstep(updates=[ThreadStateUpdate(as_node=END_NODE)])]


async def _default_graph(call: AuthorizedRequest[Any, Any]) -> str | None:
    """Return the graph of a conversation without runs, or None if no graph takes messages."""
    # The sort is stable, so the other graphs stay in the order of langgraph.json.
    ordered = sorted(call.state.graphs, key=lambda graph_id: graph_id != DEFAULT_GRAPH)
    for graph_id in ordered:
        if await call.state.message_graphs.takes_messages(graph_id):
            return graph_id
    return None


def _conversation(thread: Thread) -> ConversationAnswer:
    metadata: dict[str, Any] = thread.metadata.load().get(METADATA_KEY) or {}
    return {
        "id": conversation_id(thread.thread_id),
        "object": "conversation",
        "created_at": int(thread.created_at.timestamp()),
        "metadata": metadata,
    }
