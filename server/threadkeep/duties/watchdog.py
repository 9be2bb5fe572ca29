"""Watchdog: names the node that keeps the event loop from turning.

A duty of the loop says every now and then that it turns. A thread looks at that, and when nothing was said for a
while it looks at what the loop's thread is doing: which node of which run, and which line of the user's code.
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
"""How often the loop says that it turns, and how often the thread looks."""
BLOCKED_S = 1.0
"""A silence after which there is a warning."""

OWN_PATHS = (
    str(Path(__file__).parents[1]),
    *{path for name, path in sysconfig.get_paths().items() if name in {"stdlib", "platstdlib", "purelib", "platlib"}},
    "<frozen",
)
"""Where the code lies that no user wrote."""


class LoopLag:
    """Duty: say that the loop turns, and measure how late it was."""

    topic: ClassVar[str | None] = None
    interval_s: float = CHECK_S

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.last_turn = time.monotonic()
        self._waits = False

    async def run_once(self) -> None:
        """One turn of the loop, `CHECK_S` seconds after the last if it was not late."""
        before, self.last_turn = self.last_turn, time.monotonic()
        if self._waits:
            self._metrics.loop_lag.observe(max(0.0, self.last_turn - before - CHECK_S))
        self._waits = True


@contextmanager
def watchdog(lag: LoopLag) -> Generator[None]:
    """Watch this thread's event loop while the block runs. The thread is not waited for: it ends by itself."""
    stop = threading.Event()
    arguments = (lag, threading.get_ident(), stop)
    threading.Thread(target=_watch, args=arguments, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _watch(lag: LoopLag, thread_id: int, stop: threading.Event) -> None:
    told_of = 0.0
    while not stop.wait(CHECK_S):
        last = lag.last_turn
        silent_s = time.monotonic() - last - CHECK_S
        if silent_s > BLOCKED_S and last != told_of:
            told_of = last
            _warn(thread_id, silent_s)
        elif told_of and last != told_of:
            log.warning("the event loop turns again", extra={"blocked_s": round(last - told_of - CHECK_S, 1)})
            told_of = 0.0


def _warn(thread_id: int, silent_s: float) -> None:
    frame = sys._current_frames().get(thread_id)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the only way
    fields: dict[str, object] = {"blocked_s": round(silent_s, 1)}
    if frame is not None:
        fields |= blocking_code(frame)
    log.warning("a node blocks the event loop" if "node" in fields else "the event loop is blocked", extra=fields)


def blocking_code(innermost: FrameType) -> dict[str, object]:
    """Whose code a thread is in: `code_location`, and, where it is a node's, `node`, `graph_id`, `run_id`, `thread_id`."""
    frames = list(_outwards(innermost))
    found: dict[str, object] = {"code_location": _place(next((one for one in frames if _is_users(one)), innermost))}
    if (metadata := next((each for each in map(_metadata, frames) if each), None)) is not None:
        names = {"langgraph_node": "node", "graph_id": "graph_id", "run_id": "run_id", "thread_id": "thread_id"}
        found |= {ours: str(metadata[theirs]) for theirs, ours in names.items() if theirs in metadata}
    return found


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
    """What LangGraph knows of the node that it runs in this frame, which has its config in a variable of its own."""
    if "langgraph" not in frame.f_code.co_filename:
        return None
    config = frame.f_locals.get("config")
    if not isinstance(config, dict):
        return None
    metadata = cast("dict[str, Any]", config).get("metadata")
    return cast("dict[str, Any]", metadata) if isinstance(metadata, dict) and "langgraph_node" in metadata else None
