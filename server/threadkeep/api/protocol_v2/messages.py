"""Messages: the chunks of the v1 mode `messages-tuple` as message-start, content blocks and message-finish."""

from typing import Any, Final, NamedTuple, cast

import orjson

from threadkeep.api.protocol_v2.blocks import BESIDE_TEXT, ContentBlocks, Data
from threadkeep.api.protocol_v2.events import Namespace
from threadkeep.base import json

ROLES: Final = {"ai": "ai", "human": "human", "system": "system"}
"""Types of whole messages that are told, and the protocol's word for them. A tool's answer is on `tools`."""


DELTA: Final = b'{"event":"content-block-delta","index":0,"delta":{"type":"text-delta","text":%b}}'
BEGIN: Final = b'[{"content":"'
"""How a chunk begins whose content is text."""
MORE: Final = (*BESIDE_TEXT, "response_metadata", "usage_metadata")


class _OpenMessage:
    """A message that is coming in."""

    def __init__(self, message_id: str, node: str | None, *, named: bool) -> None:
        self.message_id = message_id
        self.node = node
        self.named = named
        """Others came in beside it: from then on its events say whose they are."""
        self.blocks = ContentBlocks()
        self.usage: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}

    def observe(self, message: Data) -> None:
        """Keep what is told at the end."""
        if message.get("response_metadata"):
            self.metadata.update(message["response_metadata"])
        if message.get("usage_metadata"):
            self.usage = _added(self.usage, message["usage_metadata"])

    def start(self, role: str, message: Data) -> Data:
        said = cast("Data", message.get("response_metadata") or {})
        known = {"provider": said.get("model_provider"), "model": said.get("model_name"), "langgraph_node": self.node}
        metadata = {key: value for key, value in known.items() if isinstance(value, str)}
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
    """The JSON of the latest chunk, of which mostly the text alone changes: then the next need not be read."""

    namespace: Namespace
    end: bytes
    """What stands behind the text."""
    node: str | None
    blocks: ContentBlocks

    def text_of(self, namespace: Namespace, data: bytes) -> bytes | None:
        """The JSON of the text of a chunk that is like the latest in all else."""
        if namespace != self.namespace or not (data.startswith(BEGIN) and data.endswith(self.end)):
            return None
        text = data[len(BEGIN) : -len(self.end)]
        return b'"%b"' % text if text and b'"' not in text and not text.endswith(b"\\") else None


class MessageAssembler:
    """The messages of one run that are coming in, and their namespaces."""

    def __init__(self) -> None:
        self._open: dict[tuple[Namespace, str], _OpenMessage] = {}
        self._repeated: _ChunkTemplate | None = None

    def translate(self, namespace: Namespace, data: bytes) -> tuple[str | None, list[bytes]]:
        """The node that speaks, and the data of the events that one v1 event makes."""
        same = self._repeated
        if same is not None and (raw := same.text_of(namespace, data)) and same.blocks.add_text(orjson.loads(raw)):
            return same.node, [DELTA % raw]
        return self._read(namespace, data)

    def _read(self, namespace: Namespace, data: bytes) -> tuple[str | None, list[bytes]]:
        self._repeated = None
        message, metadata = cast("tuple[Data, Data]", json.loads(data))
        node = cast("str | None", metadata.get("langgraph_node"))
        key = (namespace, str(message.get("id")))
        named = self._name_parallel(key)
        if not named and (text := _plain_text(message)) and self._continues(key, message):
            raw = orjson.dumps(text)
            if data.startswith(BEGIN[:-1] + raw):
                self._repeated = _ChunkTemplate(
                    namespace, data[len(BEGIN) + len(raw) - 2 :], node, self._open[key].blocks
                )
            return node, [DELTA % raw]
        events = self._of_chunk(key, message, node, named=named)
        if named:
            events = [event | {"run_id": key[1], "message_id": key[1]} for event in events]
        return node, [json.dumps(event) for event in events]

    def _name_parallel(self, key: tuple[Namespace, str]) -> bool:
        """Whether the message's events are to name it: others come in beside it, or did before."""
        known = self._open.get(key)
        if len(self._open) > (known is not None):
            for one in self._open.values():
                one.named = True
            return True
        return known is not None and known.named

    def _continues(self, key: tuple[Namespace, str], message: Data) -> bool:
        """The chunk is more of the text that is coming in, and no more than that: what nearly every chunk is."""
        known = self._open.get(key)
        return known is not None and message.get("chunk_position") is None and known.blocks.add_text(message["content"])

    def _of_chunk(self, key: tuple[Namespace, str], message: Data, node: str | None, *, named: bool) -> list[Data]:
        chunk = message.get("type") == "AIMessageChunk"
        role = "ai" if chunk else ROLES.get(str(message.get("type")))
        if role is None:
            return []
        events: list[Data] = []
        if (known := self._open.get(key)) is None:
            known = self._open[key] = _OpenMessage(key[1], node, named=named)
            events.append(known.start(role, message))
        known.observe(message)
        events.extend(known.blocks.add(message))
        if not chunk or message.get("chunk_position") == "last":
            events.extend(self._open.pop(key).finish())
        return events

    def close(self, failure: str | None) -> list[tuple[Namespace, str | None, bytes]]:
        """What is to be told of messages that did not come to their end, each with namespace and node."""
        self._repeated = None
        told: list[tuple[Namespace, str | None, bytes]] = []
        for (namespace, message_id), known in self._open.items():
            events = known.finish() if failure is None else [{"event": "error", "message": failure}]
            named = {"run_id": message_id, "message_id": message_id}
            told.extend((namespace, known.node, json.dumps(event | named)) for event in events)
        self._open.clear()
        return told


def _plain_text(message: Data) -> str | None:
    """The text of a chunk that holds nothing else."""
    content = message.get("content")
    return content if isinstance(content, str) and not any(message.get(field) for field in MORE) else None


def _added(usage: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Token counts come in pieces too."""
    total = dict(usage)
    for key, value in more.items():
        if isinstance(value, dict):
            total[key] = {**total.get(key, {}), **cast("dict[str, Any]", value)}
        elif isinstance(value, int):
            total[key] = total.get(key, 0) + value
    return total
