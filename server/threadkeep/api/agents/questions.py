"""Questions: interrupts of a graph as text and schema that any client can show, and answers to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

from threadkeep.api.agents.content import fields_of
from threadkeep.base import json
from threadkeep.tables.idempotency_keys import IdempotencyKey

TEXT_KEYS: Final = ("message", "question", "prompt")
"""Keys of a value that hold the question, the first one first."""
SCHEMA_KEYS: Final = ("requestedSchema", "responseSchema", "response_schema")
"""Keys of a value that hold the JSON schema of an answer, the first one first."""
APPROVALS: Final = ("approve", "yes", "ok")
DECISIONS: Final = "decisions"
"""The key of the answer to LangChain's human in the loop: a list with one decision for each action."""


@dataclass(frozen=True, slots=True)
class Question:
    """An interrupt that waits for an answer."""

    interrupt_id: str
    value: Any


def questions_of(interrupts: object) -> list[Question]:
    """The questions of a thread's row, which has them by task, or of a state, which has a list."""
    # Both forms come here, because an open question is read from a row and a new one from an event.
    groups = cast("Mapping[str, list[Any]]", interrupts).values() if isinstance(interrupts, Mapping) else [interrupts]
    listed = [each for several in groups for each in cast("list[dict[str, Any]]", several or [])]
    return [Question(each["id"], each.get("value")) for each in listed]


def question_text(question: Question, keys: Sequence[str] = TEXT_KEYS) -> str:
    """A question as text: its value if that is text, else the text under one of `keys`, else its JSON."""
    value: object = question.value
    if isinstance(value, str):
        return value
    # Before the keys: the JSON of actions would hide from the user what is to be approved.
    if actions := actions_of(question):
        return "\n".join(["Approve these actions?", *(_action_text(action) for action in actions)])
    fields = fields_of(value)
    texts = (fields[key] for key in keys if isinstance(fields.get(key), str))
    text = next(texts, None)
    return json.dumps(value).decode() if text is None else text


def question_schema(question: Question) -> dict[str, Any] | None:
    """The JSON schema of an answer: the question's own, or that of a decision on each action. None if it has none."""
    if actions := actions_of(question):
        return decisions_schema(len(actions))
    schemas = (fields_of(question.value).get(key) for key in SCHEMA_KEYS)
    return next((cast("dict[str, Any]", schema) for schema in schemas if isinstance(schema, dict)), None)


def decisions_schema(count: int) -> dict[str, Any]:
    """The JSON schema of `{"decisions": [...]}` for a number of actions, as LangChain's middleware reads it."""
    edited = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "args": {"type": "object"}},
        "required": ["name", "args"],
    }
    decision = {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["approve", "edit", "reject", "respond"]},
            "edited_action": edited,
            "message": {"type": "string"},
        },
        "required": ["type"],
    }
    decisions = {"type": "array", "items": decision, "minItems": count, "maxItems": count}
    return {"type": "object", "properties": {DECISIONS: decisions}, "required": [DECISIONS]}


def actions_of(question: Question) -> list[dict[str, Any]]:
    """The actions that LangChain's human-in-the-loop middleware asks about. Empty for another question."""
    actions: object = fields_of(question.value).get("action_requests")
    listed = cast("list[object]", actions) if isinstance(actions, list) else []
    return [cast("dict[str, Any]", action) for action in listed if isinstance(action, dict)]


def text_answer(question: Question, text: str) -> Any:
    """Return the answer in a text: its JSON value, else the text. If actions need approval: a decision on each action."""
    actions = actions_of(question)
    answer = parsed(text)
    if not actions or (isinstance(answer, dict) and DECISIONS in answer):
        return cast("Any", answer)
    # A client with a text field alone can't send a list of decisions. Any other text is the reason of a refusal.
    if text.strip().lower().startswith(APPROVALS):
        return {DECISIONS: [{"type": "approve"} for _ in actions]}
    return {DECISIONS: [{"type": "reject", "message": text} for _ in actions]}


def parsed(text: str) -> Any:
    """Return the JSON value of a text, or the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def resume_value(questions: Sequence[Question], answers: Mapping[str, Any]) -> Any:
    """Return the value that resumes the graph: the answer to the only question, else interrupt id -> answer."""
    # LangGraph takes a bare value only if one interrupt is open.
    return answers[questions[0].interrupt_id] if len(questions) == 1 else dict(answers)


def _action_text(action: Mapping[str, Any]) -> str:
    arguments = action.get("args", action.get("arguments", {}))
    described = action.get("description")
    line = f"- {action.get('name', action.get('action', ''))}({json.dumps(arguments).decode()})"
    return f"{line}: {described}" if isinstance(described, str) else line


def answer_key(run_id: UUID, request_sha256: bytes) -> IdempotencyKey:
    """Lets a question of a run have one answer, by whichever surface, or be canceled. A client's own key has no space."""
    # No principal: two users who share a thread must not both answer the question.
    return IdempotencyKey(principal="", key=f"answer {run_id}", request_sha256=request_sha256)
