"""Graphs of which the tests of the console get each thing that it shows: real and small."""

from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from graphs import GRAPHS
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


CONSOLE_GRAPHS: dict[str, Any] = {
    "speaker": _one_node(_speak),
    "agent": PROTOCOL_GRAPHS["agent"],
    "echo": _one_node(_echo),
    "review": _asking(REVIEW),
    "inbox": _asking(INBOX),
    "plain": _asking("which?"),
    **{name: GRAPHS[name] for name in ("chain", "gated", "failing", "parent")},
}
"""The first is the one that a new chat gets."""
