"""Graphs of which the tests of the protocol v2 get at least one event on each channel: real and small."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar, TypedDict

import anyio.lowlevel
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt

from graphs import GRAPHS, Gate


class Words(BaseChatModel):
    """A model that streams: a tool call for who asks for a sum, else words."""

    words: ClassVar[tuple[str, ...]] = ("one ", "two ", "three ", "four")

    @property
    def _llm_type(self) -> str:
        return "words"

    def _generate(self, _: list[BaseMessage], *__: Any, **___: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("".join(self.words)))])

    async def _astream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        last = messages[-1]
        gate = Gate.latest if "wait" in str(last.content) else None
        if "sum" in str(last.content) and not isinstance(last, ToolMessage):
            if gate is not None:
                await gate.pass_through()
            for name, args in (("add", ""), (None, '{"a": 2,'), (None, ' "b": 3}')):
                call = tool_call_chunk(name=name, args=args, id="call-1" if name else None, index=0)
                yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[call]))
            return
        for number, word in enumerate(self.words):
            if number == 2 and gate is not None:
                await gate.pass_through()
            await anyio.lowlevel.checkpoint()  # another model's turn, where there is one
            yield ChatGenerationChunk(message=AIMessageChunk(word))


class Thoughts(BaseChatModel):
    """A model that thinks, says and shows: blocks of three kinds."""

    pieces: ClassVar[tuple[Any, ...]] = (
        {"type": "reasoning", "reasoning": "so, ", "index": 0},
        {"type": "reasoning", "reasoning": "well", "index": 0},
        {"type": "text", "text": "here ", "index": 1},
        {"type": "text", "text": "it is", "index": 1},
        {"type": "image", "base64": "AAAA", "mime_type": "image/png", "index": 2},
    )

    @property
    def _llm_type(self) -> str:
        return "thoughts"

    def _generate(self, _: list[BaseMessage], *__: Any, **___: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(list(self.pieces)))])

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for piece in self.pieces:
            yield ChatGenerationChunk(message=AIMessageChunk([piece]))


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def _speak(state: MessagesState) -> Any:
    return {"messages": [await Words().ainvoke(state["messages"])]}


async def _think(state: MessagesState) -> Any:
    return {"messages": [await Thoughts().ainvoke(state["messages"])]}


async def _speak_twice(state: MessagesState) -> Any:
    """Two models at once, in one node."""
    return {"messages": await asyncio.gather(*(Words().ainvoke(state["messages"]) for _ in range(2)))}


def _messages(node: Any) -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").add_edge("node", END)


def _next(state: MessagesState) -> str:
    last = state["messages"][-1]
    return "tools" if isinstance(last, AIMessage) and last.tool_calls else END


def _agent() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(MessagesState)
    graph.add_node("speak", _speak)
    graph.add_node("tools", ToolNode([add]))
    graph.add_edge(START, "speak")
    graph.add_conditional_edges("speak", _next, ["tools", END])
    graph.add_edge("tools", "speak")
    return graph


class Text(TypedDict):
    text: str


async def _tell(state: Text) -> Text:
    if "wait" in state["text"] and Gate.latest is not None:
        await Gate.latest.pass_through()
    write = get_stream_writer()
    write({"name": "progress", "payload": {"done": 1}})
    write("plain")
    return {"text": state["text"] + " told"}


async def _chat(state: Text) -> Text:
    """Say so much that a reader is still at it when something else happens, and wait."""
    write = get_stream_writer()
    for number in range(1_000):
        write(number)
    if Gate.latest is not None:
        await Gate.latest.pass_through()
    return state


async def _ask(state: Text) -> Text:
    return {"text": f"{state['text']} {interrupt({'question': 'who?'})}"}


async def _ask_more(state: Text) -> Text:
    return {"text": f"{state['text']} {interrupt('and why?')}"}


def _chain(**nodes: Any) -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(Text)
    for name, node in nodes.items():
        graph.add_node(name, node)
    for before, after in zip([START, *nodes], [*nodes, END], strict=True):
        graph.add_edge(before, after)
    return graph


def _crew() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(MessagesState)
    graph.add_node("agent", _agent().compile())
    graph.add_edge(START, "agent")
    graph.add_edge("agent", END)
    return graph


@entrypoint()
async def _returning(value: Any) -> Any:
    """A graph whose state is any value."""
    return value


PROTOCOL_GRAPHS: dict[str, Any] = {
    "returning": _returning,
    "agent": _agent(),
    "crew": _crew(),
    "thinking": _messages(_think),
    "two_voices": _messages(_speak_twice),
    "telling": _chain(tell=_tell),
    "chatting": _chain(chat=_chat),
    "asking_text": _chain(tell=_tell, ask=_ask),
    "nested": _chain(child=_chain(tell=_tell, ask=_ask_more).compile()),
    **{name: GRAPHS[name] for name in ("failing", "gated", "chain", "asking", "two_questions", "parent")},
}
