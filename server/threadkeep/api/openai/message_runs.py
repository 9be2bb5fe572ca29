"""Message runs: a run that continues a thread with messages, or answers the question at which the graph waits."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from langgraph.types import Interrupt

from threadkeep.api.agents.questions import resume_value
from threadkeep.api.agents.thread_reader import ThreadReader
from threadkeep.api.openai.answer import MODES
from threadkeep.api.openai.conversation_history import Continuation
from threadkeep.api.openai.message_input import Message
from threadkeep.api.openai.models import resolve_model, streams_subgraphs
from threadkeep.api.openai.question_calls import answers_to
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.runs.request import Command, GraphRunOptions
from threadkeep.runs.service import Authorized, Prepare
from threadkeep.tables.threads import Thread
from threadkeep.threads import updates
from threadkeep.threads.history import CheckpointRef
from threadkeep.threads.updates import ThreadStateUpdate, ThreadUpdate

SYSTEM_ID: Final = "openai-system"
"""The id of the system's message on a thread: a newer text takes the place of an older one."""
INSTRUCTIONS_ID: Final = "openai-instructions"
"""The id of the system message with the `instructions` of a response. They apply only to this response."""
SYSTEM_IDS: Final = (SYSTEM_ID, INSTRUCTIONS_ID)
COPY_NODE: Final = "__copy__"
"""LangGraph's name for an update that copies a checkpoint."""

Continue = Callable[[Authorized], Awaitable[Continuation]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadInput:
    """The values that a request sends to a thread in addition to its messages."""

    system: str | None = None
    """The text of the system's messages. None: none was sent."""
    instructions: str | None = None
    """The instructions of a response. None: those of an earlier response hold no more."""
    has_instructions: bool = False
    """The request is of the Responses API."""


def prepare_run(call: AuthorizedRequest[Any, Any], model: str, sent: ThreadInput, continuation: Continue) -> Prepare:
    """Return the function that completes a run's request with its model, and its input for the state of the thread."""

    async def prepare(authorized: Authorized) -> Authorized:
        assistant = await resolve_model(call, authorized.assistants, model)
        continued = await continuation(authorized)
        request = authorized.request
        if continued.outcome == "aside":
            request = replace(request, thread_id=None, create_thread=False, temporary=True)
        changes: dict[str, Any] = {"stream_mode": list(MODES), "stream_subgraphs": streams_subgraphs(assistant)}
        changes |= await _input(call, authorized, continued, sent)
        if "command" in changes:
            # A retrieval of the response must show the answer as its input.
            request = replace(request, configurable=_with_answer(request.configurable, continued.messages))
        return replace(authorized, request=replace(request, spec=request.spec.model_copy(update=changes)))

    return prepare


async def _input(
    call: AuthorizedRequest[Any, Any], authorized: Authorized, continued: Continuation, sent: ThreadInput
) -> dict[str, Any]:
    """Return the input or the command of the run, and the checkpoint from which it starts."""
    spec = authorized.request.spec
    system = _system_messages(continued.held, sent)
    if not continued.questions:
        # Handlers have seen the input of the request, before the thread showed which messages are new.
        new_messages = _kept_by_handlers(spec, continued.messages)
        return {"input": {"messages": [*system, *new_messages]}, "checkpoint_id": continued.checkpoint_id}
    answers = answers_to(continued.questions, continued.messages)
    resume, checkpoint_id = resume_value(continued.questions, answers), continued.checkpoint_id
    if continued.answered_thread is not None and checkpoint_id is not None:
        # The copy is written, so it needs the permission of the run and not that of reading.
        reader = ThreadReader(call=call, filters=authorized.threads)
        copy = _Copy(reader, continued.answered_thread, checkpoint_id)
        checkpoint_id = await copy.make()
        resume = resume if len(answers) == 1 else await copy.renamed(answers, checkpoint_id)
    # Without any write LangGraph does not look at the answers to several questions of a copy.
    has_update = bool(system) or (continued.answered_thread is not None and len(answers) > 1)
    command = Command(resume=resume, update={"messages": system} if has_update else None)
    return {"input": None, "command": command, "checkpoint_id": checkpoint_id}


def _with_answer(configurable: Mapping[str, Any], messages: Sequence[Message]) -> dict[str, Any]:
    """Return the run's `configurable` with the messages of the answer, because these are not an input of the graph."""
    return {**configurable, "openai": {**configurable["openai"], "answer": list(messages)}}


def _kept_by_handlers(spec: GraphRunOptions, messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the changes that handlers of the project's `Auth` have made."""
    sent = cast("dict[str, list[Message]]", spec.input or {})
    left = {message.get("id"): message for message in sent.get("messages", ())}
    return [left.get(message["id"], message) for message in messages]


def _system_messages(thread_messages: Sequence[Mapping[str, Any]], sent: ThreadInput) -> list[Message]:
    """Return the messages that change the one system message of the thread, as the request asks."""
    known = {message["id"]: message for message in thread_messages if message.get("id") in SYSTEM_IDS}
    text = "\n\n".join(part for part in (sent.instructions, sent.system) if part)
    if not text:
        return [_removal(INSTRUCTIONS_ID)] if INSTRUCTIONS_ID in known and sent.has_instructions else []
    message_id = INSTRUCTIONS_ID if sent.instructions else SYSTEM_ID
    removals = [_removal(other) for other in known if other != message_id]
    if message_id in known and known[message_id].get("content") == text:
        return removals
    return [*removals, {"role": "system", "content": text, "id": message_id}]


def _removal(message_id: str) -> Message:
    return {"role": "remove", "content": "", "id": message_id}


@dataclass(frozen=True, slots=True)
class _Copy:
    """A copy of a checkpoint whose questions have an answer: LangGraph would repeat the answer that it has."""

    reader: ThreadReader
    thread: Thread
    original: str

    async def make(self) -> str:
        """Copy the checkpoint, and return the id of the copy."""
        change = ThreadUpdate(
            checkpoint=CheckpointRef(checkpoint_id=self.original), update=ThreadStateUpdate(as_node=COPY_NODE)
        )
        parts = self.reader.call.state.threads
        config = await updates.update_state(parts, self.reader.tenant, self.thread.thread_id, change)
        return cast("Any", config)["configurable"]["checkpoint_id"]

    async def renamed(self, answers: Mapping[str, Any], copy: str) -> dict[str, Any]:
        """Return the answers by the ids of the same questions in the copy. The ids follow from its tasks."""
        before = (await self.reader.state_at(self.thread, self.original))["tasks"]
        after = (await self.reader.state_at(self.thread, copy))["tasks"]
        return {
            Interrupt.from_ns(None, f"{twin['name']}:{twin['id']}").id: answers[interrupt["id"]]
            # A copy of a checkpoint has the same tasks in the same order.
            for task, twin in zip(before, after, strict=True)
            for interrupt in task["interrupts"]
        }
