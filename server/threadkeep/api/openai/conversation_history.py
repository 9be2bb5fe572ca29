"""Conversation history: how the messages of a request continue a thread.

If the thread owns the history, the messages after the last one of the assistant are appended. If the client owns it, it sends
the whole conversation each time, and may have changed it. Then its user's texts are compared with the texts that led to the
checkpoints of the thread (docs/decisions/0024-client-histories.md).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import orjson

from threadkeep.api.agents.content import messages_of, text_of
from threadkeep.api.agents.questions import Question, questions_of
from threadkeep.api.agents.thread_reader import ThreadReader
from threadkeep.api.openai.message_input import Message
from threadkeep.api.openai.thread_names import NamedThread
from threadkeep.tables.threads import Thread

DIGEST_KEY: Final = "openai_history"
"""The key of `configurable`, and so of the metadata of a run's checkpoints, that has the digest of the client's user texts."""

Outcome: TypeAlias = Literal["imported", "appended", "forked", "restarted", "aside"]
"""The use of the client's history, as `x-threadkeep-history` reports it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentMessages:
    """The messages of a request, without those of the system."""

    before: Sequence[Message]
    """Up to the last message of the assistant."""
    new: Sequence[Message]
    """After it."""

    @property
    def all(self) -> list[Message]:
        return [*self.before, *self.new]

    @property
    def digest(self) -> str:
        """The digest of all texts of the user."""
        return digest_of(user_texts(self.all))


def split_messages(messages: Sequence[Message]) -> SentMessages:
    """Split the messages after the last one of the assistant. System messages are left out."""
    spoken = [message for message in messages if message["role"] != "system"]
    end = max((index + 1 for index, message in enumerate(spoken) if message["role"] == "assistant"), default=0)
    return SentMessages(before=spoken[:end], new=spoken[end:])


def user_texts(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the texts of the user, from the messages of a request or of a state."""
    return [text_of(message.get("content")) for message in messages if _is_user(message)]


def digest_of(texts: Sequence[str]) -> str:
    """Return a digest of texts."""
    return hashlib.sha256(orjson.dumps(texts)).hexdigest()


def _is_user(message: Mapping[str, Any]) -> bool:
    return message.get("role") == "user" or message.get("type") == "human"


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """How a request continues a thread."""

    outcome: Outcome
    messages: Sequence[Message]
    """The messages that the thread does not have yet."""
    checkpoint_id: str | None = None
    """The checkpoint to start from. None: the newest one."""
    questions: Sequence[Question] = ()
    """The questions at this checkpoint. The messages are the answer."""
    answered_thread: Thread | None = None
    """The thread, if the questions of this checkpoint have an answer already."""
    held: Sequence[Mapping[str, Any]] = ()
    """The messages that the thread has there, as JSON."""


async def continue_thread(reader: ThreadReader, named: NamedThread, sent: SentMessages) -> Continuation:
    """Decide how the messages continue the thread that a request names."""
    # The client may send the next message before the last run has ended.
    thread = await reader.settled(named.thread_id)
    thread_messages = messages_of(thread.values.load()) if thread is not None and thread.values else []
    if thread is None or not thread_messages:
        return Continuation(outcome="imported", messages=sent.all)
    questions = questions_of(thread.interrupts.load())
    appended = Continuation(outcome="appended", messages=sent.new, questions=questions, held=thread_messages)
    if named.owner == "thread":
        return appended
    return await _reconcile(reader, thread, sent, appended)


async def _reconcile(reader: ThreadReader, thread: Thread, sent: SentMessages, appended: Continuation) -> Continuation:
    """Decide by the texts of the user how the conversation of a client continues the thread."""
    # Texts of the assistant are not compared, because chat interfaces cut reasoning out of them.
    client_texts, thread_texts = user_texts(sent.before), user_texts(appended.held)
    newest = await reader.newest_mark(thread, DIGEST_KEY)
    # Runs of other APIs leave no digest, so there the texts themselves are compared.
    if newest == digest_of(client_texts) or (newest is None and thread_texts == client_texts):
        return appended
    if not client_texts:
        # The user asks the first question again.
        if thread_texts[:1] == user_texts(sent.new)[:1]:
            return await _from_the_start(reader, thread, sent, "restarted")
        # A prompt of the interface, for example for a title. It is no part of the conversation.
        return Continuation(outcome="aside", messages=sent.all)
    if older := await reader.newest_with(thread, {DIGEST_KEY: digest_of(client_texts)}):
        return await fork(reader, thread, older, sent.new)
    # The client has cut old messages away.
    if client_texts == thread_texts[-len(client_texts) :]:
        return appended
    return await _from_the_start(reader, thread, sent, "imported")


async def fork(reader: ThreadReader, thread: Thread, checkpoint_id: str, messages: Sequence[Message]) -> Continuation:
    """Continue with the messages from a checkpoint. Its questions may have an answer already."""
    state = await reader.state_at(thread, checkpoint_id)
    return Continuation(
        outcome="forked",
        messages=messages,
        checkpoint_id=checkpoint_id,
        questions=questions_of(state["interrupts"]),
        answered_thread=thread,
        held=messages_of(state["values"]),
    )


async def _from_the_start(reader: ThreadReader, thread: Thread, sent: SentMessages, outcome: Outcome) -> Continuation:
    """Continue with all messages from the first checkpoint. Its own messages are removed."""
    first = await reader.first(thread)
    first_messages = messages_of((await reader.state_at(thread, first))["values"])
    # The id with which LangGraph removes all messages.
    removal = [{"role": "remove", "content": "", "id": "__remove_all__"}] if first_messages else []
    return Continuation(outcome=outcome, messages=[*removal, *sent.all], checkpoint_id=first)
