"""Notes of a tenant: each run adds one to its thread, and signs it with the user who sent it."""

import operator
from typing import Annotated, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph


class Notes(TypedDict, total=False):
    text: str
    notes: Annotated[list[str], operator.add]


async def add(state: Notes, config: RunnableConfig) -> Notes:
    """Sign the note. The user is what `authenticate` returned, whoever calls the graph by whichever API."""
    user = config["configurable"]["langgraph_auth_user"]
    return {"notes": [f"{user['identity']}: {state['text']}"]}


graph = StateGraph(Notes).add_node(add).add_edge(START, "add").compile()
