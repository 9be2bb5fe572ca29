"""Run end: the end of a run, after all its events were read."""

from dataclasses import dataclass
from typing import Any

from threadkeep.base import json
from threadkeep.base.problems import ServiceUnavailable
from threadkeep.runs.service import RunHandle
from threadkeep.tables import runs
from threadkeep.tables.runs import FINAL, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended."""

    status: RunStatus
    error: dict[str, Any] | None = None
    """`error` and `message`, as in the LangGraph API, and perhaps a `request_id`."""

    @property
    def is_success(self) -> bool:
        """The run succeeded, or it stopped at an interrupt."""
        return self.status == "success"

    @property
    def message(self) -> str:
        """Why it failed."""
        if self.error is None:
            return "the run was cancelled" if self.status == "interrupted" else "the run failed"
        return f"{self.error.get('error', 'Error')}: {self.error.get('message', '')}"


async def run_end(handle: RunHandle) -> RunEnd:
    """Return the end of a run after all its events were read. Raise ServiceUnavailable if this process stops first."""
    # A run of this process is answered from memory. It also covers runs that have no row.
    outcome = handle.execution and handle.execution.outcome
    if outcome is not None:
        failed = outcome.status in {"error", "timeout"}
        return RunEnd(status=outcome.status, error=json.loads(outcome.answer).get("__error__") if failed else None)
    if handle.run is not None:
        async with handle.follower.pool.connection(handle.filters) as conn:
            stored = await runs.get_result(conn, handle.filters, handle.thread_id, handle.run_id)
        # Not final: this process stopped following before another process ended the run.
        if stored is not None and stored.status in FINAL:
            return RunEnd(status=stored.status, error=stored.error.load() if stored.error else None)
    raise ServiceUnavailable("the server is stopping")
