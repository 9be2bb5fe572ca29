"""Run by `python -m pytest`. It needs no server, no key and no network."""

import asyncio

from agent import graph


def _answer(question: str) -> str:
    state = asyncio.run(graph.ainvoke({"messages": [{"role": "user", "content": question}]}))
    return state["messages"][-1].text


def test_the_answer_comes_from_the_documents() -> None:
    assert "20 euros" in _answer("What does a membership cost?")
    assert "Sundays" in _answer("When is the library closed?")
