"""Watchdog: logs the node that blocks the event loop.

A duty in the event loop regularly records the time. A thread checks that time. If it is too old, the thread inspects
the stack of the loop's thread, and logs the node, the run and the line of the user's code.
"""

import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, cast

from threadkeep.base.metrics import Metrics

log = logging.getLogger(__name__)

CHECK_S = 0.25
"""Seconds between two records of the loop, and between two checks of the thread."""
BLOCKED_S = 1.0
"""Seconds without a record after which there is a warning."""

OWN_PATHS = (
    str(Path(__file__).parents[1]),
    *{path for name, path in sysconfig.get_paths().items() if name in {"stdlib", "platstdlib", "purelib", "platlib"}},
    "<frozen",
)
"""The paths of code that is not the user's."""


class LoopLag:
    """Duty: record that the loop runs, and measure its delay."""

    topic: ClassVar[str | None] = None
    interval_s: float = CHECK_S

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.last_turn = time.monotonic()
        self._has_record = False

    async def run_once(self) -> None:
        """Record the time. The delay is the time since the last record beyond `CHECK_S` seconds."""
        previous, self.last_turn = self.last_turn, time.monotonic()
        # Before the first round there is no record to compare with, and the start itself may take long.
        if self._has_record:
            self._metrics.loop_lag.observe(max(0.0, self.last_turn - previous - CHECK_S))
        self._has_record = True


@contextmanager
def watchdog(lag: LoopLag) -> Generator[None]:
    """Watch this thread's event loop while the block runs. The watching thread ends by itself later."""
    stop = threading.Event()
    arguments = (lag, threading.get_ident(), stop)
    threading.Thread(target=_watch, args=arguments, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _watch(lag: LoopLag, thread_id: int, stop: threading.Event) -> None:
    reported = 0.0
    while not stop.wait(CHECK_S):
        last = lag.last_turn
        silent_s = time.monotonic() - last - CHECK_S
        # One warning for each block, however long it takes.
        if silent_s > BLOCKED_S and last != reported:
            reported = last
            _warn(thread_id, silent_s)
        elif reported and last != reported:
            log.warning("the event loop runs again", extra={"blocked_s": round(last - reported - CHECK_S, 1)})
            reported = 0.0


def _warn(thread_id: int, silent_s: float) -> None:
    frame = sys._current_frames().get(thread_id)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the only way
    fields: dict[str, object] = {"blocked_s": round(silent_s, 1)}
    if frame is not None:
        fields |= blocking_code(frame)
    log.warning("a node blocks the event loop" if "node" in fields else "the event loop is blocked", extra=fields)


def blocking_code(innermost: FrameType) -> dict[str, object]:
    """The `code_location` of a thread and, if a node runs, its `node`, `graph_id`, `run_id` and `thread_id`."""
    frames = list(_outwards(innermost))
    user_frame = next((frame for frame in frames if _is_users(frame)), innermost)
    fields: dict[str, object] = {"code_location": _place(user_frame)}
    if (metadata := next(filter(None, map(_metadata, frames)), None)) is not None:
        names = {"langgraph_node": "node", "graph_id": "graph_id", "run_id": "run_id", "thread_id": "thread_id"}
        fields |= {ours: str(metadata[theirs]) for theirs, ours in names.items() if theirs in metadata}
    return fields


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_users(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith(OWN_PATHS)


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"


def _metadata(frame: FrameType) -> Mapping[str, Any] | None:
    """The metadata of the node that LangGraph runs in this frame. LangGraph keeps it in the local variable `config`."""
    if "langgraph" not in frame.f_code.co_filename:
        return None
    config = frame.f_locals.get("config")
    if not isinstance(config, dict):
        return None
    metadata = cast("dict[str, Any]", config).get("metadata")
    return cast("dict[str, Any]", metadata) if isinstance(metadata, dict) and "langgraph_node" in metadata else None
