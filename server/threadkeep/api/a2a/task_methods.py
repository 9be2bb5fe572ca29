"""Task methods: read, list, cancel and subscribe to tasks."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import anyio

from threadkeep.api.a2a.agents import Agent, agent_of
from threadkeep.api.a2a.errors import not_cancelable, task_not_found, unsupported
from threadkeep.api.a2a.fields import Fields
from threadkeep.api.a2a.send import SOURCE, is_task_of
from threadkeep.api.a2a.tasks import STATES, TaskReader, TaskView, has_ended
from threadkeep.api.agents.assistants import find_agent
from threadkeep.api.agents.chains import (
    ANSWER_POLL_S,
    ChainReader,
    authorize_chain,
    by_chain,
    close_question,
    parse_chain_id,
)
from threadkeep.api.agents.thread_ids import named_thread_id
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.postgres.statement_timeout import with_search_timeout
from threadkeep.tables import run_chains
from threadkeep.tables.cancels import RunSelection
from threadkeep.tables.run_chains import ACTIVE, ChainFilter, ChainPosition, ChainRun, ChainState

DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 100
CANCEL_S: Final = 10.0
"""The longest that a cancel waits for the end of a run."""
REASON: Final = "the task was canceled"
STATE_NUMBERS: Final = (
    "TASK_STATE_UNSPECIFIED",
    "TASK_STATE_SUBMITTED",
    "TASK_STATE_WORKING",
    "TASK_STATE_COMPLETED",
    "TASK_STATE_FAILED",
    "TASK_STATE_CANCELED",
    "TASK_STATE_INPUT_REQUIRED",
    "TASK_STATE_REJECTED",
    "TASK_STATE_AUTH_REQUIRED",
)
"""The states by their numbers in the proto, which ProtoJSON also takes."""
CHAIN_STATES: Final[Mapping[str, ChainState]] = {name: state for state, name in STATES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibleTask:
    """A task that the caller may see."""

    agent: Agent
    tasks: TaskReader
    chain: list[ChainRun]

    @property
    def newest(self) -> ChainRun:
        return self.chain[-1]


async def require_agent(call: AuthorizedRequest[Any, Any], name: str) -> Agent:
    """The agent of the path. NotFound, or Forbidden without the scope to read it."""
    return await agent_of(call, name, await find_agent(call, name))


async def require_task(call: AuthorizedRequest[Any, Any], name: str, task_id: str) -> VisibleTask:
    """Return a task of the agent. Raise A2AError if the caller has no such task."""
    agent = await require_agent(call, name)
    chain_id = parse_chain_id(task_id)
    chains, thread_id = await authorize_chain(call, chain_id)
    chain = await chains.runs(chain_id) if chain_id is not None and thread_id is not None else []
    # Another agent's task is not found either, because each agent has its own endpoint.
    if not chain or not is_task_of(chain[-1], agent):
        raise task_not_found(task_id)
    return VisibleTask(agent=agent, tasks=TaskReader(chains=chains), chain=chain)


async def get_task(call: AuthorizedRequest[Any, Any], name: str, params: Fields) -> dict[str, Any]:
    """GetTask: return the present state of a task."""
    task_id = params.required_text("id")
    view = TaskView(history_length=params.integer("historyLength", least=0))
    task = await require_task(call, name, task_id)
    return await task.tasks.task_of(task.chain, view)


async def cancel_task(call: AuthorizedRequest[Any, Any], name: str, params: Fields) -> dict[str, Any]:
    """CancelTask: stop the task's run, or close its open question."""
    task_id = params.required_text("id")
    params.struct("metadata")
    task = await require_task(call, name, task_id)
    value: dict[str, Any] = {"thread_id": task.newest.thread_id, "run_id": task.newest.run_id, "metadata": {}}
    # To read a task is not enough to cancel it.
    allowed = await call.authorize("threads.update", {**value, "action": "interrupt"})
    chains = ChainReader(call=call, filters=task.tasks.chains.filters.narrowed(allowed))
    # A node that ignores cancellation must not hold the request. The answer then shows the task still working.
    with anyio.move_on_after(CANCEL_S):
        await _cancel(chains, task.newest.chain_id)
    chain = await chains.runs(task.newest.chain_id)
    if not chain:
        raise task_not_found(task_id)
    return await TaskReader(chains=chains).task_of(chain, TaskView())


async def _cancel(chains: ChainReader, chain_id: UUID) -> None:
    """Cancel a task, even if it begins to wait or to run meanwhile. Raise A2AError if it has ended."""
    service, has_tried = chains.call.state.runs, False
    while (newest := await chains.newest(chain_id)) is not None:
        # Only a cancel of this request is a success. A task that was canceled before is an error in A2A.
        if newest.state == "canceled" and has_tried:
            return
        if has_ended(newest):
            raise not_cancelable(chain_id)
        has_tried = True
        if newest.state == "input_required":
            # If an answer came first, the next round finds its run, or the question again if the answer failed.
            if not await close_question(chains, newest):
                await anyio.sleep(ANSWER_POLL_S)
            continue
        # All active runs: a message to a working task adds a run that is pending behind the first.
        run_ids = [run.run_id for run in await chains.runs(chain_id) if run.state in ACTIVE]
        target = RunSelection(thread_id=newest.thread_id, run_ids=run_ids)
        await service.cancel_authorized(chains.filters, target, "interrupt", REASON)
        # Then the loop looks again, because the run may have asked a question before the cancel reached it.
        await chains.handle(newest).ended()


