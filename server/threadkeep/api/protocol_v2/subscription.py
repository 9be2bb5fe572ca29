"""Subscription: which of a thread's events a client asked for, by the rules that both SDKs filter by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from threadkeep.api.protocol_v2.events import MAX_SEQ, Namespace, ProtocolEvent
from threadkeep.base.problems import InvalidRequest

CHANNELS: Final = frozenset(
    {"values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom"}
)
MAX_CHANNELS: Final = 100
MAX_NAMESPACES: Final = 100
MAX_SEGMENTS: Final = 50


@dataclass(frozen=True, slots=True)
class Subscription:
    """`channels` may hold `custom:<name>`; without `namespaces` those of all graphs are meant."""

    channels: frozenset[str]
    namespaces: tuple[Namespace, ...] | None = None
    depth: int | None = None

    def wants(self, event: ProtocolEvent) -> bool:
        """Whether the event is to be sent."""
        if event.channel not in self.channels and not (
            event.channel.startswith("custom:") and "custom" in self.channels
        ):
            return False
        return self.namespaces is None or any(self._covers(prefix, event.namespace) for prefix in self.namespaces)

    @property
    def families(self) -> frozenset[str]:
        """The channels to translate; `custom` stands for its named ones."""
        return frozenset(channel.partition(":")[0] for channel in self.channels)

    def _covers(self, prefix: Namespace, namespace: Namespace) -> bool:
        if len(prefix) > len(namespace) or (self.depth is not None and len(namespace) - len(prefix) > self.depth):
            return False
        return all(
            found == segment or (":" not in segment and found.partition(":")[0] == segment)
            for segment, found in zip(prefix, namespace, strict=False)
        )


def parse_subscription(params: Mapping[str, object]) -> Subscription:
    """What a client sent; InvalidRequest where it makes no sense."""
    namespaces = params.get("namespaces")
    return Subscription(
        channels=_channels(params.get("channels")),
        namespaces=tuple(_namespace(one) for one in _namespaces(namespaces)) if namespaces else None,
        depth=_whole("depth", params.get("depth")),
    )


def parse_since(params: Mapping[str, object]) -> int | None:
    """The seq behind which events are wanted; None: what is recent."""
    return _whole("since", params.get("since"))


def _channels(sent: object) -> frozenset[str]:
    channels = cast("list[object]", sent) if isinstance(sent, list) else []
    if not channels or len(channels) > MAX_CHANNELS:
        raise InvalidRequest("channels must be a list of one channel or more")
    for channel in channels:
        if not isinstance(channel, str) or not (channel in CHANNELS or _is_named(channel)):
            raise InvalidRequest(f"unknown channel; there are {', '.join(sorted(CHANNELS))} and custom:<name>")
    return frozenset(cast("list[str]", channels))


def _is_named(channel: str) -> bool:
    return channel.startswith("custom:") and len(channel) > len("custom:")


def _namespaces(sent: object) -> Sequence[object]:
    if not isinstance(sent, list) or len(cast("list[object]", sent)) > MAX_NAMESPACES:
        raise InvalidRequest("namespaces must be a list of namespaces")
    return cast("list[object]", sent)


def _namespace(sent: object) -> Namespace:
    segments = cast("list[object]", sent) if isinstance(sent, list) else None
    if segments is None or len(segments) > MAX_SEGMENTS or not all(isinstance(one, str) for one in segments):
        raise InvalidRequest("a namespace must be a list of strings")
    return tuple(cast("list[str]", segments))


def _whole(name: str, sent: object) -> int | None:
    if sent is not None and not (type(sent) is int and 0 <= sent <= MAX_SEQ):
        raise InvalidRequest(f"{name} must be a whole number of 0 or more")
    return sent
