"""An agent that asks a person before it acts."""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt


class Mail(TypedDict, total=False):
    """A mail that is to be sent."""

    to: str
    text: str
    outcome: str


def ask(mail: Mail) -> Command:
    """Stop until a person has answered `approve`, or anything else."""
    answer = interrupt({"question": f"Send this to {mail['to']}?", "text": mail["text"]})
    return Command(goto="send" if answer == "approve" else END, update={"outcome": "not sent"})


def send(mail: Mail) -> Mail:
    """Where the mail would be sent."""
    return {"outcome": f"sent to {mail['to']}"}


builder = StateGraph(Mail).add_node("ask", ask, destinations=("send", END)).add_node("send", send)
graph = builder.add_edge(START, "ask").add_edge("send", END).compile()
