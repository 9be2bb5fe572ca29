"""Serde: the stock serializer, quicker where a state is made of messages. Either reads what the other wrote."""

from typing import Any, cast

import ormsgpack
from langgraph.checkpoint.serde.jsonplus import (
    EXT_PYDANTIC_V2,
    JsonPlusSerializer,
    _msgpack_default,  # pyright: ignore[reportPrivateUsage] - what a value is to be written as; no public name
    _option,  # pyright: ignore[reportPrivateUsage]
)

from threadkeep.persistence import messages


class Serializer(JsonPlusSerializer):
    """Messages past pydantic, all else as LangGraph's own does it."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Type and bytes; MsgpackEncodeError of what has no form."""
        if isinstance(obj, (list, dict)):
            return "msgpack", ormsgpack.packb(obj, default=_default, option=_option)
        return super().dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """What was written, its types looked up in the allowlist."""
        kind, written = data
        if kind == "msgpack":
            return ormsgpack.unpackb(written, ext_hook=self._revived, option=ormsgpack.OPT_NON_STR_KEYS)
        return super().loads_typed(data)

    def _revived(self, code: int, data: bytes) -> Any:
        if code == EXT_PYDANTIC_V2:
            try:
                message = messages.read(ormsgpack.unpackb(data, option=ormsgpack.OPT_NON_STR_KEYS))
            except ValueError:  # it holds more than plain values
                message = None
            if message is not None:
                return message
        return self._unpack_ext_hook(code, data)


def _default(value: object) -> Any:
    """What a value is written as that msgpack does not know."""
    name, message = messages.KINDS.get(type(value)), cast("Any", value)
    if name is None or message.__pydantic_extra__:
        return _msgpack_default(value)
    try:
        written = ormsgpack.packb((*name, message.__dict__, "model_validate_json"), option=_option)
        return ormsgpack.Ext(EXT_PYDANTIC_V2, written)
    except ormsgpack.MsgpackEncodeError:  # something within is no plain value
        return _msgpack_default(value)
