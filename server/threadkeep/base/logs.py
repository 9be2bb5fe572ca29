"""Logs: lines of a fixed sentence and fields, as JSON or as text for a terminal.

A line has the fields in `extra`, and the context (request, thread, run) from `bind`.

No line contains a key, a token, a cookie or a payload, at any level. Libraries log all of these at `debug`: HTTP and
WebSocket clients log headers and frames, and model providers log prompts. Below `info`, only lines of the server and the
project are therefore written.
"""

import json
import logging
import sys
import sysconfig
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
QUIET: Final = ("httpx", "httpcore", "psycopg.pool", "uvicorn.sockets")
"""Loggers whose `info` lines contain URLs with queries, or nothing useful."""
INSTALLED: Final = tuple(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib"))
_context: ContextVar[Mapping[str, str]] = ContextVar("log_context")


def bind(**fields: str) -> None:
    """Add `fields` to all further log lines of this task and of the tasks that it starts."""
    _context.set({**_context.get({}), **fields})


def request_id() -> str | None:
    """Return the id of the current request, or of the request that started this task, or None."""
    return _context.get({}).get("request_id")


def configure(level: str, *, as_json: bool | None, project: Path | None = None) -> None:
    """Log lines of `level` and above to standard error. `project` is the folder with the user's own modules."""
    as_json = not sys.stderr.isatty() if as_json is None else as_json
    # Skip values that no line contains, as the "Logging HOWTO" on docs.python.org advises (Optimization).
    logging._srcfile = None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - it has no public name
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(DebugOfOwnModules(project))
    # `force`, because otherwise nothing happens if imported code has already configured the root logger.
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class DebugOfOwnModules(logging.Filter):
    """Drops lines below `info`, except of loggers of the server and of the project's modules."""

    def __init__(self, project: Path | None) -> None:
        super().__init__()
        self._project = project.resolve() if project else None
        self._is_own_by_name: dict[str, bool] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        return record.levelno >= logging.INFO or self._is_own(record.name)

    def _is_own(self, name: str) -> bool:
        is_own = self._is_own_by_name.get(name)
        if is_own is None:
            package = name.partition(".")[0]
            # A logger may be named below its module. Then only its package is a module.
            is_own = package == "threadkeep" or self._is_of_project(name) or self._is_of_project(package)
            self._is_own_by_name[name] = is_own
        return is_own

    def _is_of_project(self, module: str) -> bool:
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is None or self._project is None:
            return False
        path = Path(file).resolve()
        installed = "site-packages" in path.parts or any(path.is_relative_to(folder) for folder in INSTALLED)
        return path.is_relative_to(self._project) and not installed


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    extra = {name: value for name, value in record.__dict__.items() if name not in STANDARD}
    return {**_context.get({}), **extra}


class JsonFormatter(logging.Formatter):
    """Formats a line as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
            **_fields(record),
        }
        if record.exc_info:
            line["stacktrace"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate, an integer beyond 64 bits
            return json.dumps(line, default=str, skipkeys=True)


def _in_a_line(text: str) -> str:
    """Escape `text` if it has control characters, because a client's text could forge a line or move the cursor."""
    return text if text.isprintable() else repr(text)


class TextFormatter(logging.Formatter):
    """Formats a line for a terminal: time, level, sentence, fields."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = " ".join(f"{name}={_in_a_line(str(value))}" for name, value in _fields(record).items())
        line = f"{time} {record.levelname.lower():7} {record.getMessage()}" + (f"  {fields}" if fields else "")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
