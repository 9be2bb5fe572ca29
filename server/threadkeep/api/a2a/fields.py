"""Fields: reads the objects of a request as ProtoJSON does.

A field may have its JSON name or the name of the proto (`taskId`, `task_id`). Null is the same as absent, and unknown fields
are ignored. An error names the field by its place in the request.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, cast

from threadkeep.api.a2a.errors import A2AError, invalid_params

UPPER: Final = re.compile(r"[A-Z]")
# No int32 has more digits, and `int()` is slow on a long text.
INTEGER: Final = re.compile(r"-?[0-9]{1,10}")


class Fields:
    """An object of a request."""

    def __init__(self, value: object, place: str) -> None:
        """`place` is the path of the object in the request. Raise A2AError if it is not an object."""
        if not isinstance(value, Mapping):
            raise invalid_params(place or "params", "must be an object")
        self._value = cast("Mapping[str, Any]", value)
        self._place = place

    def place(self, name: str) -> str:
        """The place of a field in the request."""
        return f"{self._place}.{name}" if self._place else name

    def has(self, name: str) -> bool:
        """Whether the field is there, even if it is null."""
        return name in self._value or _proto_name(name) in self._value

    def get(self, name: str) -> Any:
        """The value of a field. None if it is absent."""
        value = self._value.get(name)
        return self._value.get(_proto_name(name)) if value is None else value

    def text(self, name: str) -> str:
        """A string. Empty if it is absent."""
        value = self.get(name)
        if not isinstance(value, str | None):
            raise self.refusal(name, "must be a string")
        return value or ""

    def required_text(self, name: str) -> str:
        """A string that is not empty."""
        value = self.text(name)
        if not value:
            raise self.refusal(name, "is required")
        return value

    def boolean(self, name: str) -> bool:
        """A boolean. False if it is absent."""
        value = self.get(name)
        if not isinstance(value, bool | None):
            raise self.refusal(name, "must be true or false")
        return bool(value)

    def integer(self, name: str, *, least: int, most: int | None = None) -> int | None:
        """An integer, also in a string. None if it is absent."""
        value = self.get(name)
        # ProtoJSON accepts `"5"` and `5.0` for an integer.
        if isinstance(value, str) and INTEGER.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if type(value) is not int:
            raise self.refusal(name, "must be an integer")
        if value < least or (most is not None and value > most):
            bound = f"must be {least} or more" if most is None else f"must be from {least} to {most}"
            raise self.refusal(name, bound)
        return value

    def struct(self, name: str) -> dict[str, Any]:
        """Any JSON object. Empty if it is absent."""
        value = self.get(name)
        if not isinstance(value, dict | None):
            raise self.refusal(name, "must be an object")
        return cast("dict[str, Any]", value or {})

    def message(self, name: str) -> "Fields | None":
        """An object with fields. None if it is absent."""
        value = self.get(name)
        return None if value is None else Fields(value, self.place(name))

    def required_message(self, name: str) -> "Fields":
        """An object with fields, which must be there."""
        message = self.message(name)
        if message is None:
            raise self.refusal(name, "is required")
        return message

    def items(self, name: str) -> list[Any]:
        """A list. Empty if it is absent."""
        value = self.get(name)
        if not isinstance(value, list | None):
            raise self.refusal(name, "must be a list")
        return cast("list[Any]", value or [])

    def messages(self, name: str) -> "list[Fields]":
        """A list of objects with fields."""
        return [Fields(item, f"{self.place(name)}[{index}]") for index, item in enumerate(self.items(name))]

    def texts(self, name: str) -> list[str]:
        """A list of strings."""
        values = self.items(name)
        if not all(isinstance(value, str) for value in values):
            raise self.refusal(name, "must be a list of strings")
        return values

    def refusal(self, name: str, description: str) -> A2AError:
        """The error for a field of this object."""
        return invalid_params(self.place(name), description)


def _proto_name(name: str) -> str:
    return UPPER.sub(lambda match: f"_{match[0].lower()}", name)
