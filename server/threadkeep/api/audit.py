"""Audit: who was refused, and who took something away: a line of its own for each, in the log `threadkeep.audit`.

Who, what, which id, and what came of it; never what a request holds.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any, cast

from starlette.types import Scope

log = logging.getLogger("threadkeep.audit")

STRANGERS = 10
"""Lines about callers who are not let in, in each `WINDOW_S`: a flood of them must not fill the disk."""
WINDOW_S = 10.0
REMOVALS = frozenset({"assistants.delete", "threads.delete", "crons.delete", "store.delete"})
SENTENCES: Mapping[int, str] = {401: "authentication failed", 403: "forbidden"}


class Audit:
    """Writes the lines of one application."""

    def __init__(self) -> None:
        self._window = 0.0
        self._told = 0
        self._untold = 0

    def answered(self, scope: Scope, operation: Any, status: int, ids: Mapping[str, str]) -> None:
        """A request was answered: a line, if it was refused for who asked, or took something away."""
        if status == 401:
            self._stranger(_fields(scope, operation, status, ids))
        elif status == 403:
            log.warning(SENTENCES[403], extra=_fields(scope, operation, status, ids))
        elif operation is not None and operation.event in REMOVALS and status < 300:
            log.info("removed", extra=_fields(scope, operation, status, ids))

    def _stranger(self, fields: dict[str, object]) -> None:
        now = time.monotonic()
        if now - self._window > WINDOW_S:
            self._window, self._told = now, 0
        if self._told == STRANGERS:
            self._untold += 1
            return
        self._told += 1
        if self._untold:
            fields["untold_before"], self._untold = self._untold, 0
        log.warning(SENTENCES[401], extra=fields)


def _fields(scope: Scope, operation: Any, status: int, ids: Mapping[str, str]) -> dict[str, object]:
    principal, client = scope.get("principal"), cast("tuple[str, int] | None", scope.get("client"))
    return {
        "who": None if principal is None else principal.identity,
        "from": client[0] if client else None,
        "action": None if operation is None else operation.event,
        "route": None if operation is None else f"{operation.method} {operation.path}",
        "status": status,
        **ids,
    }
