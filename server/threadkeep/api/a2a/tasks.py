"""Tasks: a chain of runs as a task of A2A 1.0."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import UUID

from threadkeep.api.a2a.artifacts import ArtifactReader, last_message_parts
from threadkeep.api.a2a.messages import Part
from threadkeep.api.agents.chains import ChainReader, interrupts_of
from threadkeep.api.agents.content import messages_of
from threadkeep.api.agents.questions import Question, question_text, questions_of
from threadkeep.api.agents.thread_reader import ThreadReader
from threadkeep.base import json
from threadkeep.base.problems import AnswerTooLarge, CheckpointUnreadable, StateInvalid
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.graph_runner import output_of
from threadkeep.tables import run_events, runs, thread_runs
from threadkeep.tables.run_chains import ENDED, ChainRun, ChainState
from threadkeep.tables.run_events import PAGE_SIZE, RunEvent

Fields = dict[str, Any]
"""An object as 1.0 has it."""
KEY: Final = "a2a"
"""The key of A2A's own values, in `configurable` and in the metadata of a run."""
ARTIFACT_ID: Final = "answer"
"""A task has one artifact, so its id is always the same."""
MESSAGE_MODE: Final = "messages-tuple"
"""The stream mode of a run whose answer is a message."""
DATA_OUTPUT: Final = "data"
"""The `output` in the metadata of a run whose answer is its output, and not a message."""
STATES: Final[Mapping[ChainState, str]] = {
    "submitted": "TASK_STATE_SUBMITTED",
    "working": "TASK_STATE_WORKING",
    "input_required": "TASK_STATE_INPUT_REQUIRED",
    "completed": "TASK_STATE_COMPLETED",
    "failed": "TASK_STATE_FAILED",
    "canceled": "TASK_STATE_CANCELED",
}


