"""Graphs of which the tests of AG-UI get each kind of event: real and small."""

import operator
from typing import Annotated, Any, NotRequired

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

from graphs import Gate
from openai_graphs import OPENAI_GRAPHS, Script, single, words

SCHEMA = {"type": "object", "properties": {"size": {"type": "string"}}, "required": ["size"]}


class Page(MessagesState):
    """A state that a page shows."""

    count: int
    log: Annotated[list[str], operator.add]
    notes: NotRequired[dict[str, Any]]


async def _count(state: Page) -> Any:
    get_stream_writer()({"name": "progress", "progress": 1})
    get_stream_writer()("half")
    return {"count": state.get("count", 0) + 1, "log": ["counted"], "messages": [await words("one two").ainvoke("")]}


def _fan_out(_: Page) -> list[Send]:
    return [Send("worker", number) for number in range(3)]


async def _worker(number: int) -> Any:
    return {"log": [f"worker {number}"]}


async def _sum_up(state: Page) -> Any:
    """A message that nobody streams, and a key that goes away."""
    return {"messages": [{"role": "assistant", "content": "all done"}], "notes": {"a/b": [1, 2], "~": None}}


def _steps() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(Page)
    graph.add_node("count", _count)
    graph.add_node("worker", _worker)
    graph.add_node("sum_up", _sum_up)
    graph.add_edge(START, "count")
    graph.add_conditional_edges("count", _fan_out, ["worker"])
    graph.add_edge("worker", "sum_up")
    graph.add_edge("sum_up", END)
    return graph


class Shown(TypedDict, total=False):
    """What a graph sees of a page."""

    messages: list[Any]
    tools: list[Any]
    copilotkit: dict[str, Any]
    seen: dict[str, Any]


Special = TypedDict("Special", {"ag-ui": dict[str, Any]}, total=False)


class ShownPage(Shown, Special, total=False):
    """With the key that is no name in Python."""


async def _show(state: ShownPage, config: RunnableConfig) -> Any:
    configurable = config["configurable"]
    return {"seen": {**state, "ag_ui": configurable["ag_ui"], "flavour": configurable.get("flavour")}}


def _shown() -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(ShownPage).add_node("show", _show).add_edge(START, "show").add_edge("show", END)


async def _ask_form(state: MessagesState) -> Any:
    answer = interrupt({"message": "Which size?", "reason": "order", "responseSchema": SCHEMA})
    second = interrupt({"message": "Really?", "responseSchema": {"type": "boolean"}})
    return {"messages": [AIMessage(f"{answer!r}, {second!r}")]}


async def _gated(state: Page) -> Any:
    await words("before the gate").ainvoke("")
    if Gate.latest is not None:
        await Gate.latest.pass_through()
    return {"messages": [await words("after the gate").ainvoke("")], "count": 1}


class Speaker(Script):
    """A model that says the same if nobody streams it."""

    def _generate(self, _: list[BaseMessage], *__: Any, **___: Any) -> ChatResult:
        text = "".join(str(piece.content) for piece in self.pieces)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


async def _chat(state: MessagesState) -> Any:
    """Say the user's texts again. It waits at the gate after its first word if the user says so."""
    texts = [str(message.content) for message in state["messages"] if message.type == "human"]
    waits = {"gate": True} if texts[-1].startswith("wait") else {}
    pieces = [AIMessageChunk("You "), AIMessageChunk(f"said: {' / '.join(texts)}", additional_kwargs=waits)]
    return {"messages": [await Speaker(pieces=pieces).ainvoke("")]}


async def _look(state: MessagesState) -> Any:
    """A tool whose result is an image."""
    call = {"name": "look", "args": {}, "id": "call-look", "type": "tool_call"}
    image = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
    result = ToolMessage([{"type": "text", "text": "see"}, image], tool_call_id="call-look", id="result-look")
    return {"messages": [AIMessage("", tool_calls=[call], id="looks"), result, AIMessage("nice", id="says")]}


class Leak(Exception):
    """An error whose text is for nobody."""


async def _leak(state: MessagesState) -> Any:
    raise Leak("a password")


class Number(TypedDict):
    """A state without messages."""

    number: int


async def _double(state: Number) -> Any:
    return {"number": state["number"] * 2}


AGUI_GRAPHS: dict[str, Any] = {
    **OPENAI_GRAPHS,
    "steps": _steps(),
    "shown": _shown(),
    "form": single(_ask_form),
    "gate": StateGraph(Page).add_node("gate", _gated).add_edge(START, "gate").add_edge("gate", END),
    "chat": single(_chat),
    "leak": single(_leak),
    "look": single(_look),
    "double": StateGraph(Number).add_node("double", _double).add_edge(START, "double").add_edge("double", END),
}
