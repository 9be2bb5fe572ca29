"""An agent with tools: the model calls them until it has an answer."""

from datetime import datetime
from zoneinfo import ZoneInfo

from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from model import load_model

OPERATIONS = {"+": float.__add__, "-": float.__sub__, "*": float.__mul__, "/": float.__truediv__}


@tool
def calculator(expression: str) -> str:
    """Calculate two numbers with +, -, * or / between them, with spaces, such as `6 * 7`."""
    left, sign, right = expression.split()
    return f"{OPERATIONS[sign](float(left), float(right)):g}"


@tool
def clock(zone: str) -> str:
    """The time in a zone, such as Europe/Berlin."""
    return datetime.now(ZoneInfo(zone)).strftime("%H:%M")


TOOLS = [calculator, clock]
model = load_model().bind_tools(TOOLS)


async def call_model(state: MessagesState) -> MessagesState:
    """Answer, or call tools."""
    return {"messages": [await model.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState).add_node(call_model).add_node("tools", ToolNode(TOOLS))
builder.add_edge(START, "call_model").add_conditional_edges("call_model", tools_condition).add_edge(
    "tools", "call_model"
)
graph = builder.compile()
