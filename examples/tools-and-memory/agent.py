"""An assistant with tools, and with a memory that outlives the conversation.

A thread keeps one conversation. The store keeps facts about a user for all of them.
"""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from zoneinfo import ZoneInfo

from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime, tools_condition

from threadkeep.offline_model import OfflineModel

MOST_FACTS = 20


@dataclass
class Context:
    """What the client says beside the input: `context={"user": "ada"}`."""

    user: str = "somebody"


@tool
def clock(zone: str) -> str:
    """The time in a zone, such as Europe/Berlin."""
    return datetime.now(ZoneInfo(zone)).strftime("%H:%M")


@tool
async def remember(fact: str, runtime: ToolRuntime[Context]) -> str:
    """Keep a fact about the user for later conversations."""
    key = sha256(fact.lower().encode()).hexdigest()  # the same fact is kept once
    await runtime.store.aput(("facts", runtime.context.user), key, {"fact": fact})
    return f"I will remember: {fact}."


@tool
async def recall(runtime: ToolRuntime[Context]) -> str:
    """List what is known about the user."""
    items = await runtime.store.asearch(("facts", runtime.context.user), limit=MOST_FACTS)
    return "\n".join(item.value["fact"] for item in items) or "I know nothing about you yet."


TOOLS = [clock, remember, recall]
model = OfflineModel().bind_tools(TOOLS)  # or init_chat_model("openai:gpt-5").bind_tools(TOOLS)


async def call_model(state: MessagesState) -> MessagesState:
    """Answer, or call tools."""
    return {"messages": [await model.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState, context_schema=Context)
builder.add_node(call_model).add_node("tools", ToolNode(TOOLS))
builder.add_edge(START, "call_model").add_edge("tools", "call_model")
builder.add_conditional_edges("call_model", tools_condition)
graph = builder.compile()
