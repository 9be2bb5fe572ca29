"""Caps: how large one value of a graph's state may be, and which are large enough to be serialised in a thread."""

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Sequence, Sized

THREAD_OFFLOAD_BYTES = 1024 * 1024
"""Above it a value is serialised in a thread: below, the hop costs more than the work."""
THREAD_OFFLOAD_ITEMS = 20_000
"""Elements that may well be above `LARGE_BYTES`."""
SAMPLE_SIZE = 8
"""Elements of a collection whose own size is looked at: the newest, for that is where state grows."""


class StateTooLarge(ValueError):
    """A value of the graph's state is above the cap: nothing of the step was saved."""


def seems_large(value: object) -> bool:
    """Whether a value is large, by its length and that of its last elements: a guess that costs next to nothing."""
    if isinstance(value, (str, bytes, bytearray)):
        return len(value) > THREAD_OFFLOAD_BYTES
    if not isinstance(value, (dict, list, tuple, set, frozenset)):
        return False
    if len(cast("Sized", value)) > THREAD_OFFLOAD_ITEMS:
        return True
    if isinstance(value, (list, tuple)):
        return any(_is_long(each) for each in cast("Sequence[object]", value)[-SAMPLE_SIZE:])
    if isinstance(value, dict) and len(cast("Sized", value)) <= SAMPLE_SIZE:
        return any(_is_long(each) for each in cast("dict[object, object]", value).values())
    return False


def _is_long(value: object) -> bool:
    if isinstance(value, (str, bytes, bytearray)):
        return len(value) > THREAD_OFFLOAD_BYTES
    return isinstance(value, (dict, list, tuple, set, frozenset)) and len(cast("Sized", value)) > THREAD_OFFLOAD_ITEMS


def check_channel_size(channel: str, size: int, cap: int) -> None:
    """StateTooLarge where a channel is above the cap."""
    if size > cap:
        raise StateTooLarge(f"the channel {channel[:100]!r} holds {size:,} bytes; at most {cap:,} are kept")
