"""Questions: interrupts of a graph as text that any client can show, and a client's message as the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from threadkeep.api.openai.errors import InvalidParameter
from threadkeep.api.openai.message_input import Message, text_of

QUESTION_TOOL: Final = "langgraph_interrupt"
"""A client that declares a function of this name gets each question as a call of it."""
TEXT_KEYS: Final = ("question", "message", "prompt", "text")
"""Keys of a value that hold the question, the first one first."""
APPROVALS: Final = ("approve", "yes", "ok")


@dataclass(frozen=True, slots=True)
class Question:
    """An interrupt that waits for an answer."""

    interrupt_id: str
    value: Any


def call_id_of(question: Question) -> str:
    """The id of the call that a question is to a client with the question tool."""
    return f"call_{question.interrupt_id}"


def questions_of(interrupts: object) -> list[Question]:
    """The questions of a thread's row, where they are by task, or of a state, where they are a list."""
    found = cast("Mapping[str, list[Any]]", interrupts).values() if isinstance(interrupts, Mapping) else [interrupts]
    listed = [each for several in found for each in cast("list[dict[str, Any]]", several or [])]
    return [Question(each["id"], each.get("value")) for each in listed]


def question_text(question: Question) -> str:
    """A question as text."""
    value = question.value
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        asked = cast("dict[str, Any]", value)
        if actions := _actions(asked):
            return "\n".join(["Approve these actions?", *(_action_text(action) for action in actions)])
        for key in TEXT_KEYS:
            if isinstance(asked.get(key), str):
                return asked[key]
    return orjson.dumps(value).decode()


def answers_to(questions: Sequence[Question], messages: Sequence[Message]) -> dict[str, Any]:
    """Interrupt id -> answer, of the messages that a client sent after its last one of the assistant.

    InvalidParameter if tool messages answer what is not asked, or not all that is asked.
    """
    given = {message["tool_call_id"]: message for message in messages if message["role"] == "tool"}
    if given:
        return _tool_answers(questions, given)
    texts = [text_of(message["content"]) for message in messages if message["role"] == "user"]
    if not texts:
        raise InvalidParameter("the last message must be the user's: the graph waits for an answer", param="messages")
    return {question.interrupt_id: _text_answer(question, texts[-1]) for question in questions}


def resume_value(questions: Sequence[Question], answers: Mapping[str, Any]) -> Any:
    """What the graph is resumed with: the bare answer to the only question, else interrupt id -> answer."""
    return answers[questions[0].interrupt_id] if len(questions) == 1 else dict(answers)


def _tool_answers(questions: Sequence[Question], given: Mapping[str, Message]) -> dict[str, Any]:
    asked = {call_id_of(question): question for question in questions}
    if unknown := next((call_id for call_id in given if call_id not in asked), None):
        raise InvalidParameter(f"the thread does not wait for an answer to {unknown!r}", param="tool_call_id")
    if missing := next((call_id for call_id in asked if call_id not in given), None):
        raise InvalidParameter(f"the answer to {missing!r} is missing", param="tool_call_id")
    return {asked[call_id].interrupt_id: _parsed(text_of(message["content"])) for call_id, message in given.items()}


def _text_answer(question: Question, text: str) -> Any:
    """A text as the answer: what it is as JSON, else itself; a decision on each action if these are to be approved."""
    asked = cast("dict[str, Any]", question.value) if isinstance(question.value, dict) else {}
    actions = _actions(asked)
    answer = _parsed(text)
    if not actions or "decisions" in (cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}):
        return cast("Any", answer)
    if text.strip().lower().startswith(APPROVALS):
        return {"decisions": [{"type": "approve"} for _ in actions]}
    return {"decisions": [{"type": "reject", "message": text} for _ in actions]}


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _actions(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The actions of LangChain's middleware for a human in the loop."""
    actions: object = asked.get("action_requests")
    return cast("list[dict[str, Any]]", actions) if isinstance(actions, list) else []


def _action_text(action: Mapping[str, Any]) -> str:
    arguments = action.get("args", action.get("arguments", {}))
    described = action.get("description")
    line = f"- {action.get('name', action.get('action', ''))}({orjson.dumps(arguments).decode()})"
    return f"{line}: {described}" if isinstance(described, str) else line
