"""Elicitation: the questions of a graph as forms of MCP, and the user's answers to them (interrupts, human in the loop).

A form of MCP has only texts, numbers, booleans and choices. A question with such a schema becomes that form, and the graph gets
the whole content. For another schema the form has a text field for JSON, and for any other question a text field. LangChain's human in the loop asks for a decision on each action.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from threadkeep.api.agents.questions import (
    DECISIONS,
    Question,
    actions_of,
    parsed,
    question_schema,
    question_text,
    text_answer,
)
from threadkeep.api.mcp.arguments import first_error
from threadkeep.api.mcp.schemas import JsonSchema
from threadkeep.base import json

ANSWER: Final = "answer"
"""The text field of a form."""
FREE_FORM: Final[JsonSchema] = {
    "type": "object",
    "properties": {ANSWER: {"type": "string", "title": "Answer"}},
    "required": [ANSWER],
}
REFUSALS: Final = frozenset({"decline", "cancel"})
FIELD_TYPES: Final = frozenset({"string", "number", "integer", "boolean"})
DECISION_TYPES: Final = ("approve", "reject")
"""Decisions that need nothing but a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The user's answer to one question."""

    value: Any


class Refused(Exception):
    """The user declined to answer, or closed the form."""


def elicitation(question: Question) -> dict[str, Any]:
    """A question as a request of `elicitation/create`."""
    schema, own = form_schema(question), question_schema(question)
    message = question_text(question)
    if schema is FREE_FORM and own is not None:
        message = f"{message}\nThe answer must be JSON that fits the schema {json.dumps(own).decode()}"
    params = {"mode": "form", "message": message, "requestedSchema": schema}
    return {"method": "elicitation/create", "params": params}


def form_schema(question: Question) -> JsonSchema:
    """The schema of the form that asks a question."""
    if actions := actions_of(question):
        return _decisions_form(len(actions))
    schema = question_schema(question)
    # A client refuses a form with nested fields, so such a question is asked for JSON.
    return schema if schema is not None and _is_form(schema) else FREE_FORM


async def answer_of(question: Question, response: Mapping[str, Any]) -> Answer | None:
    """The answer in a client's response. None if it does not fit the form. Refused if the user did not answer."""
    if response.get("action") in REFUSALS:
        raise Refused
    content: object = response.get("content")
    if response.get("action") != "accept" or not isinstance(content, dict):
        return None
    fields = cast("dict[str, Any]", content)
    if actions := actions_of(question):
        return _decisions(question, len(actions), fields)
    schema = form_schema(question)
    if await first_error(schema, fields) is not None:
        return None
    if schema is not FREE_FORM:
        return Answer(value=fields)
    own = question_schema(question)
    if own is None:
        return Answer(value=fields[ANSWER])
    value = parsed(fields[ANSWER])
    # The form is only a text field here, so the answer still has to fit the question's own schema.
    return Answer(value=value) if await first_error(own, value) is None else None


def _is_form(schema: JsonSchema) -> bool:
    """Whether MCP has a form for a schema: an object of texts, numbers, booleans and choices, without nesting."""
    properties: object = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, dict) or not properties:
        return False
    return all(_is_field(each) for each in cast("dict[str, object]", properties).values())


def _is_field(described: object) -> bool:
    fields = cast("dict[str, Any]", described) if isinstance(described, dict) else {}
    if fields.get("type") == "array":
        items: object = fields.get("items")
        choices = cast("dict[str, Any]", items) if isinstance(items, dict) else {}
        # MCP has lists of choices, but no lists of free values.
        return "enum" in choices or "anyOf" in choices
    return fields.get("type") in FIELD_TYPES


def _decisions_form(count: int) -> JsonSchema:
    properties: JsonSchema = {}
    for number in range(1, count + 1):
        properties[f"decision_{number}"] = {"type": "string", "enum": list(DECISION_TYPES)}
        properties[f"message_{number}"] = {"type": "string", "description": "Why it is rejected."}
    return {"type": "object", "properties": properties, "required": _decision_names(count)}


def _decision_names(count: int) -> list[str]:
    return [f"decision_{number}" for number in range(1, count + 1)]


def _decisions(question: Question, count: int, fields: Mapping[str, Any]) -> Answer | None:
    """The decisions of a form, or of a client that sent them as the graph reads them, or as a text."""
    if isinstance(fields.get(ANSWER), str):
        return Answer(value=text_answer(question, fields[ANSWER]))
    if isinstance(fields.get(DECISIONS), list) and len(fields[DECISIONS]) == count:
        return Answer(value={DECISIONS: fields[DECISIONS]})
    chosen = [fields.get(name) for name in _decision_names(count)]
    if any(each not in DECISION_TYPES for each in chosen):
        return None
    return Answer(value={DECISIONS: [_decision(each, fields.get(f"message_{n}")) for n, each in enumerate(chosen, 1)]})


def _decision(kind: Any, message: object) -> dict[str, Any]:
    return {"type": kind, **({"message": message} if isinstance(message, str) and message else {})}


def requests_of(questions: Sequence[Question]) -> dict[str, Any]:
    """The questions as `inputRequests`."""
    return {question.interrupt_id: elicitation(question) for question in questions}
