"""Events of the protocol v2, and their sequence numbers in a thread.

`seq` increases over runs, attempts and processes, and every process computes the same one. Its parts are 29 bits of the
run's position in the queue, 20 bits of the position in the run's log, and 4 bits of the number among the events that
one log entry makes. It stays below 2**53, the largest exact integer of JavaScript. A number too large for its field is
replaced by the field's last value, so several events may share a seq. These events are sent again to a client that
returns with that seq. Clients drop duplicates by `event_id`.
"""

from typing import Final, NamedTuple, TypeAlias

import orjson

RUN_BITS: Final = 29
POSITION_BITS: Final = 20
INDEX_BITS: Final = 4
RUN_SPAN: Final = 1 << (POSITION_BITS + INDEX_BITS)
LAST_INDEX: Final = (1 << INDEX_BITS) - 1
LAST_POSITION: Final = (1 << POSITION_BITS) - 2
"""The next position is reserved for the run's end."""
MAX_SEQ: Final = (1 << 53) - 1

Namespace: TypeAlias = tuple[str, ...]


class ProtocolEvent(NamedTuple):
    """One event as it is sent to a client. `data` is one line of JSON."""

    channel: str
    method: str
    namespace: Namespace
    data: bytes
    seq: int
    event_id: str
    timestamp: int
    """Milliseconds since the epoch. A replayed event may have an earlier time than it was made at, never a later one."""
    node: str | None = None

    def encode(self) -> bytes:
        """Return the event as one line of JSON."""
        # `data` may be large and is JSON already, so the rest is put around it without decoding it.
        node = b',"node":' + orjson.dumps(self.node) if self.node else b""
        return b"".join(
            (
                b'{"type":"event","event_id":',
                orjson.dumps(self.event_id),
                b',"seq":%d,"method":"' % self.seq,
                self.method.encode(),
                b'","params":{"namespace":',
                orjson.dumps(self.namespace) if self.namespace else b"[]",
                b',"timestamp":%d' % self.timestamp,
                node,
                b',"data":',
                self.data,
                b"}}",
            )
        )


def first_seq(queue_position: int) -> int:
    """Return the seq before a run's first event."""
    # The bits wrap after 2**29 runs. `queue_position` finds the run again.
    return (queue_position & ((1 << RUN_BITS) - 1)) * RUN_SPAN


def event_seq(queue_position: int, position: int, index: int) -> int:
    """Return the seq of event number `index` that a run's log entry at `position` makes."""
    place = min(position, LAST_POSITION) << INDEX_BITS
    return first_seq(queue_position) + place + min(index, LAST_INDEX)


def end_seq(queue_position: int, index: int) -> int:
    """Return the seq of event number `index` that a run's end makes. It is higher than any of the run's log."""
    return first_seq(queue_position) + ((LAST_POSITION + 1) << INDEX_BITS) + min(index, LAST_INDEX)


def queue_position(seq: int, last: int) -> int:
    """Return the queue position of the run of `seq`. The position's bits wrap, so it is the highest one up to `last`."""
    span = 1 << RUN_BITS
    position = last - last % span + seq // RUN_SPAN
    return position if position <= last else max(0, position - span)


def is_shared(seq: int) -> bool:
    """Whether several events may have this seq."""
    place = seq % RUN_SPAN
    return place & LAST_INDEX == LAST_INDEX or place >> INDEX_BITS == LAST_POSITION


def is_new(seq: int, since: int) -> bool:
    """Whether a client that has had all events up to `since` may lack the event at `seq`."""
    return seq > since or (seq == since and is_shared(seq))
