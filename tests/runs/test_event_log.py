"""Event log: the ring of a run's events, and its readers."""

from contextlib import aclosing

import anyio
import anyio.lowlevel

from threadkeep.runs.event_log import EventLog, LogEvent


async def test_a_reader_waits_for_an_attempt_that_has_no_events_yet() -> None:
    """Ours: a second attempt counts on from a higher position. Its first readers must not keep the event loop from it:
    they did, and with it the server stood still."""
    log = EventLog(is_wanted=True, starts_after=1_000)
    got: list[int] = []

    async def read() -> None:
        async with aclosing(log.follow(21)) as items:
            got.extend([item.position async for item in items])

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.lowlevel.checkpoint()
            assert not got
            assert log.append("metadata", b"{}") == LogEvent(1_001, "metadata", b"{}")
            log.close()

    assert got == [1_000, 1_001], "the gap between the attempts, then what the second says"
