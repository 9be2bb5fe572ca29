"""Errors of AG-UI: before the stream they are HTTP statuses, and in it the event `RUN_ERROR`."""

from threadkeep.base.problems import Conflict


class RunRefused(Conflict):
    """The thread can't be continued like this. Nothing was changed."""

    code = "refused"

    def __init__(self, detail: str, reason: str) -> None:
        """`reason`: the `code` of the event."""
        super().__init__(detail)
        self.reason = reason
