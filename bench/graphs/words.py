"""A graph whose model streams 200 words, as fast as a good model: it shows the cost of a token and not of a run."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import END, START, MessagesState, StateGraph

COUNT = 200
PAUSE_S = 0.005


class _Model(BaseChatModel):
    @property
    def _llm_type(self) -> str:
        return "words"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(str(len(messages))))])

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for number in range(COUNT):
            yield ChatGenerationChunk(message=AIMessageChunk(f"word{number} "))
            await anyio.sleep(PAUSE_S)


async def _speak(state: MessagesState) -> MessagesState:
    return {"messages": [await _Model().ainvoke(state["messages"])]}


graph = StateGraph(MessagesState).add_node("speak", _speak).add_edge(START, "speak").add_edge("speak", END).compile()
