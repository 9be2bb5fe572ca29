"""An agent in LangGraph's functional API: a task for each step, and the conversation kept by the entrypoint.

A step that has finished is not repeated after an interrupt or a crash. A turn is in the thread's state once it has ended:
a chat page that shows a turn in progress needs a `StateGraph`.
"""

from typing import Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, convert_to_messages
from langgraph.func import entrypoint, task
from langgraph.graph.message import add_messages
from langgraph.types import interrupt


class Conversation(TypedDict):
    messages: list[AnyMessage]


@task
async def draft(messages: list[AnyMessage]) -> str:
    """Where a language model would be called."""
    return messages[-1].text.strip().capitalize()


@entrypoint()
async def agent(
    inputs: Conversation, *, previous: Conversation | None = None
) -> entrypoint.final[Conversation, Conversation]:
    before: Any = previous["messages"] if previous else []
    messages: Any = add_messages(before, convert_to_messages(inputs["messages"]))
    text = await draft(messages)
    approval = interrupt({"draft": text, "question": "Send this?"})
    reply = AIMessage(text if approval else "I did not send it.")
    whole = Conversation(messages=[*messages, reply])
    return entrypoint.final(value=whole, save=whole)
