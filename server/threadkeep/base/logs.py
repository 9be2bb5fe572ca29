"""Logs: a fixed sentence and fields, as JSON lines or as text for a terminal.

The fields of `logging`'s `extra` are the line's own. Context (request, thread, run) comes from `bind`.
"""

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
_context: ContextVar[Mapping[str, str]] = ContextVar("log_context")


def bind(**fields: str) -> None:
    """Add `fields` to every line that is logged from here on in this task, and in those that it starts."""
    _context.set({**_context.get({}), **fields})


def request_id() -> str | None:
    """The id of the request that is being answered, or that started what goes on; None where none did."""
    return _context.get({}).get("request_id")


def configure(level: str, *, as_json: bool | None) -> None:
    """Log to standard error, everything of `level` and above."""
    as_json = not sys.stderr.isatty() if as_json is None else as_json
    # What no line shows need not be found out: logging's own advice (docs.python.org, "Logging HOWTO", Optimization).
    logging._srcfile = None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - it has no public name
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "psycopg.pool"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    own = {name: value for name, value in record.__dict__.items() if name not in STANDARD}
    return {**_context.get({}), **own}


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
            **_fields(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate, an integer beyond 64 bits
            return json.dumps(line, default=str, skipkeys=True)


def _in_a_line(text: str) -> str:
    """`text` where it is harmless, else escaped: what a client sends is to forge no line, nor move the cursor."""
    return text if text.isprintable() else repr(text)


class Text(logging.Formatter):
    """For a person: time, level, sentence, fields."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = " ".join(f"{name}={_in_a_line(str(value))}" for name, value in _fields(record).items())
        line = f"{time} {record.levelname.lower():7} {record.getMessage()}" + (f"  {fields}" if fields else "")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
