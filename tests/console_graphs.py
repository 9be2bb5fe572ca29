"""Graphs of which the tests of the console get each thing that it shows: real and small."""

from functools import partial
from typing import Any, TypedDict

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from graphs import GRAPHS, Gate
from protocol_graphs import PROTOCOL_GRAPHS, Words

REVIEW = {
    "action_requests": [
        {"name": "send_email", "args": {"to": "bob@example.com", "body": "Hi"}, "description": "Send an email"},
        {"name": "delete_file", "args": {"path": "notes.txt"}, "description": "Delete a file"},
    ],
    "review_configs": [
        {"action_name": "send_email", "allowed_decisions": ["approve", "edit", "reject"]},
        {"action_name": "delete_file", "allowed_decisions": ["approve", "reject"]},
    ],
}
MANY = {"action_requests": [{"name": f"step_{number}", "args": {}} for number in range(20)]}
INBOX = [
    {
        "action_request": {"action": "book", "args": {"day": "Monday"}},
        "config": {"allow_accept": True, "allow_edit": True, "allow_respond": True, "allow_ignore": True},
        "description": "Book a table",
    }
]


def _asking(value: Any) -> StateGraph[Any, Any, Any, Any]:
    async def ask(state: MessagesState) -> Any:
        del state
        return {"messages": [AIMessage(f"The answer was {interrupt(value)!r}")]}

    return _one_node(ask)


def _one_node(node: Any) -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").add_edge("node", END)


async def _echo(state: MessagesState) -> Any:
    """The text that was written, as the model's own."""
    return {"messages": [AIMessage(str(state["messages"][-1].content))]}


async def _speak(state: MessagesState) -> Any:
    """Four words, after a gate if the message says `wait`. A message that says `break` fails afterwards."""
    reply = await Words().ainvoke(state["messages"])
    if "break" in str(state["messages"][-1].content):
        raise ValueError("the node broke")
    return {"messages": [reply]}


async def _ask_and_fail(state: MessagesState) -> Any:
    """Asks with the text that was written and a line of a megabyte, and fails with the answer."""
    text = str(state["messages"][-1].content)
    raise ValueError(str(interrupt(text + "\n\n" + "x" * 1_000_000)))


async def _call(state: MessagesState) -> Any:
    del state
    call: Any = {"id": "call-1", "name": "look_up", "args": {"word": "tea"}}
    return {"messages": [AIMessage("", tool_calls=[call])]}


async def _look_up(state: MessagesState) -> Any:
    """A tool that takes as long as the test wants."""
    del state
    if Gate.latest is not None:
        await Gate.latest.pass_through()
    return {"messages": [ToolMessage("a drink", tool_call_id="call-1", name="look_up"), AIMessage("Tea is a drink.")]}


class Walk(TypedDict):
    """The state of a graph of many steps."""

    step: int
    word: str


def walk(steps: int) -> StateGraph[Any, Any, Any, Any]:
    """Three subgraphs in turn, until so many steps were made."""

    async def advance(state: Walk) -> Any:
        return {"step": state["step"] + 1}

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(Walk)
    names = ("north", "east", "south")
    for name in names:
        part = StateGraph(Walk).add_node("advance", advance).add_edge(START, "advance").add_edge("advance", END)
        graph.add_node(name, part.compile())
    graph.add_edge(START, "north")
    for name, after in zip(names, (*names[1:], names[0]), strict=True):
        graph.add_conditional_edges(name, partial(_next, steps, after), [after, END])
    return graph


def _next(steps: int, after: str, state: Walk) -> str:
    return END if state["step"] >= steps else after


CONSOLE_GRAPHS: dict[str, Any] = {
    "speaker": _one_node(_speak),
    "agent": PROTOCOL_GRAPHS["agent"],
    "echo": _one_node(_echo),
    "review": _asking(REVIEW),
    "many": _asking(MANY),
    "inbox": _asking(INBOX),
    "plain": _asking("which?"),
    "asking": _one_node(_ask_and_fail),
    "tooling": StateGraph(MessagesState)
    .add_node("model", _call)
    .add_node("tools", _look_up)
    .add_edge(START, "model")
    .add_edge("model", "tools")
    .add_edge("tools", END),
    **{name: GRAPHS[name] for name in ("chain", "gated", "failing", "parent")},
}
"""The first is the one that a new chat gets."""
