"""A chat. That it takes messages is all that the OpenAI API asks of a graph."""

from langgraph.graph import START, MessagesState, StateGraph

from threadkeep.offline_model import OfflineModel

model = OfflineModel()  # or init_chat_model("openai:gpt-5")


async def answer(state: MessagesState) -> MessagesState:
    """Answer the conversation so far."""
    return {"messages": [await model.ainvoke(state["messages"])]}


graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
