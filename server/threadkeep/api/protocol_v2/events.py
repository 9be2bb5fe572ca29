"""Events of the protocol, and their places in a thread.

`seq` goes up over runs, attempts and processes, and is the same whoever translates: 29 bits of the run's place in the
queue, 20 of the position in the run's log, 4 of the place among the events that one entry of the log makes. Together
they stay below 2**53, the last integer that JavaScript counts with. What is beyond a field's end shares its last value;
such events are sent again to who returns from there, and clients drop what they have by `event_id`.
"""

from typing import Final, NamedTuple, TypeAlias

import orjson

RUN_BITS: Final = 29
POSITION_BITS: Final = 20
INDEX_BITS: Final = 4
RUN_SPAN: Final = 1 << (POSITION_BITS + INDEX_BITS)
LAST_INDEX: Final = (1 << INDEX_BITS) - 1
LAST_POSITION: Final = (1 << POSITION_BITS) - 2
"""The position behind it is the run's end."""
MAX_SEQ: Final = (1 << 53) - 1

Namespace: TypeAlias = tuple[str, ...]


class ProtocolEvent(NamedTuple):
    """One event as a client gets it. `data` is one line of JSON."""

    channel: str
    method: str
    namespace: Namespace
    data: bytes
    seq: int
    event_id: str
    timestamp: int
    """Milliseconds. Of a replayed event at most the time at which it was made, never after it."""
    node: str | None = None

    def encode(self) -> bytes:
        """One line of JSON."""
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
    """The seq before a run's first event."""
    return (queue_position & ((1 << RUN_BITS) - 1)) * RUN_SPAN


def event_seq(queue_position: int, position: int, index: int) -> int:
    """The seq of the event number `index` of those that a run's log entry at `position` makes."""
    place = min(position, LAST_POSITION) << INDEX_BITS
    return first_seq(queue_position) + place + min(index, LAST_INDEX)


def end_seq(queue_position: int, index: int) -> int:
    """The seq of what a run's end makes: behind all that its log makes."""
    return first_seq(queue_position) + ((LAST_POSITION + 1) << INDEX_BITS) + min(index, LAST_INDEX)


def queue_position(seq: int, last: int) -> int:
    """The queue position of the run that `seq` lies in, the highest up to `last` where the count has gone round."""
    span = 1 << RUN_BITS
    found = last - last % span + seq // RUN_SPAN
    return found if found <= last else max(0, found - span)


def is_shared(seq: int) -> bool:
    """Several events may have this seq."""
    place = seq % RUN_SPAN
    return place & LAST_INDEX == LAST_INDEX or place >> INDEX_BITS == LAST_POSITION


def is_new(seq: int, since: int) -> bool:
    """A client that has had everything up to `since` may not have had the event at `seq`."""
    return seq > since or (seq == since and is_shared(seq))
