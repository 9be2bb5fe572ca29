"""Audit: who was refused, and who took something away: a line of its own for each, in the log `threadkeep.audit`.

Each line has the caller, the action, the ids and the status. It never has anything else of the request.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from starlette.types import Scope

log = logging.getLogger("threadkeep.audit")

MAX_UNAUTHENTICATED = 10
"""Lines about callers who are not known, in each `WINDOW_S`: a flood of them must not fill the disk."""
WINDOW_S = 10.0
DELETE_EVENTS = frozenset({"assistants.delete", "threads.delete", "crons.delete", "store.delete"})
MESSAGE_BY_STATUS: Mapping[int, str] = {401: "authentication failed", 403: "forbidden", 421: "misdirected"}
"""The refusals that stand in the audit log. 421: a name that is not this server's."""
AUDIT: Final = "threadkeep.audit"
"""The key of an ASGI scope under which its application's `AuditLog` is found."""


class AuditLog:
    """Writes the lines of one application."""

    def __init__(self) -> None:
        self._window = 0.0
        self._told = 0
        self._untold = 0

    def record(self, scope: Scope, operation: Any, status: int, ids: Mapping[str, str]) -> None:
        """Write a line if the request was refused because of its caller, or took something away."""
        if status in MESSAGE_BY_STATUS:
            self._refused(MESSAGE_BY_STATUS[status], _fields(scope, operation, status, ids))
        elif operation is not None and operation.event in DELETE_EVENTS and status < 300:
            log.info("removed", extra=_fields(scope, operation, status, ids))

    def _refused(self, sentence: str, fields: dict[str, object]) -> None:
        if fields["principal"] is not None or self._may_tell(fields):
            log.warning(sentence, extra=fields)

    def _may_tell(self, fields: dict[str, object]) -> bool:
        """Whether there may be one more line of somebody who is not known; it says how many were left out."""
        now = time.monotonic()
        if now - self._window > WINDOW_S:
            self._window, self._told = now, 0
        if self._told == MAX_UNAUTHENTICATED:
            self._untold += 1
            return False
        self._told += 1
        if self._untold:
            fields["suppressed"], self._untold = self._untold, 0
        return True


def refused_command(scope: Scope, operation: Any, status: int, command: str) -> None:
    """Write a line if a command on an open socket was refused because of its caller."""
    audit: AuditLog | None = scope.get(AUDIT)
    if audit is not None and status in MESSAGE_BY_STATUS:
        audit.record(scope, operation, status, {**scope["path_params"], "command": command})


def _fields(scope: Scope, operation: Any, status: int, ids: Mapping[str, str]) -> dict[str, object]:
    principal, client = scope.get("principal"), cast("tuple[str, int] | None", scope.get("client"))
    return {
        "principal": None if principal is None else principal.identity,
        "client_address": client[0] if client else None,
        "action": None if operation is None else operation.event,
        "route": None if operation is None else f"{operation.method} {operation.path}",
        "status_code": status,
        **ids,
    }
