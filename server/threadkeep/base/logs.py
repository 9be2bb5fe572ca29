"""Logs: a fixed sentence and fields, as JSON lines or as text for a terminal.

The fields of `logging`'s `extra` are the line's own. Context (request, thread, run) comes from `bind`.

No line holds a key, a token, a cookie or a payload, whatever the level. Libraries log all of these at `debug`: HTTP and
WebSocket clients their headers and frames, model providers their prompts. So below `info` only the server and the project
are heard.
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
"""Loggers whose `info` has addresses with their queries, or says nothing of use."""
INSTALLED: Final = tuple(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib"))
_context: ContextVar[Mapping[str, str]] = ContextVar("log_context")


def bind(**fields: str) -> None:
    """Add `fields` to every line that is logged from here on in this task, and in those that it starts."""
    _context.set({**_context.get({}), **fields})


def request_id() -> str | None:
    """The id of the request that is being answered, or that started what goes on; None where none did."""
    return _context.get({}).get("request_id")


def configure(level: str, *, as_json: bool | None, project: Path | None = None) -> None:
    """Log to standard error, everything of `level` and above. `project` is the folder of the user's own modules."""
    as_json = not sys.stderr.isatty() if as_json is None else as_json
    # What no line shows need not be found out: logging's own advice (docs.python.org, "Logging HOWTO", Optimization).
    logging._srcfile = None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - it has no public name
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(DebugOfOwnModules(project))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class DebugOfOwnModules(logging.Filter):
    """Drops lines below `info` of every logger that is not the server's or named for a module of the project."""

    def __init__(self, project: Path | None) -> None:
        super().__init__()
        self._project = project.resolve() if project else None
        self._known: dict[str, bool] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        return record.levelno >= logging.INFO or self._is_own(record.name)

    def _is_own(self, name: str) -> bool:
        if name not in self._known:
            package = name.partition(".")[0]
            self._known[name] = package == "threadkeep" or self._is_of_project(name) or self._is_of_project(package)
        return self._known[name]

    def _is_of_project(self, module: str) -> bool:
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is None or self._project is None:
            return False
        path = Path(file).resolve()
        installed = "site-packages" in path.parts or any(path.is_relative_to(folder) for folder in INSTALLED)
        return path.is_relative_to(self._project) and not installed


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    own = {name: value for name, value in record.__dict__.items() if name not in STANDARD}
    return {**_context.get({}), **own}


class JsonFormatter(logging.Formatter):
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
            line["stacktrace"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate, an integer beyond 64 bits
            return json.dumps(line, default=str, skipkeys=True)


def _in_a_line(text: str) -> str:
    """`text` where it is harmless, else escaped: what a client sends is to forge no line, nor move the cursor."""
    return text if text.isprintable() else repr(text)


class TextFormatter(logging.Formatter):
    """For a person: time, level, sentence, fields."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = " ".join(f"{name}={_in_a_line(str(value))}" for name, value in _fields(record).items())
        line = f"{time} {record.levelname.lower():7} {record.getMessage()}" + (f"  {fields}" if fields else "")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
