"""Graphs of which the tests of the OpenAI API get each kind of answer: real and small."""

import asyncio
import operator
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt
from typing_extensions import TypedDict

from graphs import GRAPHS, Gate


class Script(BaseChatModel):
    """A model that streams the pieces that it is made with."""

    pieces: Sequence[AIMessageChunk]

    @property
    def _llm_type(self) -> str:
        return "script"

    def _generate(self, _: list[BaseMessage], *__: Any, **___: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("not streamed"))])

    async def _astream(self, _: list[BaseMessage], *__: Any, **___: Any) -> AsyncIterator[ChatGenerationChunk]:
        for piece in self.pieces:
            if piece.additional_kwargs.get("gate") and Gate.latest is not None:
                await Gate.latest.pass_through()
            yield ChatGenerationChunk(message=piece)


def words(text: str, **more: Any) -> Script:
    """A model that says a text word by word, and what it cost."""
    parts = text.split(" ")
    chunks = [AIMessageChunk(part + " " * (index < len(parts) - 1)) for index, part in enumerate(parts)]
    usage = {"input_tokens": 3, "output_tokens": len(parts), "total_tokens": 3 + len(parts)}
    last = AIMessageChunk("", usage_metadata=usage, response_metadata={"finish_reason": "stop"} | more)
    return Script(pieces=[*chunks, last])


def calls(name: str, *arguments: str) -> Script:
    """A model that calls a tool, with its arguments in pieces."""
    first = tool_call_chunk(name=name, args="", id=f"call-{name}", index=0)
    more = [tool_call_chunk(name=None, args=each, id=None, index=0) for each in arguments]
    return Script(pieces=[AIMessageChunk("", tool_call_chunks=[chunk]) for chunk in (first, *more)])


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    if a < 0:
        raise ValueError("no negative numbers")
    return a + b


def single(node: Any, **more: Any) -> StateGraph[Any, Any, Any, Any]:
    """A graph of one node."""
    graph = StateGraph(MessagesState, **more).add_node("node", node)
    return graph.add_edge(START, "node").add_edge("node", END)


async def _echo(state: MessagesState) -> Any:
    """Say the user's texts again, so that the test sees what the thread held."""
    texts = [str(message.content) for message in state["messages"] if message.type == "human"]
    return {"messages": [await words("You said: " + " / ".join(texts)).ainvoke(state["messages"])]}


async def _describe(state: MessagesState, config: RunnableConfig) -> Any:
    """Say which messages and settings came, as text."""
    shown = [[message.type, message.content, message.name] for message in state["messages"]]
    settings = config["configurable"].get("openai")
    return {"messages": [AIMessage(str({"messages": shown, "settings": settings}))]}


async def _plain(state: MessagesState) -> Any:
    return {"messages": [{"role": "assistant", "content": "a plain dict"}]}


async def _plain_call(state: MessagesState) -> Any:
    """A call in a plain dict, as OpenAI's own client returns it."""
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    call = {"id": "call-1", "type": "function", "function": function}
    return {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}


ODD_FIELDS: list[dict[str, Any]] = [
    {"tool_calls": "x"},
    {
        "tool_calls": [
            5,
            {"id": 7, "name": 8, "args": "x"},
            {"function": "f"},
            {"id": "a", "function": {"arguments": 5}},
        ]
    },
    {"tool_call_chunks": [5, {"index": [], "args": 5}]},
    {"additional_kwargs": "x"},
    {"usage_metadata": "x"},
    {"usage_metadata": {"input_tokens": "x", "input_token_details": 5, "output_token_details": {"reasoning": "x"}}},
    {"response_metadata": "x"},
    {"response_metadata": {"finish_reason": ["length"]}},
    {"content": {"a": 1}},
    {
        "content": [
            5,
            "text",
            {"type": "image_url", "image_url": "u"},
            {"type": "image_url"},
            {"type": "file"},
            {"type": 5},
        ]
    },
    {"id": 5},
    {"id": ["x"]},
    {"role": ["assistant"]},
    {"type": ["ai"]},
    {
        "role": "user",
        "content": [5, {"type": "image_url", "image_url": "u"}, {"type": "file", "file": 5}, {"type": "file"}],
    },
    {"role": "tool", "tool_call_id": ["x"], "content": 5},
]


LONG = 10**400


class LongState(MessagesState):
    """A state with an integer that is longer than any float."""

    long: int


async def _long(state: LongState) -> Any:
    """Return a long integer, and ask one back."""
    if state["messages"][-1].content == "ask":
        interrupt({"question": "how many?", "most": LONG})
    return {"long": LONG, "messages": [{"role": "assistant", "content": "many"}]}


class Anything(TypedDict):
    """Messages that no reducer has read."""

    messages: Annotated[list[Any], operator.add]


async def _odd(state: Anything) -> Any:
    """Fields of a plain dict with values of other types. The user's text is their number."""
    fields = ODD_FIELDS[int(state["messages"][-1]["content"])]
    return {"messages": [{"role": "assistant", "content": "odd"} | fields]}


