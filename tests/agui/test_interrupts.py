"""Questions of a graph: told by the outcome and by the older event, answered once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from langgraph_sdk import get_client

from agui.conftest import LOADED
from agui.pages import Page, of_type, text, user
from agui_graphs import SCHEMA
from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.api.agents.message_graphs import MessageGraphs
from threadkeep.runs.idempotency import IdempotencyKeys, KeyedResult
from threadkeep.settings import Settings


def answer(interrupt: Any, payload: Any) -> list[dict[str, Any]]:
    """The `resume` of one answer."""
    return [{"interruptId": interrupt["id"], "status": "resolved", "payload": payload}]


async def test_a_question_is_told_by_the_outcome_and_by_the_older_event(http: httpx.AsyncClient) -> None:
    """Contract, Questions: reason, message, schema, raw value; both snapshots before it."""
    page = Page(http, "form")
    events = await page.say("hello")
    (interrupt,) = events[-1]["outcome"]["interrupts"]
    (older,) = of_type(events, "CUSTOM")

    assert interrupt == {
        "id": interrupt["id"],
        "reason": "order",
        "message": "Which size?",
        "responseSchema": SCHEMA,
        "metadata": {"langgraph": {"raw": {"message": "Which size?", "reason": "order", "responseSchema": SCHEMA}}},
    }
    assert (older["name"], older["value"]) == (
        "on_interrupt",
        '{"message":"Which size?","reason":"order","responseSchema":{"type":"object","properties":{"size":{"type":"string"}},'
        '"required":["size"]}}',
    )
    assert [event["type"] for event in events[-4:]] == ["STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "CUSTOM", "RUN_FINISHED"]


async def test_questions_of_one_node_are_answered_one_after_the_other(http: httpx.AsyncClient) -> None:
    """Contract, Questions: by `resume`; the same answer to two questions is two answers."""
    page = Page(http, "form")
    first = (await page.say("hello"))[-1]["outcome"]["interrupts"][0]
    second = (await page.run(resume=answer(first, {"size": "L"})))[-1]["outcome"]["interrupts"][0]
    events = await page.run(resume=answer(second, {"size": "L"}))

    assert (second["reason"], second["message"]) == ("input_required", "Really?")
    assert text(events) == "{'size': 'L'}, {'size': 'L'}|"
    assert events[-1]["outcome"] == {"type": "success"}


async def test_several_questions_are_answered_together(http: httpx.AsyncClient) -> None:
    """Contract, Questions: `resume` must answer every open one; `cancelled` is an answer."""
    page = Page(http, "ask/two")
    interrupts = (await page.say("hello"))[-1]["outcome"]["interrupts"]
    left, right = sorted(interrupts, key=lambda each: each["message"])
    missing = await page.run(resume=answer(left, "L"))
    unknown = await page.run(resume=[*answer(left, "L"), *answer(right, "R"), *answer({"id": "x"}, 1)])
    events = await page.run(resume=[*answer(left, "L"), {"interruptId": right["id"], "status": "cancelled"}])

    assert (left["message"], left["reason"]) == ("left?", "langgraph:interrupt")
    assert [each[-1].get("code") for each in (missing, unknown)] == ["missing_answer", "unknown_interrupt"]
    assert sorted(text(events).strip("|").split("|")) == ["left L", "right {'status': 'cancelled'}"]


async def test_a_new_message_is_no_answer(http: httpx.AsyncClient, url: str) -> None:
    """Contract, Questions: RUN_ERROR, and nothing has changed."""
    page = Page(http, "ask")
    interrupt = (await page.say("hello"))[-1]["outcome"]["interrupts"][0]
    asked = page.messages
    refused = [await page.say("and more"), await page.run(resume=answer(interrupt, "x"))]
    page.messages = asked
    async with get_client(url=url, api_key=None) as client:
        runs = await client.runs.list(page.thread_id)

    assert [events[-1]["code"] for events in refused] == ["interrupted", "interrupted"]
    assert len(runs) == 1
    assert text(await page.run(resume=answer(interrupt, "blue"))) == "You chose 'blue'.|"


async def test_older_clients_answer_by_forwarded_props(http: httpx.AsyncClient) -> None:
    """Contract, What clients do: CopilotKit's hooks resume by `forwardedProps.command.resume`."""
    page = Page(http, "ask")
    await page.say("hello")
    events = await page.run(forwardedProps={"command": {"resume": "blue"}})
    both = Page(http, "ask/two")
    interrupts = (await both.say("hello"))[-1]["outcome"]["interrupts"]
    bare = await both.run(forwardedProps={"command": {"resume": "blue"}})
    by_id = {interrupt["id"]: "blue" for interrupt in interrupts}

    assert text(events) == "You chose 'blue'.|"
    assert bare[-1]["code"] == "missing_answer"
    assert sorted(text(await both.run(forwardedProps={"command": {"resume": by_id}})).strip("|").split("|")) == [
        "left blue",
        "right blue",
    ]


