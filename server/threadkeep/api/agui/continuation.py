"""Continuation: how a request of a page continues a thread.

Pages send all messages each time. Messages that the thread has no id of are new. If the last one is the user's and the thread
has it, the answer is made anew from the checkpoint before it. If the graph waits for answers, `resume` must have all of them.
"""

import hashlib
import json as stdlib_json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast
from uuid import UUID

from threadkeep.api.agents.assistants import resolve_agent
from threadkeep.api.agents.content import fields_of, messages_of
from threadkeep.api.agents.marks import marks_of
from threadkeep.api.agents.message_graphs import MESSAGES
from threadkeep.api.agents.questions import Question, answer_key, questions_of
from threadkeep.api.agents.thread_reader import ThreadReader
from threadkeep.api.agui.errors import RunRefused
from threadkeep.api.agui.messages import Message, message_ids
from threadkeep.api.agui.run_input import RunInput
from threadkeep.base import json
from threadkeep.runs.request import Command
from threadkeep.runs.service import Authorized
from threadkeep.tables.runs import Run
from threadkeep.tables.thread_runs import WaitingThread
from threadkeep.tables.threads import Thread
from threadkeep.threads import history
from threadkeep.threads.history import HistoryRequest, State

PAGE: Final = 20
"""Checkpoints that are read at once."""
RESUME_MARK: Final = "resume"
"""The mark of a run that has the digest of its answers."""


class SameRun(Exception):
    """An earlier request with the same answers has made the run."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A thread at which a request arrives."""

    reader: ThreadReader
    thread_id: UUID
    thread: Thread | None
    """None: the thread does not exist yet."""
    input_keys: frozenset[str]
    values: Mapping[str, Any]
    """The state of the thread."""

    @property
    def questions(self) -> list[Question]:
        """The questions that the graph waits for."""
        return questions_of(self.thread.interrupts.load()) if self.thread is not None else []


async def continued(reader: ThreadReader, sent: RunInput, authorized: Authorized, thread: Thread | None) -> Authorized:
    """Wait until the thread has no active run, and return the run's request with the input for the thread's state.

    Raise NotFound if the caller has no such agent, RunRefused if the thread can't be continued by this request, and SameRun if the same request has continued it before.
    """
    call, request = reader.call, authorized.request
    assistant = await resolve_agent(call, authorized.assistants, request.assistant)
    thread_id = cast("UUID", request.thread_id)
    if sent.is_answer:
        # Before `settled`, which would wait for the end of the very run that this request has started before.
        await _refuse_repetition(reader, thread_id, sent)
    if thread is not None and thread.status == "busy":
        # The state of a busy thread changes until its run ends, so nothing can be compared with it yet.
        thread = await reader.settled(thread_id)
    values = await json.loads_apart(thread.values.raw) if thread is not None and thread.values else None
    place = _Place(
        reader=reader,
        thread_id=thread_id,
        thread=thread,
        values=fields_of(values),
        input_keys=await call.state.message_graphs.input_keys(assistant.graph_id),
    )
    if sent.is_answer:
        return await _answered(place, sent, authorized)
    if place.questions:
        raise RunRefused("the graph waits for answers: send them in `resume`", "interrupted")
    spec = request.spec
    changes = await _input(place, sent, fields_of(spec.input))
    return replace(authorized, request=replace(request, spec=spec.model_copy(update=changes)))


async def _input(place: _Place, sent: RunInput, graph_input: Mapping[str, Any]) -> dict[str, Any]:
    """The input of the run, and the checkpoint that it starts from.

    `graph_input` has the state and the messages of the request, as handlers of a project's own `Auth` left them.
    """
    state = _changed_keys(place, sent, graph_input)
    if MESSAGES not in place.input_keys:
        return {"input": state}
    messages = messages_of(graph_input)
    known_ids = set(message_ids(messages_of(place.values)))
    # Known messages are not sent to the graph again, because their reducer would replace the thread's by the page's.
    new = [message for message in messages if message.get("id") not in known_ids]
    last = messages[-1] if messages else None
    if last is None or last.get("role") != "user" or last.get("id") not in known_ids or place.thread is None:
        return {"input": {**state, MESSAGES: new}}
    checkpoint_id = await _checkpoint_before(place.reader, place.thread, last["id"])
    # Usually `new` is empty here. The last message is sent again, because that checkpoint does not have it.
    return {"input": {**state, MESSAGES: [*new, last]}, "checkpoint_id": checkpoint_id}


