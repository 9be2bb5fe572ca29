"""Answers from a handbook: finds the passages nearest to the question in the store, and names their sources.

`ingest.py` puts the passages there. The server embeds them as they come, and Postgres finds them by pgvector.
"""

from typing import TypedDict

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime

PASSAGES = ("handbook",)
MOST = 2
LEAST_SCORE = 0.2
"""The least likeness, from 0 to 1. It depends on the embedder: with another one, look at the scores."""


class Passage(TypedDict):
    source: str
    text: str
    score: float


class State(MessagesState, total=False):
    """A conversation, and the passages for its last question."""

    passages: list[Passage]


async def retrieve(state: State, runtime: Runtime) -> State:
    """Find the passages that are nearest to the question."""
    items = await runtime.store.asearch(PASSAGES, query=state["messages"][-1].text, limit=MOST)
    return {"passages": [Passage(**item.value, score=item.score) for item in items if item.score >= LEAST_SCORE]}


async def answer(state: State) -> State:
    """Answer from the passages. Replace the quotation by a call of your model, with the passages in its prompt."""
    quotes = [f"{passage['text']} ({passage['source']})" for passage in state["passages"]]
    return {"messages": [AIMessage("\n\n".join(quotes) or "The handbook does not say.")]}


builder = StateGraph(State).add_node(retrieve).add_node(answer)
graph = builder.add_edge(START, "retrieve").add_edge("retrieve", "answer").compile()