async def list_tasks(call: AuthorizedRequest[Any, Any], name: str, params: Fields) -> dict[str, Any]:
    """ListTasks: a page of the caller's tasks of the agent, the latest change first."""
    size = params.integer("pageSize", least=1, most=MAX_PAGE) or DEFAULT_PAGE
    after = _position(params)
    history_length = params.integer("historyLength", least=0)
    view = TaskView(history_length=history_length, artifacts=params.boolean("includeArtifacts"))
    status, context_id, since = _status(params), params.text("contextId"), _time(params)
    agent = await require_agent(call, name)
    filters = await call.authorize("threads.search", {"metadata": {}, "limit": size, "offset": 0})
    chains = ChainReader(call=call, filters=filters)
    selection = ChainFilter(
        source=SOURCE,
        assistant_id=agent.assistant.assistant_id,
        thread_id=named_thread_id(call, context_id, "contextId") if context_id else None,
        state=CHAIN_STATES.get(status),
        updated_from=since,
    )
    # Tasks are never rejected and never wait for authentication. The query would read a missing state as any state.
    if status not in {"", STATE_NUMBERS[0], *CHAIN_STATES}:
        return _page([], "", size, 0)
    newest, total = await with_search_timeout(
        # One more than the page has, to know whether there is another page.
        _search(chains, selection, after, size + 1),
        call.state.settings.search_timeout_s,
    )
    listed = await _fitting_tasks(chains, newest[:size])
    runs = by_chain(await chains.runs(*(run.chain_id for run in listed)))
    tasks = TaskReader(chains=chains)
    page_tasks = [await tasks.task_of(runs[run.chain_id], view) for run in listed if run.chain_id in runs]
    return _page(page_tasks, _token(listed[-1]) if len(newest) > len(listed) else "", size, total)


async def _fitting_tasks(chains: ChainReader, newest: list[ChainRun]) -> list[ChainRun]:
    """The first tasks whose messages fit into an answer, but at least one."""
    async with chains.call.state.pool.shielded(chains.filters) as conn:
        sizes = await run_chains.sizes(conn, [run.chain_id for run in newest])
    total, budget = 0, chains.call.state.settings.answer_bytes
    for count, run in enumerate(newest):
        total += sizes.get(run.chain_id, 0)
        # The first task is always in the page, or the client could never get past a large one.
        if total > budget and count:
            return newest[:count]
    return newest


async def _search(
    chains: ChainReader, selection: ChainFilter, after: ChainPosition | None, limit: int
) -> tuple[list[ChainRun], int]:
    async with chains.call.state.pool.connection(chains.filters) as conn:
        # A2A requires `totalSize`, so each page counts again.
        total = await run_chains.count(conn, chains.filters, selection)
        return await run_chains.search(conn, chains.filters, selection, after=after, limit=limit), total


def _page(tasks: list[dict[str, Any]], token: str, size: int, total: int) -> dict[str, Any]:
    return {"tasks": tasks, "nextPageToken": token, "pageSize": size, "totalSize": total}


def _status(params: Fields) -> str:
    """The state to look for. Empty: any."""
    value = params.get("status")
    if type(value) is int and 0 <= value < len(STATE_NUMBERS):
        return STATE_NUMBERS[value]
    if value is not None and value not in STATE_NUMBERS:
        raise params.refusal("status", "must be a TaskState")
    return value or ""


def _time(params: Fields) -> datetime | None:
    """The least time of the status. None: any."""
    text = params.text("statusTimestampAfter")
    if not text:
        return None
    try:
        # ProtoJSON has up to nine digits of a second. Python drops those after the sixth.
        time = datetime.fromisoformat(text)
    except ValueError:
        raise params.refusal("statusTimestampAfter", "must be a time such as 2026-01-02T03:04:05Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _token(run: ChainRun) -> str:
    """The token of the page after a task."""
    return urlsafe_b64encode(f"{run.updated_at.isoformat()} {run.run_id}".encode()).decode()


def _position(params: Fields) -> ChainPosition | None:
    """The place at which the page begins. None: at the latest change."""
    text = params.text("pageToken")
    if not text:
        return None
    try:
        time, run_id = urlsafe_b64decode(text.encode()).decode().split(" ")
        return ChainPosition(updated_at=datetime.fromisoformat(time), run_id=UUID(run_id))
    except (binascii.Error, ValueError):
        raise params.refusal("pageToken", "must be a token that this server has returned") from None


async def require_active_task(call: AuthorizedRequest[Any, Any], name: str, params: Fields) -> VisibleTask:
    """The task of a subscription. A2AError if it has ended."""
    task = await require_task(call, name, params.required_text("id"))
    if has_ended(task.newest):
        raise unsupported("The task has ended: read it with GetTask", taskId=str(task.newest.chain_id))
    return task
