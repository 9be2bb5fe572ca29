"""Messages: translate chunks of the v1 mode `messages-tuple` to message-start, content blocks and message-finish."""

from typing import Any, Final, NamedTuple, cast

import orjson

from threadkeep.api.protocol_v2.blocks import BESIDE_TEXT, ContentBlocks, Data
from threadkeep.api.protocol_v2.events import Namespace
from threadkeep.base import json

ROLES: Final = {"ai": "ai", "human": "human", "system": "system"}
"""Types of complete messages that are sent, and their roles in the protocol. Tool results are on `tools`."""


DELTA: Final = b'{"event":"content-block-delta","index":0,"delta":{"type":"text-delta","text":%b}}'
BEGIN: Final = b'[{"content":"'
"""The first bytes of a chunk with text content."""
MORE: Final = (*BESIDE_TEXT, "response_metadata", "usage_metadata")


class _OpenMessage:
    """A message of which more chunks may follow."""

    def __init__(self, message_id: str, node: str | None, *, has_id_in_events: bool) -> None:
        self.message_id = message_id
        self.node = node
        self.has_id_in_events = has_id_in_events
        """Other messages were open at the same time, so each further event contains the message's id."""
        self.blocks = ContentBlocks()
        self.usage: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}

    def observe(self, message: Data) -> None:
        """Collect the metadata and token usage that the last event contains."""
        if message.get("response_metadata"):
            self.metadata.update(message["response_metadata"])
        if message.get("usage_metadata"):
            self.usage = _add_usage(self.usage, message["usage_metadata"])

    def start(self, role: str, message: Data) -> Data:
        response = cast("Data", message.get("response_metadata") or {})
        names = {
            "provider": response.get("model_provider"),
            "model": response.get("model_name"),
            "langgraph_node": self.node,
        }
        metadata = {key: value for key, value in names.items() if isinstance(value, str)}
        return {
            "event": "message-start",
            "role": role,
            "id": self.message_id,
            "run_id": self.message_id,
            "metadata": metadata,
        }

    def finish(self) -> list[Data]:
        end: Data = {"event": "message-finish"}
        if self.usage:
            end["usage"] = self.usage
        if self.metadata:
            end["metadata"] = self.metadata
        return [*self.blocks.finish(), end]


class _ChunkTemplate(NamedTuple):
    """The JSON of the latest chunk. If only the text of the next chunk differs, it need not be parsed."""

    namespace: Namespace
    end: bytes
    """The bytes after the text."""
    node: str | None
    blocks: ContentBlocks

    def text_of(self, namespace: Namespace, data: bytes) -> bytes | None:
        """Return the text of a chunk, as JSON. Return None if anything else in it differs from the latest chunk."""
        if namespace != self.namespace or not (data.startswith(BEGIN) and data.endswith(self.end)):
            return None
        text = data[len(BEGIN) : -len(self.end)]
        # An inner quote would be the end of the text, and a backslash at its end would escape the quote that follows.
        return b'"%b"' % text if text and b'"' not in text and not text.endswith(b"\\") else None


class MessageAssembler:
    """The open messages of one run, by namespace."""

    def __init__(self) -> None:
        self._open: dict[tuple[Namespace, str], _OpenMessage] = {}
        self._repeated: _ChunkTemplate | None = None

    def translate(self, namespace: Namespace, data: bytes) -> tuple[str | None, list[bytes]]:
        """Return the node that wrote the message, and the data of each event that one v1 event makes."""
        template = self._repeated
        if (
            template is not None
            and (raw := template.text_of(namespace, data))
            and template.blocks.add_text(orjson.loads(raw))
        ):
            return template.node, [DELTA % raw]
        return self._read(namespace, data)

    def _read(self, namespace: Namespace, data: bytes) -> tuple[str | None, list[bytes]]:
        self._repeated = None
        message, metadata = cast("tuple[Data, Data]", json.loads(data))
        node = cast("str | None", metadata.get("langgraph_node"))
        key = (namespace, str(message.get("id")))
        has_id = self._needs_id(key)
        if not has_id and (text := _plain_text(message)) and self._continues(key, message):
            raw = orjson.dumps(text)
            if data.startswith(BEGIN[:-1] + raw):
                self._repeated = _ChunkTemplate(
                    # From the closing quote of the text: `raw` has both quotes, and BEGIN has the opening one.
                    namespace,
                    data[len(BEGIN) + len(raw) - 2 :],
                    node,
                    self._open[key].blocks,
                )
            return node, [DELTA % raw]
        events = self._of_chunk(key, message, node, has_id=has_id)
        if has_id:
            events = [event | {"run_id": key[1], "message_id": key[1]} for event in events]
        return node, [json.dumps(event) for event in events]

    def _needs_id(self, key: tuple[Namespace, str]) -> bool:
        """Whether the message's events must contain its id: other messages are or were open at the same time."""
        message = self._open.get(key)
        if len(self._open) > (message is not None):
            for parallel in self._open.values():
                parallel.has_id_in_events = True
            return True
        return message is not None and message.has_id_in_events

    def _continues(self, key: tuple[Namespace, str], message: Data) -> bool:
        """Add the chunk to an open text and return True, if it is only more of that text, as nearly every chunk is."""
        opened = self._open.get(key)
        if opened is None or message.get("chunk_position") is not None:
            return False
        return opened.blocks.add_text(message["content"])

    def _of_chunk(self, key: tuple[Namespace, str], message: Data, node: str | None, *, has_id: bool) -> list[Data]:
        chunk = message.get("type") == "AIMessageChunk"
        role = "ai" if chunk else ROLES.get(str(message.get("type")))
        if role is None:
            return []
        events: list[Data] = []
        if (opened := self._open.get(key)) is None:
            opened = self._open[key] = _OpenMessage(key[1], node, has_id_in_events=has_id)
            events.append(opened.start(role, message))
        opened.observe(message)
        events.extend(opened.blocks.add(message))
        # Only chunks say whether more of them follow.
        if not chunk or message.get("chunk_position") == "last":
            events.extend(self._open.pop(key).finish())
        return events

    def close(self, failure: str | None) -> list[tuple[Namespace, str | None, bytes]]:
        """Close all open messages. Return the namespace, node and data of each event. `failure`: close with an error."""
        self._repeated = None
        closing: list[tuple[Namespace, str | None, bytes]] = []
        for (namespace, message_id), opened in self._open.items():
            events = opened.finish() if failure is None else [{"event": "error", "message": failure}]
            ids = {"run_id": message_id, "message_id": message_id}
            closing.extend((namespace, opened.node, json.dumps(event | ids)) for event in events)
        self._open.clear()
        return closing


def _plain_text(message: Data) -> str | None:
    """Return the text of a chunk, or None if it contains anything else."""
    content = message.get("content")
    return content if isinstance(content, str) and not any(message.get(field) for field in MORE) else None


def _add_usage(usage: dict[str, Any], increment: dict[str, Any]) -> dict[str, Any]:
    """Return the sum of two token usages, because providers send them in pieces."""
    total = dict(usage)
    for key, value in increment.items():
        # As langchain-core does it: counts are added, and newer details replace older ones.
        if isinstance(value, dict):
            total[key] = {**total.get(key, {}), **cast("dict[str, Any]", value)}
        elif isinstance(value, int):
            total[key] = total.get(key, 0) + value
    return total