def _changed_keys(place: _Place, sent: RunInput, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the client's state that belong in the graph's input. Unchanged keys are left out, because a reducer would apply them again."""
    client_state = {**state, **sent.special_keys}
    known = place.values
    return {
        key: value
        for key, value in client_state.items()
        if key in place.input_keys and key != MESSAGES and not (key in known and known[key] == value)
    }


async def _answered(place: _Place, sent: RunInput, authorized: Authorized) -> Authorized:
    """The request that resumes the graph with the answers. Two requests for the same questions make one run."""
    request, waiting = authorized.request, await place.reader.waiting(place.thread_id)
    run_id = waiting.run_id if waiting is not None else None
    newest = await place.reader.run(place.thread_id, run_id) if run_id is not None else None
    answers = _all_answers(waiting, sent, newest)
    known_ids = set(message_ids(messages_of(place.values)))
    # LangGraph takes a resume or an input. A new message would be lost without this error.
    if any(message["role"] == "user" and message["id"] not in known_ids for message in sent.messages):
        raise RunRefused("a request can't contain both answers and a new message", "interrupted")
    update = _changed_keys(place, sent, fields_of(sent.state))
    command = Command(resume=answers, update=update or None)
    # The run that asked names the question. An answer over another surface has the same key.
    key = answer_key(run_id or place.thread_id, answers_digest(sent))
    spec = request.spec.model_copy(update={"input": None, "command": command})
    return replace(authorized, request=replace(request, spec=spec, key=key))


def _all_answers(waiting: WaitingThread | None, sent: RunInput, newest: Run | None) -> Any:
    """Return the value that resumes the graph. Raise RunRefused if an answer is missing or has no question."""
    is_waiting = waiting is not None and waiting.status == "interrupted"
    questions = questions_of(waiting.interrupts.load()) if waiting is not None and is_waiting else []
    open_ids = {question.interrupt_id for question in questions}
    answers = sent.answers
    if answers is None:
        older = sent.older_answer
        if not open_ids and is_waiting:
            return older  # it stopped before or after a node, which asks nothing
        answers = fields_of(older)
        # An older client sends the bare answer, which may itself be an object.
        if len(open_ids) == 1 and answers.keys() != open_ids:
            return {next(iter(open_ids)): older}
    if answers.keys() == open_ids and open_ids:
        return dict(answers)
    # A page that has lost its connection sends its answers again. The newest run is the one that they started.
    if newest is not None and _digest_of(newest) == answers_digest(sent).hex():
        raise SameRun(newest)
    if unknown := next((each for each in answers if each not in open_ids), None):
        raise RunRefused(f"the thread does not wait for an answer to {unknown!r}", "unknown_interrupt")
    if not open_ids:
        raise RunRefused("the thread does not wait for an answer", "unknown_interrupt")
    missing = next(each for each in open_ids if each not in answers)
    raise RunRefused(f"the answer to {missing!r} is missing", "missing_answer")


async def _refuse_repetition(reader: ThreadReader, thread_id: UUID, sent: RunInput) -> None:
    """Raise SameRun if the active run has these answers, so that the request does not wait for its end."""
    newest = await reader.newest_run(thread_id)
    # An ended run with these answers is no repetition if the graph asks the same question again.
    is_active = newest is not None and newest.status in {"pending", "running"}
    if newest is not None and is_active and _digest_of(newest) == answers_digest(sent).hex():
        raise SameRun(newest)


def answers_digest(sent: RunInput) -> bytes:
    """The digest of the answers of a request."""
    answers = sent.older_answer if sent.answers is None else dict(sent.answers)
    return hashlib.sha256(stdlib_json.dumps(answers, sort_keys=True).encode()).digest()  # integers may have any size


def _digest_of(run: Run) -> str | None:
    """The digest of the answers that a run was started with."""
    return (marks_of(run.metadata.load(), "ag-ui") or {}).get(RESUME_MARK)


async def _checkpoint_before(reader: ThreadReader, thread: Thread, message_id: str) -> str | None:
    """The newest checkpoint whose state does not have the message. None if each one has it."""

    def render(state: State) -> dict[str, object]:
        messages: Sequence[Any] = fields_of(state["values"]).get(MESSAGES) or ()
        return {
            "id": state["checkpoint_id"],
            "parent": state["parent_checkpoint_id"],
            "source": cast("Mapping[str, Any]", state["metadata"] or {}).get("source"),
            # Only this much of each state is kept, because a page of states may be large.
            "has": message_id in [_id_of(message) for message in messages],
        }

    before: str | None = None
    while True:
        request = HistoryRequest(limit=PAGE, before=before)
        page = await history.page(reader.call.state.threads, reader.tenant, thread, request, render)
        states = [json.loads(state) for state in page.states]
        if without := next((state for state in states if not state["has"]), None):
            # An input is put on a checkpoint of its own, on which the state is still that of the one before.
            return (without["parent"] if without["source"] == "input" else None) or without["id"]
        if not states:
            return None
        before = states[-1]["id"]


def _id_of(message: Any) -> str | None:
    return cast("Message", message).get("id") if isinstance(message, dict) else getattr(message, "id", None)