async def test_decisions_answer_a_human_in_the_loop(http: httpx.AsyncClient) -> None:
    """Contract, Questions out: one decision for each action."""
    page = Page(http, "approval")
    interrupt = (await page.say("hello"))[-1]["outcome"]["interrupts"][0]
    decisions = {"decisions": [{"type": "approve"}]}

    assert interrupt["responseSchema"]["required"] == ["decisions"]
    assert interrupt["reason"] == "input_required"
    assert text(await page.run(resume=answer(interrupt, decisions))) == "[{'type': 'approve'}]|"


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_same_answer_again_is_the_same_run(http: httpx.AsyncClient, url: str, at_once: bool) -> None:
    """Contract, Questions: with another run id, at the same time and later. Another answer is refused."""
    page = Page(http, "ask")
    interrupt = (await page.say("hello"))[-1]["outcome"]["interrupts"][0]
    told: list[list[dict[str, Any]]] = []

    async def resume(payload: str) -> None:
        told.append(await page.run(resume=answer(interrupt, payload), runId=str(uuid4())))

    if at_once:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(resume, "blue")
    else:
        for _ in range(3):
            await resume("blue")
    refused = await page.run(resume=answer(interrupt, "red"))
    async with get_client(url=url, api_key=None) as client:
        runs = await client.runs.list(page.thread_id)

    assert [text(events) for events in told] == ["You chose 'blue'.|"] * 3
    assert refused[-1]["code"] == "unknown_interrupt"
    assert len(runs) == 2


async def test_an_equal_answer_that_saw_the_thread_before_the_first_one_is_the_same_run(
    http: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract, Questions: the same run, although the first answer has ended since the thread was read."""
    page = Page(http, "ask")
    interrupt = (await page.say("hello"))[-1]["outcome"]["interrupts"][0]
    input_keys, has_read, may_go_on = MessageGraphs.input_keys, anyio.Event(), anyio.Event()
    told: list[list[dict[str, Any]]] = []

    async def held(self: MessageGraphs, graph_id: str) -> frozenset[str]:
        if not has_read.is_set():
            has_read.set()
            await may_go_on.wait()
        return await input_keys(self, graph_id)

    async def resume() -> None:
        told.append(await page.run(resume=answer(interrupt, "blue"), runId=str(uuid4())))

    monkeypatch.setattr(MessageGraphs, "input_keys", held)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(resume)
        await has_read.wait()
        await resume()
        may_go_on.set()
    async with get_client(url=url, api_key=None) as client:
        runs = await client.runs.list(page.thread_id)

    assert [text(events) for events in told] == ["You chose 'blue'.|"] * 2
    assert len(runs) == 2


async def test_equal_answers_wait_for_the_slot_of_the_first_one(
    module_settings: Settings, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract, Questions: however long the first answer waits for a slot, the others become the same run."""
    calls, in_use = 0, anyio.Event()
    once = IdempotencyKeys.once

    @asynccontextmanager
    async def counted(self: IdempotencyKeys, *arguments: Any) -> AsyncIterator[KeyedResult]:
        nonlocal calls
        calls += 1
        if calls > 60:
            in_use.set()
        async with once(self, *arguments) as result:
            yield result

    monkeypatch.setattr(IdempotencyKeys, "once", counted)
    monkeypatch.setattr("threadkeep.api.agents.repeated_requests.POLL_S", 0.001)
    monkeypatch.setattr("threadkeep.api.agui.runs.KEY_WAIT_S", 0.001, raising=False)
    changes = {"run_slots": 1, "slot_reserve": 0}
    told: list[list[dict[str, Any]]] = []
    async with (
        serving(module_settings.model_copy(update=changes), LOADED) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http,
    ):
        page, other = Page(http, "ask"), Page(http, "gate", messages=[user("x")])
        interrupt = (await page.say("hello"))[-1]["outcome"]["interrupts"][0]

        async def resume() -> None:
            told.append(await page.run(resume=answer(interrupt, "blue"), runId=str(uuid4())))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.run)
            await gate.entered()
            for _ in range(2):
                tasks.start_soon(resume)
            with anyio.move_on_after(WAIT_S):
                await in_use.wait()
            gate.open()

    assert [text(events) for events in told] == ["You chose 'blue'.|"] * 2


async def test_a_question_and_no_answer_is_told_again_by_the_same_run(http: httpx.AsyncClient) -> None:
    """Contract, Coming back: the same run id after its end."""
    page = Page(http, "ask")
    run_id = str(uuid4())
    first = await page.say("hello", runId=run_id)

    assert await page.run(runId=run_id) == first


async def test_integers_of_any_size_are_answers(http: httpx.AsyncClient) -> None:
    """Contract, Who: never a 5xx for what a client sent."""
    page = Page(http, "ask")
    interrupt = (await page.say("hello"))[-1]["outcome"]["interrupts"][0]

    assert text(await page.run(resume=answer(interrupt, {"n": 10**30}))) == f"You chose {{'n': {10**30}}}.|"


async def test_calls_with_integers_of_any_size_go_in_and_come_out(http: httpx.AsyncClient) -> None:
    """Contract, Messages: as they were sent."""
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": f'{{"n":{10**30}}}'}}
    page = Page(http, "silent", messages=[{"id": "1", "role": "assistant", "toolCalls": [call]}])
    page.messages.append({"id": "2", "role": "tool", "toolCallId": "c", "content": "done"})
    await page.say("hello")

    assert page.messages[0]["toolCalls"] == [call]
