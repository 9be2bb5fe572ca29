"""Run by `python -m pytest`. It needs no server, no key and no network."""

import asyncio

import pytest
from agent import graph
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command


@pytest.mark.parametrize(("answer", "outcome"), [("approve", "sent to bob"), ("no", "not sent")])
def test_a_person_decides(answer: str, outcome: str) -> None:
    async def decide() -> str:
        graph.checkpointer = InMemorySaver()
        config = {"configurable": {"thread_id": answer}}
        asked = await graph.ainvoke({"to": "bob", "text": "hello"}, config)
        assert asked["__interrupt__"][0].value["question"] == "Send this to bob?"
        return (await graph.ainvoke(Command(resume=answer), config))["outcome"]

    assert asyncio.run(decide()) == outcome
