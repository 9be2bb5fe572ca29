"""Run by `python -m pytest`. It needs no server, no key and no network."""

import asyncio

from agent import graph
from langgraph.checkpoint.memory import InMemorySaver


def test_a_thread_keeps_the_conversation() -> None:
    async def talk() -> str:
        graph.checkpointer = InMemorySaver()
        config = {"configurable": {"thread_id": "1"}}
        for text in ("My name is Ada.", "What is my name?"):
            state = await graph.ainvoke({"messages": [{"role": "user", "content": text}]}, config)
        return state["messages"][-1].text

    assert "Ada" in asyncio.run(talk())
