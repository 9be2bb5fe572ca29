"""Runs on a thread: their answer, their row, what they leave on the thread."""

import anyio
import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError

from graphs import Gate


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


async def test_wait_answers_with_the_final_values(client: LangGraphClient) -> None:
    """Protocol: POST …/runs/wait."""
    thread = await client.threads.create()

    values = await client.runs.wait(thread["thread_id"], "chain", input={"items": ["in"]})

    assert values == {"items": ["in", "first", "second"]}
    after = await client.threads.get(thread["thread_id"])
    assert (after["status"], after["values"]) == ("idle", values)
    assert after["metadata"]["graph_id"] == "chain"


async def test_thread_remembers_from_run_to_run_and_no_other_does(client: LangGraphClient) -> None:
    """Ours: memory and isolation, which the original test failed."""
    one, other = await client.threads.create(), await client.threads.create()

    await client.runs.wait(one["thread_id"], "counter", input=2)
    assert await client.runs.wait(one["thread_id"], "counter", input=3) == 5
    assert await client.runs.wait(other["thread_id"], "counter", input=1) == 1


async def test_wait_answers_whatever_modes_were_asked_for(http: httpx.AsyncClient) -> None:
    """Protocol: the reference loses the result of a stateless wait with `stream_mode: updates`; we don't."""
    body = {"assistant_id": "chain", "input": {"items": []}, "stream_mode": ["updates"]}

    assert (await http.post("/runs/wait", json=body)).json() == {"items": ["first", "second"]}


