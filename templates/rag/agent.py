"""Answers from documents: finds the passages that fit the question, and lets the model answer from them.

The passages are found by their words, which needs no service. For embeddings, keep them in the server's store with an
`index` in langgraph.json, and search it by `store.asearch`.
"""

import re
from pathlib import Path

from langchain_core.messages import AIMessage, SystemMessage
from langgraph.graph import START, MessagesState, StateGraph
from model import load_model

from threadkeep.offline_model import OfflineModel

MOST = 2
"""The most passages for an answer."""


class State(MessagesState, total=False):
    """A conversation, and the passages for its last question."""

    passages: list[str]


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


def _read_passages() -> list[str]:
    files = sorted(Path(__file__).parent.joinpath("documents").glob("*.md"))
    return [passage.strip() for file in files for passage in file.read_text().split("\n\n") if passage.strip()]


model = load_model()
PASSAGES = _read_passages()


async def retrieve(state: State) -> State:
    """Find the passages that share the most words with the question."""
    question = _words(state["messages"][-1].text)
    scored = sorted(PASSAGES, key=lambda passage: len(question & _words(passage)), reverse=True)
    return {"passages": [passage for passage in scored[:MOST] if question & _words(passage)]}


async def answer(state: State) -> State:
    """Answer from the passages."""
    passages = "\n\n".join(state["passages"])
    if isinstance(model, OfflineModel):  # it has no knowledge of language: it can only repeat
        return {"messages": [AIMessage(passages or "The documents do not say.")]}
    rule = SystemMessage(f"Answer from these passages alone, or say that they do not tell:\n\n{passages}")
    return {"messages": [await model.ainvoke([rule, *state["messages"]])]}


builder = StateGraph(State).add_node(retrieve).add_node(answer)
graph = builder.add_edge(START, "retrieve").add_edge("retrieve", "answer").compile()
