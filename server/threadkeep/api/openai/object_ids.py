"""Object ids: of responses, conversations and the items of both.

A response is a run, and a conversation is a thread. The id of an item contains its thread and its message or call. An id
from a stream is therefore valid in a retrieval, in a conversation, and as an `item_reference`.
"""

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from threadkeep.api.openai.answer import Item, Kind
from threadkeep.api.openai.errors import ResourceNotFound

PREFIXES: Final[dict[Kind, str]] = {
    "text": "msg",
    "refusal": "msg",
    "reasoning": "rs",
    "call": "fc",
    "own_call": "mcp",
}
NO_THREAD: Final = UUID(int=0)
ITEM_ID: Final = re.compile(r"(msg|rs|fc|fco|mcp)_([0-9a-f]{32})([\w-]+)")
RUN_KEY: Final = re.compile(r"([0-9a-f]{32})/(.+)")
"""The index of an item that is not a message of the state: a question, or a message without an id."""


def response_id(run_id: UUID) -> str:
    """Return the id of a run as a response."""
    return f"resp_{run_id.hex}"


def run_of_response(named: str) -> UUID | None:
    """Return the run of a response, or None if `named` is not the id of a response."""
    return _uuid(named.removeprefix("resp_")) if named.startswith("resp_") else None


def conversation_id(thread_id: UUID) -> str:
    """Return the id of a thread as a conversation."""
    return f"conv_{thread_id.hex}"


def thread_of_conversation(named: str) -> UUID:
    """Return the thread of a conversation, from its id or the thread's id. Raise ResourceNotFound."""
    thread_id = _uuid(named.removeprefix("conv_"))
    if thread_id is None:
        raise ResourceNotFound(f"Conversation with id {named[:100]!r} not found.")
    return thread_id


@dataclass(frozen=True, slots=True)
class ItemId:
    """The parts of an item id."""

    thread_id: UUID
    key: str

    @property
    def run_id(self) -> UUID | None:
        """The run of an item that is not a message of the state, else None."""
        match = RUN_KEY.fullmatch(self.key)
        return UUID(match[1]) if match else None


def item_id(prefix: str, thread_id: UUID | None, key: str) -> str:
    """Return the id of an item of a thread, from the id of its message or its call."""
    # Clients put ids into paths, where `=` would be escaped.
    encoded = urlsafe_b64encode(key.encode()).rstrip(b"=").decode()
    return f"{prefix}_{(thread_id or NO_THREAD).hex}{encoded}"


def id_of_item(item: Item, thread_id: UUID | None, run_id: UUID) -> str:
    """Return the id of an item of an answer."""
    if item.kind == "own_call" or (item.kind == "call" and not item.is_question):
        return item_id(PREFIXES[item.kind], thread_id, item.call_id)
    # A message may have several texts, with calls between them.
    key = f"{item.message_id}#{item.number}" if item.number else item.message_id
    key = f"{run_id.hex}/{key}" if item.is_question or item.is_unnamed else key
    return item_id(PREFIXES[item.kind], thread_id, key)


def parse_item_id(named: str) -> ItemId | None:
    """Return the parts of an item id, or None if this server did not make it."""
    match = ITEM_ID.fullmatch(named)
    if match is None:
        return None
    padded = match[3] + "=" * (-len(match[3]) % 4)
    try:
        return ItemId(UUID(match[2]), urlsafe_b64decode(padded).decode())
    except (binascii.Error, ValueError):
        return None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