async def test_the_owner_of_a_failed_run_gets_its_reason(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Protocol: 200 with `__error__`; run and thread are `error`, and the thread can go on."""
    thread = await client.threads.create()
    path = f"/threads/{thread['thread_id']}/runs/wait"

    answer = await http.post(path, json={"assistant_id": "failing", "input": {"items": []}})

    assert answer.json() == {"__error__": {"error": "ValueError", "message": "the node failed"}}
    (run,) = await client.runs.list(thread["thread_id"])
    after = await client.threads.get(thread["thread_id"])
    assert (run["status"], after["status"]) == ("error", "error")
    assert after["error"] == {"error": "ValueError", "message": "the node failed"}
    assert await client.runs.wait(thread["thread_id"], "counter", input=1) == 1


async def test_second_run_on_a_busy_thread_is_rejected(client: LangGraphClient, gate: Gate) -> None:
    """Protocol: `multitask_strategy="reject"` answers 409."""
    thread = await client.threads.create()
    await client.runs.create(thread["thread_id"], "gated", input={"items": []})
    await gate.entered()

    with pytest.raises(ConflictError):
        await client.runs.create(thread["thread_id"], "gated", input={"items": []}, multitask_strategy="reject")


async def test_ten_runs_enqueued_at_once_keep_every_message(client: LangGraphClient) -> None:
    """Protocol: enqueue: one after the other, nothing lost."""
    thread = await client.threads.create()

    async def say(number: int) -> None:
        message = {"role": "user", "content": f"question {number}"}
        await client.runs.wait(thread["thread_id"], "speaking", input={"messages": [message]})

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(say, number)

    messages = (await client.threads.get_state(thread["thread_id"]))["values"]["messages"]
    assert len(messages) == 20
    assert [message["type"] for message in messages] == ["human", "ai"] * 10
    assert {message["content"] for message in messages[::2]} == {f"question {number}" for number in range(10)}
    assert {run["status"] for run in await client.runs.list(thread["thread_id"], limit=20)} == {"success"}


async def test_interrupting_run_stops_the_one_before(client: LangGraphClient, gate: Gate) -> None:
    """Protocol: `multitask_strategy="interrupt"`."""
    thread = await client.threads.create()
    first = await client.runs.create(thread["thread_id"], "gated", input={"items": ["one"]})
    await gate.entered()

    second = await client.runs.create(
        thread["thread_id"], "chain", input={"items": ["two"]}, multitask_strategy="interrupt"
    )

    with anyio.fail_after(5):
        values = await client.runs.join(thread["thread_id"], second["run_id"])
    assert values == {"items": ["one", "two", "first", "second"]}
    assert (await client.runs.get(thread["thread_id"], first["run_id"]))["status"] == "interrupted"


async def test_a_run_with_rollback_deletes_the_previous_run(client: LangGraphClient, gate: Gate) -> None:
    """Protocol: `multitask_strategy="rollback"`: run and checkpoints are gone."""
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "chain", input={"items": ["zero"]})
    first = await client.runs.create(thread["thread_id"], "gated", input={"items": ["one"]})
    await gate.entered()

    second = await client.runs.create(
        thread["thread_id"], "chain", input={"items": ["two"]}, multitask_strategy="rollback"
    )

    with anyio.fail_after(5):
        values = await client.runs.join(thread["thread_id"], second["run_id"])
    assert values == {"items": ["zero", "first", "second", "two", "first", "second"]}
    with pytest.raises(NotFoundError):
        await client.runs.get(thread["thread_id"], first["run_id"])


async def test_a_run_with_rollback_deletes_pending_runs(client: LangGraphClient, gate: Gate) -> None:
    """Protocol: `multitask_strategy="rollback"`: also runs that had not begun are gone."""
    thread = await client.threads.create()
    first = await client.runs.create(thread["thread_id"], "gated", input={"items": ["one"]})
    await gate.entered()
    pending = await client.runs.create(thread["thread_id"], "chain", input={"items": ["two"]})

    third = await client.runs.create(
        thread["thread_id"], "chain", input={"items": ["three"]}, multitask_strategy="rollback"
    )

    with anyio.fail_after(5):
        values = await client.runs.join(thread["thread_id"], third["run_id"])
    assert values == {"items": ["three", "first", "second"]}
    for gone in (first, pending):
        with pytest.raises(NotFoundError):
            await client.runs.get(thread["thread_id"], gone["run_id"])


async def test_cancelled_run_stops_and_its_thread_waits_to_go_on(client: LangGraphClient, gate: Gate) -> None:
    """Protocol: cancel: run and thread `interrupted`, `next` keeps the node."""
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "gated", input={"items": ["in"]})
    await gate.entered()

    with anyio.fail_after(5):
        await client.runs.cancel(thread["thread_id"], run["run_id"], wait=True)

    assert (await client.runs.get(thread["thread_id"], run["run_id"]))["status"] == "interrupted"
    state = await client.threads.get_state(thread["thread_id"])
    assert state["next"] == ["gate"]
    assert (await client.threads.get(thread["thread_id"]))["status"] == "interrupted"
    gate.open()
    assert await client.runs.wait(thread["thread_id"], "gated") == {"items": ["in", "gated"]}


async def test_waiting_run_can_be_cancelled_before_it_starts(client: LangGraphClient, gate: Gate) -> None:
    """Protocol: cancel of a pending run."""
    thread = await client.threads.create()
    first = await client.runs.create(thread["thread_id"], "gated", input={"items": []})
    second = await client.runs.create(thread["thread_id"], "gated", input={"items": []})
    await gate.entered()

    await client.runs.cancel(thread["thread_id"], second["run_id"], wait=True)

    assert (await client.runs.get(thread["thread_id"], second["run_id"]))["status"] == "interrupted"
    gate.open()
    await client.runs.join(thread["thread_id"], first["run_id"])
    assert (await client.threads.get(thread["thread_id"]))["status"] == "idle"


async def test_interrupt_waits_for_its_answer_and_goes_on(client: LangGraphClient) -> None:
    """Protocol: `interrupt()`: run `success`, thread `interrupted`, resume by command."""
    thread = await client.threads.create()

    asked = await client.runs.wait(thread["thread_id"], "asking", input={"items": []})

    (interrupt,) = asked["__interrupt__"]
    assert interrupt["value"] == {"question": "which?"}
    row = await client.threads.get(thread["thread_id"])
    assert row["status"] == "interrupted"
    assert list(row["interrupts"].values()) == [[{"id": interrupt["id"], "value": {"question": "which?"}}]]
    answered = await client.runs.wait(thread["thread_id"], "asking", command={"resume": "this"})
    assert answered == {"items": ["first", "this", "second"]}
    after = await client.threads.get(thread["thread_id"])
    assert (after["status"], after["interrupts"]) == ("idle", {})


async def test_several_interrupts_are_answered_by_id(client: LangGraphClient) -> None:
    """Protocol: resume map `{interrupt_id: value}`."""
    thread = await client.threads.create()
    asked = await client.runs.wait(thread["thread_id"], "two_questions", input={"items": []})
    answers = {found["id"]: found["value"]["question"] for found in asked["__interrupt__"]}

    values = await client.runs.wait(thread["thread_id"], "two_questions", command={"resume": answers})

    assert values == {"items": ["which?", "and which?"]}


async def test_run_stops_before_and_after_named_nodes(client: LangGraphClient) -> None:
    """Protocol: `interrupt_before`, `interrupt_after`; a run without input goes on."""
    thread = await client.threads.create()

    await client.runs.wait(thread["thread_id"], "chain", input={"items": []}, interrupt_before=["second"])

    assert (await client.threads.get_state(thread["thread_id"]))["next"] == ["second"]
    assert (await client.threads.get(thread["thread_id"]))["status"] == "interrupted"
    assert await client.runs.wait(thread["thread_id"], "chain") == {"items": ["first", "second"]}


async def test_run_from_a_checkpoint_branches_off(client: LangGraphClient) -> None:
    """Protocol: `checkpoint`: the new branch is the thread's latest state."""
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "chain", input={"items": ["one"]})
    history = await client.threads.get_history(thread["thread_id"], limit=10)

    values = await client.runs.wait(
        thread["thread_id"], "chain", input={"items": ["branch"]}, checkpoint=history[-2]["checkpoint"]
    )

    assert values == {"items": ["one", "branch", "first", "second"]}
    assert (await client.threads.get_state(thread["thread_id"]))["values"] == values


