"""The measured graph: one node, one message in, one message out. So the measurement is the server's own cost."""

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph


async def _echo(state: MessagesState) -> MessagesState:
    return {"messages": [AIMessage(f"echo: {state['messages'][-1].content}")]}


builder = StateGraph(MessagesState)
builder.add_node("echo", _echo)
builder.add_edge(START, "echo")
builder.add_edge("echo", END)
graph = builder.compile()

INPUT = {"messages": [{"role": "user", "content": "hello"}]}
