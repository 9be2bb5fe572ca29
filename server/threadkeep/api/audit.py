"""Audit log: one line in the log `threadkeep.audit` for each refused caller and each deletion.

A line has the caller, the action, the ids and the status. It contains nothing else of the request.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from starlette.types import Scope

log = logging.getLogger("threadkeep.audit")

MAX_UNAUTHENTICATED = 10
"""Lines about unauthenticated callers in each `WINDOW_S`, so that a flood of requests does not fill the disk."""
WINDOW_S = 10.0
DELETE_EVENTS = frozenset({"assistants.delete", "threads.delete", "crons.delete", "store.delete"})
MESSAGE_BY_STATUS: Mapping[int, str] = {401: "authentication failed", 403: "forbidden", 421: "misdirected"}
"""Refusals that are logged. 421: the `Host` is not a name of this server."""
AUDIT: Final = "threadkeep.audit"
"""The key of an ASGI scope with the application's `AuditLog`."""


def is_deletion(operation: Any) -> bool:
    """Whether an operation deletes rows, or revokes an API key of the caller."""
    if operation is None:
        return False
    # The event `caller` has one operation with DELETE, which revokes a key.
    return operation.event in DELETE_EVENTS or (operation.event == "caller" and operation.method == "DELETE")


class AuditLog:
    """Writes the audit lines of one application."""

    def __init__(self) -> None:
        self._window = 0.0
        self._logged = 0
        self._suppressed = 0

    def record(self, scope: Scope, operation: Any, status: int, ids: Mapping[str, str]) -> None:
        """Write a line if the request was refused because of its caller, or deleted something."""
        if status in MESSAGE_BY_STATUS:
            self._refused(MESSAGE_BY_STATUS[status], _fields(scope, operation, status, ids))
        elif is_deletion(operation) and status < 300:
            log.info("removed", extra=_fields(scope, operation, status, ids))

    def _refused(self, sentence: str, fields: dict[str, object]) -> None:
        # A flood comes from unauthenticated callers, so only their lines are limited.
        if fields["principal"] is not None or self._may_log(fields):
            log.warning(sentence, extra=fields)

    def _may_log(self, fields: dict[str, object]) -> bool:
        """Whether one more line about an unauthenticated caller is allowed. Add the number of suppressed lines to it."""
        now = time.monotonic()
        if now - self._window > WINDOW_S:
            self._window, self._logged = now, 0
        if self._logged == MAX_UNAUTHENTICATED:
            self._suppressed += 1
            return False
        self._logged += 1
        if self._suppressed:
            fields["suppressed"], self._suppressed = self._suppressed, 0
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
