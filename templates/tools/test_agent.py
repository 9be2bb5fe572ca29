"""Run by `python -m pytest`. It needs no server, no key and no network."""

import asyncio

from agent import graph


def test_the_agent_calls_a_tool() -> None:
    state = asyncio.run(graph.ainvoke({"messages": [{"role": "user", "content": "What is 6 * 7?"}]}))

    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert "42" in state["messages"][-1].text
