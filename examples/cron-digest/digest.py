"""A digest of the news that came since the last one. A cron runs it, and its webhook is told the text."""

from typing import TypedDict

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

MOST = 50
"""The most news of one digest. Further ones are left for the next."""


class Digest(TypedDict, total=False):
    topic: str
    keys: list[str]
    headlines: list[str]
    text: str


async def collect(state: Digest, runtime: Runtime) -> Digest:
    """Read the news of the topic, the oldest first."""
    items = await runtime.store.asearch(("news", state["topic"]), limit=MOST)
    items.sort(key=lambda item: item.created_at)
    return {"keys": [item.key for item in items], "headlines": [item.value["headline"] for item in items]}


async def write(state: Digest) -> Digest:
    """Write the digest. Here a language model would be called."""
    lines = [f"- {headline}" for headline in state["headlines"]]
    return {"text": "\n".join([f"{len(lines)} news about {state['topic']}", *lines])}


async def forget(state: Digest, runtime: Runtime) -> Digest:
    """Delete what is told. After a crash before this step the digest is finished from its checkpoint, so no news is lost."""
    for key in state["keys"]:
        await runtime.store.adelete(("news", state["topic"]), key)
    return {}


builder = StateGraph(Digest).add_node(collect).add_node(write).add_node(forget)
graph = builder.add_edge(START, "collect").add_edge("collect", "write").add_edge("write", "forget").compile()
