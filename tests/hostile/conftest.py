"""Fixtures of tests that mean harm: a patient server, and the errors in its log."""

import logging
from collections.abc import Iterator

import pytest

from threadkeep.settings import Settings

TELLING = ("cron skipped: its run was refused",)
"""Lines that are no errors, and tell of something stored that fails each time."""
OF_THE_PROTOCOL = ("run failed", "Invalid UTF-8 sequence received from client.")
"""Errors that are right: a graph fails on its input, and uvicorn closes a socket with 1007."""


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """Limits that a flood would otherwise meet."""
    return settings.model_copy(update={"run_slots": 8, "max_queued": 0})


class _Errors(logging.Handler):
    """Keeps the lines that no client should be able to cause."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message in TELLING or (record.levelno >= logging.ERROR and message not in OF_THE_PROTOCOL):
            self.found.append(self.format(record)[-1500:])


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """Fills up with the errors in the server's log."""
    handler = _Errors()
    logging.getLogger().addHandler(handler)
    yield handler.found
    logging.getLogger().removeHandler(handler)
