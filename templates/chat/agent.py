"""A chat: the model answers, and the thread keeps the conversation."""

from langgraph.graph import START, MessagesState, StateGraph
from model import load_model

model = load_model()


async def answer(state: MessagesState) -> MessagesState:
    """Answer the conversation so far."""
    return {"messages": [await model.ainvoke(state["messages"])]}


graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
