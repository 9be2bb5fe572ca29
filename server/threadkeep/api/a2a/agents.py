"""Agents: an assistant as A2A sees it, and the media types that it takes and gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.runs.assistants import ResolvedAssistant

MESSAGE_MODES: Final = ("text/plain", "application/json", "image/*", "audio/*", "video/*", "application/pdf")
"""Media types of a graph that has messages."""
DATA_MODES: Final = ("application/json",)
"""Of any other graph: its input and its output are one part with data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An assistant that is addressed by its id, or by the name of its graph."""

    name: str
    """How the path calls it."""
    assistant: ResolvedAssistant
    takes_messages: bool

    @property
    def input_modes(self) -> Sequence[str]:
        """The media types of parts that it takes."""
        return self._modes("input_modes")

    @property
    def output_modes(self) -> Sequence[str]:
        """The media types of parts that it gives."""
        return self._modes("output_modes")

    def _modes(self, key: str) -> Sequence[str]:
        """The modes in the assistant's `metadata.a2a`, else those of its graph."""
        options: object = self.assistant.metadata.get("a2a")
        modes: object = cast("Mapping[str, Any]", options).get(key) if isinstance(options, Mapping) else None
        if isinstance(modes, list) and modes:
            return [str(mode).lower() for mode in cast("list[object]", modes)]
        return MESSAGE_MODES if self.takes_messages else DATA_MODES


async def agent_of(call: AuthorizedRequest[Any, Any], name: str, assistant: ResolvedAssistant) -> Agent:
    """The agent that an assistant is."""
    takes_messages = await call.state.message_graphs.takes_messages(assistant.graph_id)
    return Agent(name=name, assistant=assistant, takes_messages=takes_messages)


def named_agent(call: AuthorizedRequest[Any, Any]) -> str:
    """The name of the agent in the path. A slash at its end is ignored, because clients that join URLs add one."""
    return str(call.request.path_params["assistant_id"]).removesuffix("/")
