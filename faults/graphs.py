"""Graphs of the scenarios. They write their steps to a journal that survives every crash."""

import asyncio
import json
import operator
import os
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from typing_extensions import TypedDict


class Talk(TypedDict, total=False):
    """A conversation: each run adds its input, step by step."""

    items: Annotated[list[str], operator.add]
    marker: str
    pause_s: float


class Inside(TypedDict, total=False):
    """The state of `inside`."""

    tasks: int


class Count(TypedDict, total=False):
    """The input of `counting`."""

    until: int
    pause_s: float
    counted: int


def _journal(node: str, config: RunnableConfig) -> None:
    """Append a line in one write: the run, the step and the time. The monotonic clock is the same for all processes of a machine."""
    configurable = config.get("configurable", {})
    line = {
        "at": time.monotonic(),
        "pid": os.getpid(),
        "node": node,
        "thread_id": configurable.get("thread_id"),
        "run_id": str(configurable.get("run_id") or config.get("metadata", {}).get("run_id")),
    }
    # Not a Python file, whose buffer a kill would lose. An append of one line is never mixed with another process's.
    journal = os.open(os.environ["FAULTS_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(journal, json.dumps(line).encode() + b"\n")
    finally:
        os.close(journal)


async def _hear(state: Talk, config: RunnableConfig) -> Talk:
    _journal("hear", config)
    return {"items": [f"heard {state['marker']}"]}


async def _think(state: Talk, config: RunnableConfig) -> Talk:
    _journal("think", config)
    await anyio.sleep(state.get("pause_s", 0))
    return {"items": [f"thought {state['marker']}"]}


async def _say(state: Talk, config: RunnableConfig) -> Talk:
    _journal("say", config)
    return {"items": [f"said {state['marker']}"]}


def _step(number: int) -> Any:
    async def step(state: Talk, config: RunnableConfig) -> Talk:
        _journal(f"step {number}", config)
        await anyio.sleep(state.get("pause_s", 0))
        return {"items": [f"step {number} by {os.getpid()}"]}

    return step


async def _count(state: Count, config: RunnableConfig) -> Count:
    _journal("count", config)
    write = get_stream_writer()
    for number in range(state["until"]):
        # A reader sees a lost or repeated event by its number.
        write({"number": number})
        await anyio.sleep(state.get("pause_s", 0))
    return {"counted": state["until"]}


async def _look(state: Inside) -> Inside:  # noqa: ARG001 - the form of a node
    """How many tasks the event loop has, ours among them."""
    return {"tasks": len(asyncio.all_tasks())}


async def _die(state: Talk) -> Talk:
    """End the process, as running out of memory would."""
    # Not `sys.exit`: the server must survive an exception, so this has to end the process itself.
    os._exit(len(state["marker"]))


def _chain(schema: Any, **nodes: Any) -> Any:
    graph = StateGraph(schema)
    for name, node in nodes.items():
        graph.add_node(name, node)
    for before, after in zip([START, *nodes], [*nodes, END], strict=True):
        graph.add_edge(before, after)
    return graph.compile()


class _Teller(BaseChatModel):
    """A model that says some words, and then perhaps nothing more until its process is killed."""

    hangs: bool

    @property
    def _llm_type(self) -> str:
        return "teller"

    def _generate(self, _: list[BaseMessage], *__: Any, **___: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("not streamed"))])

    async def _astream(self, _: list[BaseMessage], *__: Any, **___: Any) -> AsyncIterator[ChatGenerationChunk]:
        for number in range(12):
            yield ChatGenerationChunk(message=AIMessageChunk(f"word{number} "))
        if self.hangs:
            await anyio.sleep_forever()


async def _tell(state: MessagesState, config: RunnableConfig) -> Any:
    # Only the first attempt hangs, so that the second one can end the run.
    teller = _Teller(hangs=config.get("metadata", {}).get("run_attempt") == 1)
    return {"messages": [await teller.ainvoke(state["messages"])]}


talking = _chain(Talk, hear=_hear, think=_think, say=_say)
stepping = _chain(Talk, **{f"step_{number}": _step(number) for number in range(6)})
counting = _chain(Count, count=_count)
inside = _chain(Inside, look=_look)
dying = _chain(Talk, die=_die)
telling = _chain(MessagesState, tell=_tell)
