"""Response object: the JSON of a response, with every field that strict clients require."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast
from uuid import UUID

from typing_extensions import TypedDict

from threadkeep.api.agents.run_end import RunEnd
from threadkeep.api.openai.answer import AnswerReader, Usage
from threadkeep.api.openai.chat_output import created_at
from threadkeep.api.openai.object_ids import conversation_id, response_id
from threadkeep.tables.runs import Run

API: Final = "responses"
"""The value of `configurable.openai.api` in the run of a response."""
Status: TypeAlias = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
DEFAULTS: Final[Mapping[str, Any]] = {
    "background": False,
    "conversation": None,
    "frequency_penalty": 0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1,
    "truncation": "disabled",
    "user": None,
}
"""The values of fields that the request did not have."""


class ResponseAnswer(TypedDict):
    """A response. Further fields repeat those of the request."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    model: str
    output: list[dict[str, Any]]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    usage: dict[str, Any] | None
    langgraph: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """The fields that all events of a response share."""

    run_id: UUID
    thread_id: UUID | None
    """None: nothing is stored."""
    settings: Mapping[str, Any]
    """The fields of the request, as `configurable.openai` has them."""
    graph_id: str

    @classmethod
    def of_run(cls, run: Run) -> "ResponseHead | None":
        """Return the head of a stored run, or None if the run is not a response."""
        kwargs: dict[str, Any] = run.kwargs.load()
        sent: object = kwargs.get("config", {}).get("configurable", {}).get("openai")
        settings = cast("dict[str, Any]", sent) if isinstance(sent, dict) else {}
        if settings.get("api") != API:
            return None
        graph_id: str = run.metadata.load().get("graph_id", "")
        return cls(run_id=run.run_id, thread_id=run.thread_id, settings=settings, graph_id=graph_id)

    @property
    def is_background(self) -> bool:
        """Whether the response runs in the background, so that its stream can be resumed."""
        return self.settings.get("background") is True

    @property
    def tool_names(self) -> frozenset[str]:
        """The names of the client's tools."""
        return frozenset(tool["function"]["name"] for tool in self.settings.get("tools", ()))

    def fields(self, status: Status, output: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Return the unfinished response."""
        # Strict clients refuse a response that lacks a field.
        repeated = {name: self.settings.get(name, default) for name, default in DEFAULTS.items()}
        if repeated["conversation"] is not None and self.thread_id is not None:
            repeated["conversation"] = {"id": conversation_id(self.thread_id)}
        return {
            "id": response_id(self.run_id),
            "object": "response",
            "created_at": created_at(self.run_id),
            "completed_at": None,
            "status": status,
            "incomplete_details": None,
            "model": self.settings.get("model", self.graph_id),
            "output": list(output),
            "error": None,
            "tools": [_response_tool(tool) for tool in self.settings.get("tools", ())],
            "text": {"format": {"type": "text"}, **self.settings.get("text", {})},
            "reasoning": {"effort": None, "summary": None, **self.settings.get("reasoning", {})},
            "usage": None,
            **repeated,
            "langgraph": {
                "thread_id": str(self.thread_id) if self.thread_id else None,
                "run_id": str(self.run_id),
                "interrupts": [],
            },
        }

    def ended(
        self, end: RunEnd, reader: AnswerReader, output: Sequence[Mapping[str, Any]], ended_at: int
    ) -> dict[str, Any]:
        """Return the response after the end of its run."""
        status = final_status(end, reader)
        fields = self.fields(status, output) | {"usage": usage_fields(reader.usage)}
        fields["langgraph"]["interrupts"] = [
            {"id": each.interrupt_id, "value": each.value} for each in reader.questions
        ]
        if status == "completed":
            # OpenAI leaves it null for all other ends.
            fields["completed_at"] = ended_at
        elif status == "incomplete":
            reason = "max_output_tokens" if reader.limit_reason == "length" else "content_filter"
            fields["incomplete_details"] = {"reason": reason}
        elif status == "failed":
            fields["error"] = error_fields(end.message)
        return fields


def final_status(end: RunEnd, reader: AnswerReader) -> Status:
    """Return the status of a response after the end of its run."""
    if end.status == "interrupted":
        return "cancelled"
    if not end.is_success:
        return "failed"
    return "incomplete" if reader.limit_reason else "completed"


def error_fields(message: str) -> dict[str, Any]:
    """Return the error of a response. Without `type`, the AI SDK would report a malformed response."""
    return {"code": "server_error", "message": message, "type": "server_error", "param": None}


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Return the tokens in the fields of the Responses API."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _response_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool in the form of the Responses API, with all its fields."""
    function: Mapping[str, Any] = tool["function"]
    return {"type": "function"} | {name: function.get(name) for name in ("name", "description", "parameters", "strict")}
