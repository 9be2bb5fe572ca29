"""Run input: the body of a request, held to the types of `ag-ui-protocol`.

The library is imported at the first request, so that a server without pages does not pay for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from threadkeep.api.agents.content import fields_of
from threadkeep.api.agents.questions import parsed
from threadkeep.api.agents.thread_ids import MAX_TEXT
from threadkeep.api.agui.messages import LEFT_OUT, Message, graph_message, upgraded
from threadkeep.api.body import validate
from threadkeep.base.problems import ValidationFailed
from threadkeep.runs.request import RunConfig

CANCELLED: Final = {"status": "cancelled"}
"""The answer to a question that the client cancelled."""


class RunBody(BaseModel):
    """The RunAgentInput of AG-UI. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True)

    thread_id: str
    run_id: str
    parent_run_id: str | None = None
    protocol_version: str | None = None
    """No effect."""
    state: Any = None
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    context: list[dict[str, Any]] | None = None
    forwarded_props: Any = None
    """`config` is the config of the run, and `command.resume` answers questions."""
    resume: list[dict[str, Any]] | None = None


class RunQuery(BaseModel):
    """The query of a run."""

    model_config = ConfigDict(extra="ignore")

    on_disconnect: Literal["cancel", "continue"] = "cancel"
    """The action on the run a few seconds after the client has disconnected, unless it reconnects."""


class _Command(BaseModel):
    model_config = ConfigDict(extra="ignore")

    resume: Any = None


class _ForwardedProps(BaseModel):
    """The part of `forwardedProps` that the server heeds."""

    model_config = ConfigDict(extra="ignore")

    config: RunConfig | None = None
    command: _Command | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInput:
    """A request, as this server reads it."""

    thread_id: str
    run_id: str
    parent_run_id: str | None
    messages: list[Message]
    """In the form of a graph's input, without messages that do not belong to a thread."""
    state: Any
    tools: list[dict[str, Any]]
    context: list[dict[str, Any]]
    config: dict[str, Any]
    answers: Mapping[str, Any] | None
    """Interrupt id -> answer. None: the request has no `resume`."""
    older_answer: Any
    """`command.resume` in `forwardedProps`, in which older clients send answers. None: the client sent no answer there."""
    forwarded_props: Any

    @property
    def is_answer(self) -> bool:
        """The request answers questions."""
        return self.answers is not None or self.older_answer is not None

    @property
    def page(self) -> dict[str, Any]:
        """The value of `ag_ui` in `configurable`, for every graph."""
        props = {} if self.forwarded_props is None else {"forwarded_props": self.forwarded_props}
        return {"tools": self.tools, "context": self.context, **props}

    @property
    def special_keys(self) -> dict[str, Any]:
        """The keys of a state that have the tools and the context of the page, where the input of a graph has them."""
        return {
            "ag-ui": {"tools": self.tools, "context": self.context},
            "tools": self.tools,
            "copilotkit": {"actions": self.tools, "context": self.context},
        }


def read_input(body: RunBody) -> RunInput:
    """Read a body. ValidationFailed names the field that AG-UI does not allow."""
    sent = _checked(body)
    for name in ("threadId", "runId"):
        if not 1 <= len(sent[name]) <= MAX_TEXT:
            raise ValidationFailed(f"{name} must have 1 to {MAX_TEXT} characters")
    forwarded = sent.get("forwardedProps")
    props = cast("_ForwardedProps", validate(_ForwardedProps, fields_of(forwarded)))
    return RunInput(
        thread_id=sent["threadId"],
        run_id=sent["runId"],
        parent_run_id=sent.get("parentRunId"),
        messages=[graph_message(message) for message in sent["messages"] if message["role"] not in LEFT_OUT],
        state=sent.get("state"),
        tools=sent.get("tools") or [],
        context=sent.get("context") or [],
        config=props.config or {},
        answers=_answers(sent.get("resume")),
        older_answer=_older_answer(props),
        forwarded_props=forwarded,
    )


def _older_answer(props: _ForwardedProps) -> Any:
    """The answer of an older client, which `@ag-ui/langgraph` reads as JSON if it is a text of JSON."""
    answer: Any = props.command and props.command.resume
    return parsed(answer) if isinstance(answer, str) else answer


def _checked(body: RunBody) -> dict[str, Any]:
    """The body with the names of the protocol."""
    from ag_ui.core.types import RunAgentInput  # noqa: PLC0415 - at the first request

    sent = body.model_dump(by_alias=True, exclude_none=True)
    # Before the check, because the types of 1.0 refuse `binary`.
    sent["messages"] = [upgraded(message) for message in sent["messages"]]
    return validate(RunAgentInput, sent).model_dump(by_alias=True)


def _answers(resume: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    if not resume:
        return None
    answers = {
        entry["interruptId"]: entry.get("payload") if entry["status"] == "resolved" else dict(CANCELLED)
        for entry in resume
    }
    # The dict has dropped one of two answers with the same id. Neither may win silently.
    if len(answers) < len(resume):
        raise ValidationFailed("`resume` answers an interrupt twice")
    return answers
