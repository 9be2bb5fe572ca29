"""Serializer: LangGraph's format for checkpoints, with more types, and faster for messages.

LangGraph's serializer can read its output, and it can read LangGraph's.
"""

from collections.abc import Iterable
from typing import Any, cast

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from threadkeep.persistence.decoding import Decoder
from threadkeep.persistence.encoding import pack
from threadkeep.persistence.project_types import NO_TYPES, ProjectTypes


class Serializer(JsonPlusSerializer):
    """Decodes LangGraph's own types and types of the project. Other types must be listed."""

    def __init__(self, *, types: ProjectTypes = NO_TYPES, **options: Any) -> None:
        super().__init__(**options)
        self._types = types
        self.allow()

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[tuple[str, ...] | type]) -> "Serializer":
        """Return this serializer with further types."""
        widened = cast("Serializer", super().with_msgpack_allowlist(extra_allowlist))
        # LangGraph has copied this object with its decoder, which has the old list.
        widened.allow()
        return widened

    def allow(self) -> None:
        """Use the current list of types."""
        self._decoder = Decoder(self._allowed_msgpack_modules, self._types)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Encode a value. Returns type and bytes. NotKept if it can't be encoded."""
        # LangGraph's format has types of its own for these.
        if obj is None or type(obj) in {bytes, bytearray}:
            return super().dumps_typed(obj)
        return "msgpack", pack(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Decode a value. A value of a type that is not allowed becomes its plain payload."""
        kind, written = data
        return self._decoder.unpack(written) if kind == "msgpack" else super().loads_typed(data)
