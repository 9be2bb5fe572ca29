"""Ids: UUID version 7 (RFC 9562). New rows are adjacent in an index and sort by time."""

import os
import time
from uuid import UUID


def uuid7() -> UUID:
    """Return a new id of 48 bits of milliseconds and 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & ((1 << 48) - 1)) << 80 | random
    # The version (4 bits) and the variant (2 bits) replace random bits, as section 5.7 of RFC 9562 requires.
    value = value & ~(0xF000 << 64) | 0x7000 << 64
    value = value & ~(0xC000 << 48) | 0x8000 << 48
    return UUID(int=value)
