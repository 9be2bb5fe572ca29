"""`openai-agents`, which is built on OpenAI's client."""

from importlib import import_module
from typing import Any

import pytest
from openai import AsyncOpenAI

agents: Any = import_module("agents")  # its types do not fit those of its own functions
agents.set_tracing_disabled(True)


@agents.function_tool(name_override="weather")
def weather(city: str) -> str:
    """The weather."""
    return f"sunny in {city}"


@pytest.mark.parametrize("kind", ["OpenAIChatCompletionsModel", "OpenAIResponsesModel"])
async def test_the_agents_sdk_runs_an_agent(openai: AsyncOpenAI, kind: str) -> None:
    """Contract: `openai-agents`, which raises at a call of a tool that it does not have."""
    model = getattr(agents, kind)(model="agent", openai_client=openai)
    agent = agents.Agent(name="helper", model=model, tools=[weather])

    assert (await agents.Runner.run(agent, "weather?")).final_output == "It is sunny in Oslo."
    assert (await agents.Runner.run(agent, "hello")).final_output == "It is 5."
    streamed = agents.Runner.run_streamed(agent, "weather?")
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == "It is sunny in Oslo."


async def test_the_agents_sdk_keeps_a_session_in_a_conversation(openai: AsyncOpenAI) -> None:
    """Contract: `OpenAIConversationsSession` writes items by itself, then sends all items as input."""
    session = agents.OpenAIConversationsSession(openai_client=openai)
    agent = agents.Agent(name="helper", model=agents.OpenAIResponsesModel(model="echo", openai_client=openai))
    await agents.Runner.run(agent, "one", session=session)
    answer = await agents.Runner.run(agent, "two", session=session)

    assert answer.final_output == "You said: one / two"
    assert len(await session.get_items()) == 4