@dataclass(frozen=True, slots=True)
class TaskIds:
    """How a task and its context are called."""

    task_id: str
    context_id: str

    @classmethod
    def of(cls, run: ChainRun) -> "TaskIds":
        """The ids of a run's task. A context has the client's own name, if it gave it one."""
        mark = _marks(run)
        return cls(str(run.chain_id), str(mark.get("context_id") or run.thread_id))

    @property
    def fields(self) -> Fields:
        return {"taskId": self.task_id, "contextId": self.context_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """The parts of a task that a caller requests."""

    history_length: int | None = None
    """The most messages of the history. None: all."""
    artifacts: bool = True


def task_fields(chain: Sequence[ChainRun], parts: Sequence[Part], view: TaskView) -> Fields:
    """The task of a chain, whose runs are given from the oldest to the newest, and of the parts of its artifact."""
    newest = chain[-1]
    ids = TaskIds.of(newest)
    task: Fields = {"id": ids.task_id, "contextId": ids.context_id, "status": status_fields(newest)}
    if view.artifacts and parts:
        task["artifacts"] = [{"artifactId": ARTIFACT_ID, "parts": list(parts)}]
    history = history_of(chain)
    if view.history_length is not None:
        # `history[-0:]` would be the whole history.
        history = history[-view.history_length :] if view.history_length else []
    return task | ({"history": history} if history else {})


def status_fields(run: ChainRun) -> Fields:
    """The status of a task whose newest run this is."""
    status: Fields = {"state": STATES[run.state], "timestamp": timestamp(run.updated_at)}
    if message := _status_message(run):
        status["message"] = message
    return status


def status_update(run: ChainRun) -> Fields:
    """Return the event with the status of a task."""
    return {"statusUpdate": {**TaskIds.of(run).fields, "status": status_fields(run)}}


def artifact_update(ids: TaskIds, parts: Sequence[Part], *, append: bool, last: bool = False) -> Fields:
    """Return the event that appends parts to the artifact, or replaces it."""
    artifact = {"artifactId": ARTIFACT_ID, "parts": list(parts)}
    update: Fields = {**ids.fields, "artifact": artifact, "append": append}
    return {"artifactUpdate": {**update, "lastChunk": True} if last else update}


def timestamp(time: datetime) -> str:
    """A time as ProtoJSON has it, in milliseconds."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def has_ended(run: ChainRun) -> bool:
    """Whether the task of the newest run takes no more messages."""
    return run.state in ENDED


def open_questions(run: ChainRun) -> list[Question]:
    """The questions of a task that waits for input."""
    return questions_of(interrupts_of(run))


def question_parts(questions: Sequence[Question]) -> list[Part]:
    """Questions as parts: the text of each and, unless that is all, its value as data.

    Of several questions the data has the ids, so that each can get its own answer.
    """
    parts: list[Part] = []
    for question in questions:
        parts.append({"text": question_text(question)})
        if len(questions) > 1:
            parts.append({"data": {"interrupt_id": question.interrupt_id, "value": question.value}})
        elif not isinstance(question.value, str):
            parts.append({"data": question.value})
    # A graph that stops before or after a node (`interrupt_before`) asks no question.
    return parts or [{"text": "The agent waits for a message to go on."}]


def history_of(chain: Sequence[ChainRun]) -> list[Fields]:
    """The messages of a task: the client's messages and the questions that were answered."""
    history: list[Fields] = []
    for run in chain:
        kwargs: dict[str, Any] = run.kwargs.load()
        stored, ids = _stored(kwargs), TaskIds.of(run)
        if isinstance(question := stored.get("question"), list):
            # The id is that of the message in the status that asked, so a client does not show the question twice.
            history.append(agent_message(f"{stored.get('answers')}-status", cast("list[Part]", question), ids))
        if isinstance(message := stored.get("message"), dict):
            history.append(_user_message(_input_content(kwargs), cast("Fields", message), ids))
    return history


def agent_message(message_id: str, parts: Sequence[Part], ids: TaskIds) -> Fields:
    """A message of the agent."""
    return {"messageId": message_id, **ids.fields, "role": "ROLE_AGENT", "parts": list(parts)}


def _user_message(content: Sequence[dict[str, Any]], message: Fields, ids: TaskIds) -> Fields:
    """A message of the client, with the bytes of its files from the content of the run's input."""
    parts: list[Part] = []
    for index, part in enumerate(cast("list[Part]", message.get("parts") or [])):
        if part.keys() & {"text", "url", "data", "raw"}:
            parts.append(part)
        else:
            # The bytes were stored once, in the run's input. Its blocks are in the order of the parts.
            block = content[index] if index < len(content) else {}
            parts.append({"raw": block.get("base64", ""), **part})
    # A stored role replaces this one. It exists only if the client called itself the agent.
    return {"role": "ROLE_USER", **message, **ids.fields, "parts": parts}


def _input_content(kwargs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The blocks of the message that is the input of a run."""
    messages = messages_of(kwargs.get("input"))
    content: object = messages[0].get("content") if messages else None
    return cast("list[dict[str, Any]]", content) if isinstance(content, list) else []


def _stored(kwargs: Mapping[str, Any]) -> Fields:
    """Return A2A's values in the run's `configurable`."""
    config: dict[str, Any] = kwargs.get("config") or {}
    configurable: dict[str, Any] = config.get("configurable") or {}
    stored: object = configurable.get(KEY)
    return cast("Fields", stored) if isinstance(stored, dict) else {}


def _marks(run: ChainRun) -> Fields:
    mark: object = run.metadata.load().get(KEY)
    return cast("Fields", mark) if isinstance(mark, dict) else {}


def _status_message(run: ChainRun) -> Fields | None:
    """Return the message of the status: the question, or the reason of a failure."""
    if run.state == "input_required":
        parts = question_parts(open_questions(run))
    elif run.state == "failed":
        error: Any = (run.error.load() if run.error else None) or {}
        reason = ": ".join(str(error[name]) for name in ("error", "message") if error.get(name)) or "The run failed."
        request = f" (request {error['request_id']})" if error.get("request_id") else ""
        parts = [{"text": f"{reason}{request}"}]
    else:
        return None
    return agent_message(f"{run.run_id}-status", parts, TaskIds.of(run))


async def recorded_events(
    pool: Pool, filters: Filters, run: ChainRun, until: int | None = None
) -> AsyncGenerator[RunEvent]:
    """Yield the recorded events of a run, up to the position `until`."""
    position = 0
    while True:
        # A connection for each page: the reader may be slow, and must not hold one.
        async with pool.shielded(filters) as conn:
            page = await run_events.read(conn, run.run_id, position)
        for event in page:
            position = event.position
            if until is not None and position > until:
                return
            yield event
        if len(page) < PAGE_SIZE:
            return


async def spoken_parts(pool: Pool, filters: Filters, run: ChainRun) -> tuple[list[Part], int]:
    """Return the output of a run in its recorded events, and the position of the last event. 0: there are none."""
    reader, position = ArtifactReader(), 0
    async with aclosing(recorded_events(pool, filters, run)) as events:
        async for event in events:
            position = event.position
            await reader.read_apart(event.event, event.data.encode())
    return reader.parts, position


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReader:
    """Reads tasks with the filters that the caller was given."""

    chains: ChainReader

    async def task(self, chain_id: UUID, view: TaskView) -> Fields | None:
        """Return the present task, or None if the caller has no such task."""
        chain = await self.chains.runs(chain_id)
        return await self.task_of(chain, view) if chain else None

    async def task_of(self, chain: Sequence[ChainRun], view: TaskView) -> Fields:
        """The task of a chain's runs."""
        return task_fields(chain, await self.parts(chain) if view.artifacts else (), view)

    async def parts(self, chain: Sequence[ChainRun]) -> list[Part]:
        """The parts of the artifact: of the newest run that has said something."""
        for run in reversed(chain):
            if parts := await self.parts_of_run(run):
                return parts
        return []

    async def parts_of_run(self, run: ChainRun) -> list[Part]:
        """Return the output of a run so far."""
        if not answers_with_messages(run):
            return [{"data": await self._output(run)}] if run.state == "completed" else []
        parts, position = await spoken_parts(self.chains.call.state.pool, self.chains.filters, run)
        if position or not has_ended(run):
            return parts
        return last_message_parts(messages_of(await self._output(run)))  # its events were deleted

    async def _output(self, run: ChainRun) -> Any:
        """Return the output of a finished run. None if its state was deleted or is too large."""
        filters, pool = self.chains.filters, self.chains.call.state.pool
        async with pool.shielded(filters) as conn:
            end = await thread_runs.run_end(conn, filters, run.thread_id, run.run_id)
            stored = await runs.get_result(conn, filters, run.thread_id, run.run_id)
        if end is None or stored is None:
            return None
        # The thread's values are this run's output only until a later run changes them.
        if end.newest:
            return await json.loads_apart(stored.values.raw) if stored.values else None
        return await self._output_at_checkpoint(run)

    async def _output_at_checkpoint(self, run: ChainRun) -> Any:
        """The output of a run after which others have changed the thread."""
        reader = ThreadReader(call=self.chains.call, filters=self.chains.filters)
        thread = await reader.thread(run.thread_id)
        checkpoint_id = thread and await reader.newest_with(thread, {"run_id": str(run.run_id)})
        if thread is None or checkpoint_id is None:
            return None
        try:
            state = await reader.state_at(thread, checkpoint_id)
        # A task without its artifact is still a task. An error would hide its state.
        except (AnswerTooLarge, CheckpointUnreadable, StateInvalid):
            return None
        return output_of(state["values"], json.loads(run.output_keys.raw) if run.output_keys else None)


def answers_with_messages(run: ChainRun) -> bool:
    """Whether the answer of a run is a message, and not its output."""
    return _marks(run).get("output") != DATA_OUTPUT
