"""Subscription: the events of a thread that a client asked for. The filter rules are those of both SDKs."""

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
    """A filter of events. `channels` may contain `custom:<name>`. Without `namespaces` all graphs match."""

    channels: frozenset[str]
    namespaces: tuple[Namespace, ...] | None = None
    depth: int | None = None

    def wants(self, event: ProtocolEvent) -> bool:
        """Whether the event matches."""
        if event.channel not in self.channels and not (
            event.channel.startswith("custom:") and "custom" in self.channels
        ):
            return False
        return self.namespaces is None or any(self._covers(prefix, event.namespace) for prefix in self.namespaces)

    @property
    def families(self) -> frozenset[str]:
        """The channels to translate. `custom` includes its named channels."""
        return frozenset(channel.partition(":")[0] for channel in self.channels)

    def _covers(self, prefix: Namespace, namespace: Namespace) -> bool:
        if len(prefix) > len(namespace) or (self.depth is not None and len(namespace) - len(prefix) > self.depth):
            return False
        return all(
            name == segment or (":" not in segment and name.partition(":")[0] == segment)
            for segment, name in zip(prefix, namespace, strict=False)
        )


def parse_subscription(params: Mapping[str, object]) -> Subscription:
    """Return the subscription in a client's parameters. Raise InvalidRequest if they are malformed."""
    namespaces = params.get("namespaces")
    return Subscription(
        channels=_channels(params.get("channels")),
        namespaces=tuple(_namespace(namespace) for namespace in _namespaces(namespaces)) if namespaces else None,
        depth=_non_negative("depth", params.get("depth")),
    )


def parse_since(params: Mapping[str, object]) -> int | None:
    """Return the seq after which events are sent. None: start with recent runs."""
    return _non_negative("since", params.get("since"))


def _channels(value: object) -> frozenset[str]:
    channels = cast("list[object]", value) if isinstance(value, list) else []
    if not channels or len(channels) > MAX_CHANNELS:
        raise InvalidRequest("channels must be a list of one channel or more")
    for channel in channels:
        if not isinstance(channel, str) or not (channel in CHANNELS or _is_named(channel)):
            raise InvalidRequest(f"unknown channel: use {', '.join(sorted(CHANNELS))} or custom:<name>")
    return frozenset(cast("list[str]", channels))


def _is_named(channel: str) -> bool:
    return channel.startswith("custom:") and len(channel) > len("custom:")


def _namespaces(value: object) -> Sequence[object]:
    if not isinstance(value, list) or len(cast("list[object]", value)) > MAX_NAMESPACES:
        raise InvalidRequest("namespaces must be a list of namespaces")
    return cast("list[object]", value)


def _namespace(value: object) -> Namespace:
    segments = cast("list[object]", value) if isinstance(value, list) else None
    if segments is None or len(segments) > MAX_SEGMENTS or not all(isinstance(segment, str) for segment in segments):
        raise InvalidRequest("a namespace must be a list of strings")
    return tuple(cast("list[str]", segments))


def _non_negative(name: str, value: object) -> int | None:
    # For `isinstance`, true is an integer.
    if value is not None and not (type(value) is int and 0 <= value <= MAX_SEQ):
        raise InvalidRequest(f"{name} must be a whole number of 0 or more")
    return value
