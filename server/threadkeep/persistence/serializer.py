"""The serializer of checkpoints: LangGraph's own form, for more kinds of values, and quicker where a state is messages.

The stock serializer reads what this one wrote, and the other way round.
"""

from collections.abc import Iterable
from typing import Any, cast

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from threadkeep.persistence.decoding import Decoder
from threadkeep.persistence.encoding import pack
from threadkeep.persistence.project_types import NO_TYPES, ProjectTypes


class Serializer(JsonPlusSerializer):
    """Types of the project need not be listed; others beside LangGraph's own must be."""

    def __init__(self, *, types: ProjectTypes = NO_TYPES, **options: Any) -> None:
        super().__init__(**options)
        self._types = types
        self.allow()

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[tuple[str, ...] | type]) -> "Serializer":
        """This serializer, with further types."""
        widened = cast("Serializer", super().with_msgpack_allowlist(extra_allowlist))
        widened.allow()
        return widened

    def allow(self) -> None:
        """Read the types that are listed by now."""
        self._decoder = Decoder(self._allowed_msgpack_modules, self._types)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Type and bytes. NotKept if the value has no form."""
        if obj is None or type(obj) in {bytes, bytearray}:
            return super().dumps_typed(obj)
        return "msgpack", pack(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """What was written; a type that is not allowed as its plain value."""
        kind, written = data
        return self._decoder.unpack(written) if kind == "msgpack" else super().loads_typed(data)
