"""Question calls: questions of a graph as calls of a tool, and a client's messages as the answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from threadkeep.api.agents.content import text_of
from threadkeep.api.agents.questions import Question, parsed, text_answer
from threadkeep.api.openai.errors import InvalidParameter
from threadkeep.api.openai.message_input import Message

QUESTION_TOOL: Final = "langgraph_interrupt"
"""A client that declares a function of this name gets each question as a call of it."""
QUESTION_KEYS: Final = ("question", "message", "prompt", "text")
"""Keys of a value that hold the question to a client of the OpenAI API, the first one first."""


def call_id_of(question: Question) -> str:
    """Return the id of the call that a client with the question tool gets for a question."""
    return f"call_{question.interrupt_id}"


def answers_to(questions: Sequence[Question], messages: Sequence[Message]) -> dict[str, Any]:
    """Return interrupt id -> answer, from the messages after the last one of the assistant.

    Raise InvalidParameter if a tool message has no question, or a question has no tool message.
    """
    results_by_call = {message["tool_call_id"]: message for message in messages if message["role"] == "tool"}
    if results_by_call:
        return _tool_answers(questions, results_by_call)
    texts = [text_of(message["content"]) for message in messages if message["role"] == "user"]
    if not texts:
        raise InvalidParameter("the last message must be the user's: the graph waits for an answer", param="messages")
    return {question.interrupt_id: text_answer(question, texts[-1]) for question in questions}


def _tool_answers(questions: Sequence[Question], results_by_call: Mapping[str, Message]) -> dict[str, Any]:
    questions_by_call = {call_id_of(question): question for question in questions}
    # The graph would resume with the other answers, and this one would be lost.
    if unknown := next((call_id for call_id in results_by_call if call_id not in questions_by_call), None):
        raise InvalidParameter(f"the thread does not wait for an answer to {unknown!r}", param="tool_call_id")
    if missing := next((call_id for call_id in questions_by_call if call_id not in results_by_call), None):
        raise InvalidParameter(f"the answer to {missing!r} is missing", param="tool_call_id")
    return {
        questions_by_call[call_id].interrupt_id: parsed(text_of(message["content"]))
        for call_id, message in results_by_call.items()
    }
