"""Request settings: the fields of a request that a graph may want, and those that are refused.

A graph finds them in `config.configurable.openai`. Nothing is forced on it.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict, model_validator

from threadkeep.api.openai.errors import InvalidParameter

MAX_PAIRS: Final = 16
MAX_KEY: Final = 64
MAX_VALUE: Final = 512
"""Of `metadata`: pairs, and characters."""


class SettingsBody(BaseModel):
    """The fields that both APIs have. A null is the same as an absent field, and other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str
    stream: bool | None = None
    store: bool | None = None
    """Chat Completions: no effect."""
    metadata: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None
    service_tier: str | None = None
    """No effect."""
    prompt_cache_key: str | None = None
    """No effect."""
    safety_identifier: str | None = None
    """No effect."""

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, body: object) -> object:
        if not isinstance(body, dict):
            return body
        return {key: value for key, value in cast("dict[str, object]", body).items() if value is not None}

    def settings(self, *without: str) -> dict[str, Any]:
        """Return the fields that were sent, except those in `without`."""
        return self.model_dump(exclude_none=True, exclude={"model", "stream", *without})


def check_metadata(metadata: Mapping[str, Any] | None) -> None:
    """Raise InvalidParameter if `metadata` has another size or other types than OpenAI allows."""
    if metadata is None:
        return
    if len(metadata) > MAX_PAIRS:
        raise InvalidParameter(f"must have at most {MAX_PAIRS} pairs", param="metadata")
    for key, value in metadata.items():
        if len(key) > MAX_KEY:
            raise InvalidParameter(f"keys must have at most {MAX_KEY} characters", param="metadata")
        if not isinstance(value, str):
            raise InvalidParameter("must be a string", param=f"metadata.{key}", code="invalid_type")
        if len(value) > MAX_VALUE:
            raise InvalidParameter(f"must have at most {MAX_VALUE} characters", param=f"metadata.{key}")


def chat_tools(tools: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the tools in the form of Chat Completions. Raise InvalidParameter for tools that OpenAI executes."""
    return [_chat_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools or [])]


def _chat_tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        text = f"tools of type {str(tool.get('type'))[:100]!r} are not supported: only functions are"
        raise InvalidParameter(text, param=f"{where}.type", code="unsupported_value")
    # In the Responses API, the tool itself has the fields of the function.
    function: object = tool.get("function", tool)
    if not isinstance(function, dict):
        raise InvalidParameter("must be an object", param=f"{where}.function", code="invalid_type")
    described = cast("dict[str, Any]", function)
    if not isinstance(described.get("name"), str) or not described["name"]:
        raise InvalidParameter("is required", param=f"{where}.name", code="missing_required_parameter")
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {key: described[key] for key in names if described.get(key) is not None}}


def tool_names(tools: list[dict[str, Any]]) -> frozenset[str]:
    """Return the names of tools in the form of Chat Completions."""
    return frozenset(tool["function"]["name"] for tool in tools)


def refuse(condition: object, param: str, reason: str) -> None:
    """Raise InvalidParameter with the reason if `condition` holds."""
    if condition:
        raise InvalidParameter(reason, param=param, code="unsupported_parameter")