async def test_missing_thread_is_made_only_on_request(client: LangGraphClient) -> None:
    """Protocol: `if_not_exists`."""
    thread_id = "6b1c5b0e-3f4e-4b5e-9a53-3b8b8f4d7c11"

    with pytest.raises(httpx.HTTPStatusError) as refused:
        await client.runs.wait(thread_id, "chain", input={"items": []})
    assert refused.value.response.status_code == 404

    await client.runs.wait(thread_id, "chain", input={"items": []}, if_not_exists="create")
    assert (await client.threads.get(thread_id))["values"] == {"items": ["first", "second"]}


async def test_stateless_run_leaves_nothing(client: LangGraphClient) -> None:
    """Protocol: a run without a thread; ours: without the database."""
    assert await client.runs.wait(None, "chain", input={"items": []}) == {"items": ["first", "second"]}
    assert await client.threads.search() == []


async def test_delayed_run_stays_pending_until_its_time(client: LangGraphClient) -> None:
    """Protocol: `after_seconds`."""
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "chain", input={"items": []}, after_seconds=1)

    assert run["status"] == "pending"
    with anyio.fail_after(5):
        assert await client.runs.join(thread["thread_id"], run["run_id"]) == {"items": ["first", "second"]}


@pytest.mark.parametrize(
    ("field", "value"),
    [("config", {"recursion_limit": 10**9}), ("stream_mode", ["bogus"])],
)
async def test_an_unsupported_field_is_refused_by_name(http: httpx.AsyncClient, field: str, value: object) -> None:
    """Ours: a documented field is never accepted and ignored."""
    answer = await http.post("/runs/wait", json={"assistant_id": "chain", "input": {}, field: value})

    assert answer.status_code == 422
    assert field in answer.json()["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("feedback_keys", ["quality"]), ("langsmith_tracer", {"project_name": "p", "example_id": None})],
)
async def test_fields_of_langsmith_are_taken_without_effect(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, field: str, value: object
) -> None:
    """Issue: Studio and older clients send them. The log says so once."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    body = {"assistant_id": "chain", "input": {"items": []}, field: value}
    paths = ("/runs/wait", f"/threads/{thread_id}/runs/wait")
    answers = [await http.post(path, json=body) for path in paths]

    assert [answer.json() for answer in answers] == [{"items": ["first", "second"]}] * 2
    told = [line.__dict__["field"] for line in caplog.records if "LangSmith" in line.getMessage()]
    assert told in ([field], [])  # once for each process
