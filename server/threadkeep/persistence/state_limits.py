"""State limits: the largest value of a channel, and the size from which values are serialised in a thread."""

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Sequence, Sized

THREAD_OFFLOAD_BYTES = 1024 * 1024
"""A larger value is serialised in a thread. For smaller ones the thread costs more than the work."""
THREAD_OFFLOAD_ITEMS = 20_000
"""A number of elements that is probably above `THREAD_OFFLOAD_BYTES`."""
SAMPLE_SIZE = 8
"""The number of elements of a collection that are checked: the newest, because state grows at its end."""


class StateTooLarge(ValueError):
    """A value of the graph's state is above the limit. Nothing of the step was saved."""


def seems_large(value: object) -> bool:
    """Estimate quickly whether a value is large, by its length and the lengths of its last elements."""
    if isinstance(value, (str, bytes, bytearray)):
        return len(value) > THREAD_OFFLOAD_BYTES
    if not isinstance(value, (dict, list, tuple, set, frozenset)):
        return False
    if len(cast("Sized", value)) > THREAD_OFFLOAD_ITEMS:
        return True
    if isinstance(value, (list, tuple)):
        return any(_is_long(element) for element in cast("Sequence[object]", value)[-SAMPLE_SIZE:])
    if isinstance(value, dict) and len(cast("Sized", value)) <= SAMPLE_SIZE:
        return any(_is_long(element) for element in cast("dict[object, object]", value).values())
    return False


def _is_long(value: object) -> bool:
    if isinstance(value, (str, bytes, bytearray)):
        return len(value) > THREAD_OFFLOAD_BYTES
    return isinstance(value, (dict, list, tuple, set, frozenset)) and len(cast("Sized", value)) > THREAD_OFFLOAD_ITEMS


def check_channel_size(channel: str, size: int, cap: int) -> None:
    """StateTooLarge if the value of a channel is above the limit."""
    if size > cap:
        raise StateTooLarge(f"the channel {channel[:100]!r} has {size:,} bytes: at most {cap:,} can be stored")