async def _silent(state: MessagesState) -> Any:
    return {"messages": []}


async def _think(state: MessagesState) -> Any:
    pieces: list[Any] = [
        {"type": "reasoning", "reasoning": "so, ", "index": 0},
        {"type": "reasoning", "reasoning": "well", "index": 0},
        {"type": "text", "text": "here ", "index": 1},
        {"type": "text", "text": "it is", "index": 1},
    ]
    return {"messages": [await Script(pieces=[AIMessageChunk([piece]) for piece in pieces]).ainvoke("")]}


async def _refuse(state: MessagesState) -> Any:
    return {"messages": [await Script(pieces=[AIMessageChunk("", additional_kwargs={"refusal": "no"})]).ainvoke("")]}


async def _cut(state: MessagesState) -> Any:
    return {"messages": [await words("too long", finish_reason="length").ainvoke("")]}


async def _twice(state: MessagesState) -> Any:
    """Two models at once."""
    return {"messages": await asyncio.gather(words("one two").ainvoke(""), words("three four").ainvoke(""))}


async def _hidden(state: MessagesState) -> Any:
    """A model whose tokens nobody is to see."""
    await words("a secret").ainvoke("", {"tags": ["nostream"]})
    return {"messages": [AIMessage("in the open")]}


async def _fail(state: MessagesState) -> Any:
    raise ValueError("the node failed")


async def _fail_late(state: MessagesState) -> Any:
    await words("before the failure").ainvoke("")
    raise ValueError("the node failed")


async def _gated(state: MessagesState) -> Any:
    chunks = [AIMessageChunk("before "), AIMessageChunk("after", additional_kwargs={"gate": True})]
    return {"messages": [await Script(pieces=chunks).ainvoke("")]}


async def _ask(state: MessagesState) -> Any:
    answer = interrupt({"question": "Which one?"})
    return {"messages": [AIMessage(f"You chose {answer!r}.")]}


async def _ask_approval(state: MessagesState) -> Any:
    answer = interrupt({"action_requests": [{"name": "delete", "args": {"id": 1}}], "review_configs": []})
    return {"messages": [AIMessage(str(answer["decisions"]))]}


async def _ask_left(state: MessagesState) -> Any:
    return {"messages": [AIMessage(f"left {interrupt('left?')}")]}


async def _ask_right(state: MessagesState) -> Any:
    return {"messages": [AIMessage(f"right {interrupt('right?')}")]}


async def _agent(state: MessagesState) -> Any:
    """An agent with a tool of its own, which also calls the tools of its client."""
    last = state["messages"][-1]
    if isinstance(last, ToolMessage):
        return {"messages": [await words(f"It is {last.content}.").ainvoke("")]}
    if "weather" in str(last.content):
        return {"messages": [await calls("weather", '{"city":', ' "Oslo"}').ainvoke("")]}
    first = -1 if "negative" in str(last.content) else 2
    return {"messages": [await calls("add", f'{{"a": {first},', ' "b": 3}').ainvoke("")]}


def _next(state: MessagesState) -> str:
    last = state["messages"][-1]
    return "tools" if isinstance(last, AIMessage) and any(call["name"] == "add" for call in last.tool_calls) else END


def _agent_graph() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(MessagesState)
    graph.add_node("node", _agent)
    graph.add_node("tools", ToolNode([add], handle_tool_errors=True))
    graph.add_edge(START, "node")
    graph.add_conditional_edges("node", _next, ["tools", END])
    graph.add_edge("tools", "node")
    return graph


def _two_questions() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(MessagesState)
    graph.add_node("left", _ask_left)
    graph.add_node("right", _ask_right)
    graph.add_edge(START, "left")
    graph.add_edge(START, "right")
    return graph


def _parent() -> StateGraph[Any, Any, Any, Any]:
    """A subgraph speaks, and the graph itself does not say it again."""
    graph = StateGraph(MessagesState)
    graph.add_node("child", single(_echo).compile())
    graph.add_edge(START, "child")
    graph.add_edge("child", END)
    return graph


OPENAI_GRAPHS: dict[str, Any] = {
    "agent": _agent_graph(),
    "approval": single(_ask_approval),
    "ask": single(_ask),
    "ask/two": _two_questions(),
    "chain": GRAPHS["chain"],
    "cut": single(_cut),
    "describe": single(_describe),
    "echo": single(_echo),
    "fail": single(_fail),
    "fail-late": single(_fail_late),
    "gated": single(_gated),
    "hidden": single(_hidden),
    "long": StateGraph(LongState).add_node("node", _long).add_edge(START, "node").add_edge("node", END),
    "parent": _parent(),
    "odd": StateGraph(Anything).add_node("node", _odd).add_edge(START, "node").add_edge("node", END),
    "plain": single(_plain),
    "plain-call": single(_plain_call),
    "refuse": single(_refuse),
    "silent": single(_silent),
    "think": single(_think),
    "twice": single(_twice),
}
