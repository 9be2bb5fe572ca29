"""Messages of a state that a graph has made up: plain dicts, and fields with values of other types."""

from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from openai_graphs import LONG, ODD_FIELDS

WEATHER: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("tools", [WEATHER, []], ids=["declared", "not declared"])
async def test_call_of_a_plain_dict_has_its_name_and_arguments(openai: AsyncOpenAI, tools: Any) -> None:
    """Ours: a node may return the message of OpenAI's own client, whose calls have another form."""
    asked: Any = {"model": "plain-call", "messages": [{"role": "user", "content": "hello"}]} | (
        {"tools": tools} if tools else {}
    )
    choice = (await openai.chat.completions.create(**asked)).choices[0]
    chunks = [chunk async for chunk in await openai.chat.completions.create(stream=True, **asked)]

    calls: Any = choice.message.tool_calls
    functions: Any = [call.function for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call-1", "weather", '{"city": "Oslo"}')
    ]
    assert functions[0].name == "weather"
    assert "".join(function.arguments for function in functions) == '{"city": "Oslo"}'


@pytest.mark.parametrize("number", range(len(ODD_FIELDS)))
async def test_odd_fields_fail_no_request(http: httpx.AsyncClient, number: int) -> None:
    """Ours: a field with a value of another type was answered with 500, also when its conversation was read later."""
    made = (await http.post("/v1/conversations", json={})).json()["id"]
    asked: dict[str, Any] = {"model": "odd", "input": str(number), "conversation": made}
    response = await http.post("/v1/responses", json=asked)
    messages = [{"role": "user", "content": str(number)}]
    completion = await http.post("/v1/chat/completions", json={"model": "odd", "messages": messages})
    items = await http.get(f"/v1/conversations/{made}/items")
    again = await http.get(f"/v1/responses/{response.json()['id']}")

    answers = [response, completion, items, again]
    assert [answer.status_code for answer in answers] == [200] * 4, [answer.text for answer in answers]
    assert again.json()["status"] in {"completed", "incomplete"}


@pytest.mark.parametrize("kind", [["text"], {"text": 1}, 5, True, None], ids=str)
async def test_part_whose_type_is_not_a_text_is_refused(http: httpx.AsyncClient, kind: object) -> None:
    """Ours: a list or an object as the type was answered with 500."""
    conversation = (await http.post("/v1/conversations", json={})).json()["id"]
    message = {"role": "user", "content": [{"type": kind, "text": "x"}]}
    result = {"type": "function_call_output", "call_id": "x", "output": [{"type": kind}]}
    answers = [
        await http.post("/v1/chat/completions", json={"model": "echo", "messages": [message]}),
        await http.post("/v1/responses", json={"model": "echo", "input": [message]}),
        await http.post("/v1/responses", json={"model": "echo", "input": [result]}),
        await http.post(f"/v1/conversations/{conversation}/items", json={"items": [message]}),
    ]

    places = ["messages[0].content[0].type", "input[0].content[0].type", "input[0].output[0].type"]
    assert [answer.status_code for answer in answers] == [400] * 4
    assert [answer.json()["error"]["param"] for answer in answers] == [*places, places[1]]


async def test_integers_of_any_size_are_read(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    """Ours: a node that returned a long integer failed the response, and a question lost its digits."""
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    answer = await openai.chat.completions.create(model="long", messages=messages)
    asked = {"model": "long", "input": "ask"}
    response = (await http.post("/v1/responses", json=asked)).json()
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": f'{{"n": {LONG}}}'}}
    called = [
        *messages,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    echoed = await http.post("/v1/chat/completions", json={"model": "echo", "messages": called})
    path = f"/v1/conversations/{(await openai.conversations.create()).id}/items"
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": f'{{"n":{LONG}}}'}
    added = await http.post(path, json={"items": [item]})

    assert answer.choices[0].message.content == "many"
    assert response["langgraph"]["interrupts"][0]["value"] == {"question": "how many?", "most": LONG}
    assert (echoed.status_code, added.status_code) == (200, 200)
    assert [each["arguments"] for each in (await http.get(path)).json()["data"]] == [item["arguments"]]


async def test_items_that_are_no_messages_add_nothing(http: httpx.AsyncClient) -> None:
    """Ours: clients send reasoning back. Alone it was answered with 500."""
    path = f"/v1/conversations/{(await http.post('/v1/conversations', json={})).json()['id']}/items"
    reasoning = {"id": "rs_1", "type": "reasoning", "summary": []}
    added = await http.post(path, json={"items": [reasoning]})

    assert (added.status_code, added.json()["data"]) == (200, [])
    assert (await http.get(path)).json()["data"] == []
