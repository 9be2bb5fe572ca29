"""The graph of the race model: each run adds its own token to the log when it begins and again when it ends."""

import json
import operator
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

import anyio
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict


class Conversation(TypedDict, total=False):
    """A log of tokens, and the commands of the run."""

    log: Annotated[list[str], operator.add]
    token: str
    """Of the newest message or update."""
    steps: int
    steps_done: int
    sleep_s: float
    ask: bool
    """Interrupt the graph before it ends."""
    blob: str
    """Makes checkpoints large, until the run ends."""


@contextmanager
def _span(node: str, config: RunnableConfig) -> Generator[None]:
    """Write to the journal when a node begins and when it ends. One monotonic clock serves all processes."""
    configurable = config.get("configurable", {})
    line = {"pid": os.getpid(), "node": node, "thread_id": configurable["thread_id"], "run_id": configurable["run_id"]}
    _write({**line, "phase": "begin", "at": time.monotonic()})
    try:
        yield
    finally:
        _write({**line, "phase": "end", "at": time.monotonic()})


def _write(line: dict[str, Any]) -> None:
    # Unbuffered, so that a kill loses no line, and appended in one write, so that lines of processes do not mix.
    journal = os.open(os.environ["FAULTS_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(journal, json.dumps(line).encode() + b"\n")
    finally:
        os.close(journal)


async def _first(_state: Conversation, config: RunnableConfig) -> Conversation:
    with _span("first", config):
        return {"steps_done": 0}


async def _work(state: Conversation, config: RunnableConfig) -> Conversation:
    with _span("work", config):
        await anyio.sleep(state.get("sleep_s", 0))
        return {"steps_done": state.get("steps_done", 0) + 1}


async def _ask(_state: Conversation) -> Conversation:
    return {"log": [interrupt("Which token?")], "ask": False}


async def _done(state: Conversation, config: RunnableConfig) -> Conversation:
    with _span("done", config):
        # The blob is dropped at the end, or each later checkpoint of the thread would be large too.
        return {"log": [f"{state['token']}!"], "blob": ""}


def _next(state: Conversation) -> str:
    if state.get("steps_done", 0) < state.get("steps", 1):
        return "work"
    return "ask" if state.get("ask") else "done"


def _compiled() -> Any:
    graph = StateGraph(Conversation)
    for name, node in {"first": _first, "work": _work, "ask": _ask, "done": _done}.items():
        graph.add_node(name, node)
    graph.add_edge(START, "first")
    graph.add_edge("first", "work")
    graph.add_conditional_edges("work", _next, ["work", "ask", "done"])
    graph.add_edge("ask", "done")
    graph.add_edge("done", END)
    return graph.compile()


graph = _compiled()
