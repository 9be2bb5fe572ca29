"""Conversations: threads and the messages of their newest state, through OpenAI's own client."""

from typing import Any

import httpx
import openai as sdk
import pytest
from openai import AsyncOpenAI

from conftest import serving
from threadkeep.settings import Settings

ITEMS: list[Any] = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "You said: one"},
]


def texts(page: Any) -> list[str]:
    return [item.content[0].text for item in page.data]


async def test_a_conversation_is_made_changed_and_deleted(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    """Contract, Routes."""
    made = await openai.conversations.create(metadata={"topic": "sums"})
    changed = await openai.conversations.update(made.id, metadata={"other": "x"})
    found = await openai.conversations.retrieve(made.id)
    thread_id = made.id.removeprefix("conv_")

    assert (made.object, made.metadata) == ("conversation", {"topic": "sums"})
    assert changed.metadata == found.metadata == {"other": "x"}
    assert (await http.get(f"/threads/{thread_id}")).status_code == 200
    assert (await openai.conversations.retrieve(thread_id)).id == made.id
    assert (await openai.conversations.delete(made.id)).model_dump() == {
        "id": made.id,
        "object": "conversation.deleted",
        "deleted": True,
    }
    with pytest.raises(sdk.NotFoundError):
        await openai.conversations.retrieve(made.id)


async def test_items_are_messages_of_the_state(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    """Contract, Conversations: items in are messages on the state, and a run goes on from them."""
    made = await openai.conversations.create(items=ITEMS)
    added: Any = await openai.conversations.items.create(made.id, items=[{"role": "user", "content": "two"}])
    thread = (await http.get(f"/threads/{made.id.removeprefix('conv_')}")).json()
    answer: Any = await openai.responses.create(model="echo", input="three", conversation=made.id)
    page = await openai.conversations.items.list(made.id, order="asc")

    assert thread["status"] == "idle"
    assert texts(added) == ["two"]
    assert answer.output_text == "You said: one / two / three"
    assert answer.conversation.id == made.id
    assert texts(page) == ["one", "You said: one", "two", "three", "You said: one / two / three"]
    assert page.data[-1].id == answer.output[0].id
    assert (await openai.conversations.items.retrieve(page.data[0].id, conversation_id=made.id)).id == page.data[0].id


async def test_an_item_is_removed(openai: AsyncOpenAI) -> None:
    """Contract, Conversations: deleting one removes the message."""
    made = await openai.conversations.create(items=ITEMS)
    page = await openai.conversations.items.list(made.id)
    await openai.conversations.items.delete(page.data[0].id, conversation_id=made.id)

    assert texts(await openai.conversations.items.list(made.id)) == ["one"]
    with pytest.raises(sdk.NotFoundError):
        await openai.conversations.items.delete(page.data[0].id, conversation_id=made.id)


async def test_a_call_of_the_graph_and_its_result_are_one_item(openai: AsyncOpenAI) -> None:
    """Contract, Conversations."""
    made = await openai.conversations.create()
    answer = await openai.responses.create(model="agent", input="hello", conversation=made.id)
    page: Any = await openai.conversations.items.list(made.id, order="asc")

    assert [item.type for item in page.data] == ["message", "mcp_call", "message"]
    assert (page.data[1].output, page.data[1].id) == ("5", answer.output[0].id)


async def test_the_result_of_a_clients_tool_is_an_item_of_its_own(openai: AsyncOpenAI) -> None:
    """Contract, Conversations."""
    made = await openai.conversations.create()
    called: Any = await openai.responses.create(model="agent", input="weather?", conversation=made.id)
    output: Any = {"type": "function_call_output", "call_id": called.output[0].call_id, "output": "sunny"}
    await openai.responses.create(model="agent", input=[output], conversation=made.id)
    page: Any = await openai.conversations.items.list(made.id, order="asc")

    assert [item.type for item in page.data] == ["message", "function_call", "function_call_output", "message"]
    assert page.data[-1].content[0].text == "It is sunny."


@pytest.mark.parametrize("named", ["conv_" + "0" * 32, "conv_x"])
async def test_an_unknown_conversation_is_not_found(openai: AsyncOpenAI, named: str) -> None:
    """Contract, Conversations: 404."""
    with pytest.raises(sdk.NotFoundError) as refused:
        await openai.conversations.retrieve(named)
    assert refused.value.code == "not_found"
    with pytest.raises(sdk.NotFoundError):
        await openai.responses.create(model="echo", input="x", conversation=named)


async def test_at_most_20_items_come_at_a_time(openai: AsyncOpenAI) -> None:
    """Contract, Conversations."""
    made = await openai.conversations.create()
    for items in ([], [ITEMS[0]] * 21):
        with pytest.raises(sdk.BadRequestError) as refused:
            await openai.conversations.items.create(made.id, items=items)
        assert refused.value.param == "items"


async def test_metadata_of_a_conversation_has_the_limit_of_a_thread(
    openai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    """Ours: a conversation whose metadata would be too large was answered as one that does not exist."""
    thread = (await http.post("/threads", json={"metadata": {"note": "x" * 60_000}})).json()
    conversation = await openai.conversations.retrieve(thread["thread_id"])
    large = {f"key{number}": "x" * 512 for number in range(16)}

    with pytest.raises(sdk.APIStatusError) as refused:
        await openai.conversations.update(conversation.id, metadata=large)
    with pytest.raises(sdk.NotFoundError):
        await openai.conversations.update("conv_" + "0" * 32, metadata=large)

    assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")
    assert (await openai.conversations.retrieve(conversation.id)).metadata == {}


async def test_new_conversation_has_the_limit_too(settings: Settings) -> None:
    """Ours: a limit below that of OpenAI held for threads alone."""
    limited = settings.model_copy(update={"metadata_bytes": 1024})
    async with serving(limited) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.post("/v1/conversations", json={"metadata": {"note": "x" * 512, "more": "x" * 512}})
        small = await http.post("/v1/conversations", json={"metadata": {"note": "x" * 512}})

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert small.status_code == 200
