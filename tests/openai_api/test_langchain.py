"""`langchain-openai`, which is built on OpenAI's client."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr


@tool
def weather(city: str) -> str:
    """The weather."""
    return f"sunny in {city}"


def _chat(url: str, model: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=f"{url}/v1", api_key=SecretStr("any"), max_retries=0, **more)


@pytest.mark.parametrize("api", [{}, {"use_responses_api": True, "output_version": "responses/v1"}])
async def test_langchain_calls_streams_and_uses_tools(url: str, api: dict[str, Any]) -> None:
    """Contract: `langchain-openai`, both APIs; with Responses it sends `mcp_call` and reasoning items back."""
    for model in ("echo", "agent", "think"):
        chat = _chat(url, model, stream_usage=True, **api)
        answer = await chat.ainvoke("hello")
        chunks = [chunk async for chunk in chat.astream("hello")]
        assert "".join(chunk.text for chunk in chunks) == answer.text
        follow_up = await _chat(url, "echo", **api).ainvoke([HumanMessage("hello"), answer, HumanMessage("more")])
        assert follow_up.text == "You said: hello / more"
    called = await _chat(url, "agent", **api).bind_tools([weather]).ainvoke("weather?")

    assert isinstance(called, AIMessage)
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("weather", {"city": "Oslo"})]
    result = await weather.ainvoke(called.tool_calls[0])
    end = await _chat(url, "agent", **api).ainvoke([HumanMessage("weather?"), called, result])
    assert end.text == "It is sunny in Oslo."


async def test_langchain_continues_by_the_id_of_the_last_response(url: str) -> None:
    """Contract: `use_previous_response_id`."""
    chat = _chat(url, "echo", use_responses_api=True, use_previous_response_id=True)
    first = await chat.ainvoke("one")
    second = await chat.ainvoke([HumanMessage("one"), first, HumanMessage("two")])

    assert second.text == "You said: one / two"
