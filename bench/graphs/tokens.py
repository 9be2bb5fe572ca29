"""Graphs that stream: each token is the machine's clock, so that a client knows its age.

`tokens` writes them itself (stream mode `custom`); in `model` a chat model does (`messages-tuple`), which adds what
LangChain's callbacks cost. Between two tokens is a pause, as with a model, so that twelve streams don't fill a core.
"""

import random
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph

COUNT = 20
PAUSE_S = 0.01
FIRST_PAUSE_S = 0.05
"""At most: streams that begin at once are not to give their first tokens at once."""


def now() -> str:
    """The machine's monotonic clock, marked so that it is found in any answer."""
    return f"<{time.monotonic_ns()}>"


async def _pauses() -> AsyncIterator[None]:
    await anyio.sleep(random.uniform(0, FIRST_PAUSE_S))  # noqa: S311 - no secret
    for _ in range(COUNT):
        yield
        await anyio.sleep(PAUSE_S)


async def _write(_: MessagesState) -> MessagesState:
    write = get_stream_writer()
    async for _pause in _pauses():
        write(now())
    return {"messages": [AIMessage("done")]}


class _Model(BaseChatModel):
    @property
    def _llm_type(self) -> str:
        return "clock"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(str(len(messages))))])

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        async for _pause in _pauses():
            yield ChatGenerationChunk(message=AIMessageChunk(now()))


async def _speak(state: MessagesState) -> MessagesState:
    return {"messages": [await _Model().ainvoke(state["messages"])]}


def _of(node: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile()


tokens = _of(_write)
model = _of(_speak)
