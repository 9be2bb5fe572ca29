"""Streams and cancels: the order of events, subscriptions in another process, and tasks that are stopped or deleted."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest

from a2a_api.conftest import Rpc, loaded_graphs, said
from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.settings import Settings


@asynccontextmanager
async def stream(http: httpx.AsyncClient, agent: str, method: str, params: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """The results of a stream, as they come."""
    body = {"jsonrpc": "2.0", "id": "s", "method": method, "params": params}
    async with http.stream("POST", f"/a2a/{agent}", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream"), await answer.aread()

        async def results() -> AsyncIterator[Any]:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    answered = json.loads(line.removeprefix("data: "))
                    assert answered["id"] == "s"
                    yield answered.get("result") or answered

        yield results()


async def streamed(http: httpx.AsyncClient, agent: str, params: Any, method: str = "SendStreamingMessage") -> list[Any]:
    async with stream(http, agent, method, params) as results:
        return [result async for result in results]


def artifact_of(events: list[Any]) -> str:
    """The text of the artifact, as a client puts it together."""
    text = "".join(part["text"] for artifact in events[0]["task"].get("artifacts", []) for part in artifact["parts"])
    for event in events:
        if update := event.get("artifactUpdate"):
            added = "".join(part["text"] for part in update["artifact"]["parts"])
            text = text + added if update["append"] else added
    return text


async def test_a_stream_has_the_task_then_pieces_then_the_status(http: httpx.AsyncClient) -> None:
    """Contract: `append` false on the first piece, true after, and the last event is a statusUpdate."""
    events = await streamed(http, "echo", said("hello"))
    ids = {"taskId": events[0]["task"]["id"], "contextId": events[0]["task"]["contextId"]}

    assert events[0]["task"]["status"]["state"] in {"TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"}
    assert [message["parts"] for message in events[0]["task"]["history"]] == [[{"text": "hello"}]]
    assert events[1:-1] == [
        {
            "artifactUpdate": {
                **ids,
                "artifact": {"artifactId": "answer", "parts": [{"text": text}]},
                "append": index > 0,
            }
        }
        for index, text in enumerate(["You ", "said: ", "hello"])
    ]
    assert events[-1]["statusUpdate"] | {"status": {}} == {**ids, "status": {}}
    assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_a_new_message_begins_the_artifact_anew(http: httpx.AsyncClient) -> None:
    """Contract: a new AI message, streams of data, of failures and of questions."""
    events = await streamed(http, "speeches", said())
    appends = [event["artifactUpdate"]["append"] for event in events[1:-1]]
    assert appends == [False, True, False, True]
    assert artifact_of(events) == "the second"

    data = await streamed(http, "sum", said(parts=[{"data": {"numbers": [1, 2]}}]))
    assert data[1]["artifactUpdate"]["artifact"]["parts"] == [{"data": {"total": 3}}]
    assert (data[1]["artifactUpdate"]["append"], data[1]["artifactUpdate"]["lastChunk"], len(data)) == (False, True, 3)

    failed = await streamed(http, "fail-late", said())
    assert artifact_of(failed) == "before the failure"
    assert failed[-1]["statusUpdate"]["status"]["message"]["parts"] == [{"text": "ValueError: the node failed"}]

    asked = await streamed(http, "ask", said())
    assert asked[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    done = await streamed(http, "ask", said("this", taskId=asked[0]["task"]["id"]))
    assert (artifact_of(done), done[-1]["statusUpdate"]["status"]["state"]) == (
        "You chose 'this'.",
        "TASK_STATE_COMPLETED",
    )


async def test_streams_of_03(http: httpx.AsyncClient) -> None:
    """Contract: as its types have it, `final: true` at the end."""
    message = {"kind": "message", "messageId": str(uuid4()), "role": "user", "parts": [{"kind": "text", "text": "hi"}]}
    events = await streamed(http, "echo", {"message": message}, "message/stream")

    kinds = ["task", "artifact-update", "artifact-update", "artifact-update", "status-update"]
    assert [event["kind"] for event in events] == kinds
    assert events[0]["status"]["state"] in {"submitted", "working"}
    assert events[1]["artifact"] == {"artifactId": "answer", "parts": [{"kind": "text", "text": "You "}]}
    assert (events[-1]["final"], events[-1]["status"]["state"]) == (True, "completed")


@pytest.fixture(scope="module")
async def elsewhere(module_settings: Settings, url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a second server on the same database."""
    async with (
        serving(module_settings, loaded_graphs()) as other,
        httpx.AsyncClient(base_url=other, timeout=WAIT_S * 2) as http,
    ):
        yield http


async def test_a_subscription_elsewhere_gets_what_is_missing(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, gate: Gate
) -> None:
    """Contract: at any replica, what the artifact holds so far, and then exactly what is missing."""
    async with stream(http, "gated", "SendStreamingMessage", said()) as results:
        first = [await anext(results), await anext(results)]
        task_id = first[0]["task"]["id"]
        await _recorded(elsewhere, task_id)
        async with stream(elsewhere, "gated", "SubscribeToTask", {"id": task_id}) as followed:
            told = [await anext(followed)]
            gate.open()
            told += [event async for event in followed]
        first += [event async for event in results]

    assert told[0]["task"]["artifacts"][0]["parts"] == [{"text": "before "}]
    assert told[0]["task"]["status"]["state"] == "TASK_STATE_WORKING"
    assert told[1:] == first[2:]
    assert (artifact_of(told), artifact_of(first)) == ("before after!", "before after!")


async def _recorded(http: httpx.AsyncClient, task_id: str) -> None:
    """Wait until the beginning of the artifact is in Postgres."""
    with anyio.fail_after(WAIT_S):
        while True:
            body = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": task_id}}
            if (await http.post("/a2a/gated", json=body)).json()["result"].get("artifacts"):
                return
            await anyio.sleep(0.02)


async def test_leaving_stops_nothing(http: httpx.AsyncClient, rpc: Rpc, gate: Gate) -> None:
    """Contract: a stream and a waiting request that are left."""
    async with stream(http, "gated", "SendStreamingMessage", said()) as results:
        task_id = (await anext(results))["task"]["id"]
    params = {"id": task_id}
    assert (await rpc("gated", "GetTask", params))["result"]["status"]["state"] == "TASK_STATE_WORKING"
    async with stream(http, "gated", "SubscribeToTask", params) as followed:
        await anext(followed)
        gate.open()
        events = [event async for event in followed]

    assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_a_client_that_does_not_wait(rpc: Rpc, gate: Gate) -> None:
    """Contract: `returnImmediately`, in 0.3 `blocking: false`. A second message waits its turn in the same task."""
    task = (await rpc("gated", "SendMessage", said() | {"configuration": {"returnImmediately": True}}))["result"][
        "task"
    ]
    assert task["status"]["state"] in {"TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"}
    more = said("more", taskId=task["id"]) | {"configuration": {"returnImmediately": True}}
    queued = (await rpc("gated", "SendMessage", more))["result"]["task"]
    assert (queued["id"], queued["status"]["state"]) == (task["id"], "TASK_STATE_SUBMITTED")
    gate.open()
    again = await rpc("gated", "SendMessage", said("more", taskId=task["id"], messageId=more["message"]["messageId"]))

    assert again["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert len(again["result"]["task"]["history"]) == 2


@pytest.fixture(scope="module")
async def small(module_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that executes one run, and gives small answers."""
    changes = {"run_slots": 1, "max_waiting": 0, "slot_reserve": 0, "answer_bytes": 64 * 1024}
    graphs = {name: loaded_graphs()[name] for name in ("gated", "plain")}
    async with (
        serving(module_settings.model_copy(update=changes), graphs) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http,
    ):
        yield http


async def test_a_full_server_says_when_to_come_again(small: httpx.AsyncClient, gate: Gate) -> None:
    """Contract: 503 with Retry-After, and a JSON-RPC error rides along. Reads take no slot."""
    async with stream(small, "gated", "SendStreamingMessage", said()) as results:
        task_id = (await anext(results))["task"]["id"]
        await anext(results)
        body = {"jsonrpc": "2.0", "id": 5, "method": "SendMessage", "params": said()}
        refused = await small.post("/a2a/gated", json=body)
        read = await small.post("/a2a/gated", json=body | {"method": "GetTask", "params": {"id": task_id}})
        gate.open()
        events = [event async for event in results]

    assert (refused.status_code, refused.json()["id"], refused.json()["error"]["code"]) == (503, 5, -32603)
    assert int(refused.headers["retry-after"]) > 0
    assert read.json()["result"]["id"] == task_id
    assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_a_page_ends_before_it_is_too_large(small: httpx.AsyncClient) -> None:
    """Ours: at most as many bytes as an answer may have, and at least one task."""

    async def call(method: str, params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return (await small.post("/a2a/plain", json=body)).json()["result"]

    context, text = str(uuid4()), "x" * 40_000
    tasks = [(await call("SendMessage", said(text, contextId=context)))["task"]["id"] for _ in range(3)]
    first = await call("ListTasks", {"contextId": context})
    second = await call("ListTasks", {"contextId": context, "pageToken": first["nextPageToken"]})

    assert [task["id"] for task in first["tasks"]] == [tasks[2]]
    assert ([task["id"] for task in second["tasks"]], first["totalSize"]) == ([tasks[1]], 3)


async def test_two_requests_with_one_message_at_once(http: httpx.AsyncClient, rpc: Rpc) -> None:
    """Contract: the same messageId on the same context is one task, whoever is first."""
    sent, tasks = said("once", contextId=str(uuid4())), list[Any]()

    async def one() -> None:
        tasks.append((await rpc("echo", "SendMessage", sent))["result"]["task"])

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(one)

    assert len({task["id"] for task in tasks}) == 1
    assert len((await http.get(f"/threads/{tasks[0]['contextId']}/runs")).json()) == 1


async def test_two_answers_at_once_are_one_after_the_other(rpc: Rpc) -> None:
    """Contract: one run a thread. The question has one answer, and the other message is a further one of the task."""
    asked = (await rpc("chat", "SendMessage", said()))["result"]["task"]
    answers = list[Any]()

    async def one(text: str) -> None:
        answers.append(await rpc("chat", "SendMessage", said(text, taskId=asked["id"])))

    async with anyio.create_task_group() as group:
        group.start_soon(one, "red")
        group.start_soon(one, "blue")

    assert all("result" in answer for answer in answers), answers
    task = (await rpc("chat", "GetTask", {"id": asked["id"]}))["result"]
    assert task["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    assert {"red", "blue"} <= {message["parts"][0]["text"] for message in task["history"]}


async def test_a_running_task_is_canceled(http: httpx.AsyncClient, rpc: Rpc, gate: Gate) -> None:
    """Contract: CANCELED, told to those who follow it, and final."""
    async with stream(http, "gated", "SendStreamingMessage", said()) as results:
        task_id = (await anext(results))["task"]["id"]
        await anext(results)
        task = (await rpc("gated", "CancelTask", {"id": task_id}))["result"]
        events = [event async for event in results]

    assert task["status"]["state"] == "TASK_STATE_CANCELED"
    assert events[-1]["statusUpdate"]["status"] == task["status"]
    assert (await rpc("gated", "CancelTask", {"id": task_id}))["error"]["code"] == -32002
    assert (await rpc("gated", "SendMessage", said("x", taskId=task_id)))["error"]["code"] == -32004


async def test_a_task_that_waits_for_input_is_canceled(rpc: Rpc) -> None:
    """Contract: it takes no answer then, and its context goes on with another task."""
    asked = (await rpc("ask", "SendMessage", said()))["result"]["task"]
    task = (await rpc("ask", "CancelTask", {"id": asked["id"]}))["result"]
    assert task["status"]["state"] == "TASK_STATE_CANCELED"
    assert "message" not in task["status"]
    assert (await rpc("ask", "SendMessage", said("late", taskId=asked["id"])))["error"]["code"] == -32004
    assert (await rpc("ask", "CancelTask", {"id": asked["id"]}))["error"]["code"] == -32002

    other = (await rpc("ask", "SendMessage", said("again", contextId=asked["contextId"])))["result"]["task"]
    assert other["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    assert (await rpc("ask", "GetTask", {"id": asked["id"]}))["result"]["status"] == task["status"]


async def test_a_subscription_to_a_task_that_waits_goes_on_with_it(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, rpc: Rpc
) -> None:
    """TCK, STREAM-SUB-002: the stream stays open until the task is answered or canceled, at any process."""
    for method, text in (("SendMessage", "You chose 'this'."), ("CancelTask", "")):
        asked = (await rpc("ask", "SendMessage", said()))["result"]["task"]
        params = said("this", taskId=asked["id"]) if method == "SendMessage" else {"id": asked["id"]}
        with anyio.fail_after(WAIT_S):
            async with stream(elsewhere, "ask", "SubscribeToTask", {"id": asked["id"]}) as followed:
                told = [await anext(followed)]
                answer = (await rpc("ask", method, params))["result"]
                told += [event async for event in followed]

        assert told[0]["task"] == asked
        assert told[-1]["statusUpdate"]["status"] == answer.get("task", answer)["status"]
        assert artifact_of(told) == text


async def test_an_answer_and_a_cancel_at_once(rpc: Rpc) -> None:
    """Ours: the question has an answer, or the task is canceled, and never both."""
    for _ in range(3):
        asked = (await rpc("ask", "SendMessage", said()))["result"]["task"]
        results: dict[str, Any] = {}

        async def one(method: str, params: Any, results: dict[str, Any] = results) -> None:
            results[method] = await rpc("ask", method, params)

        async with anyio.create_task_group() as group:
            group.start_soon(one, "SendMessage", said("this", taskId=asked["id"]))
            group.start_soon(one, "CancelTask", {"id": asked["id"]})
        state = (await rpc("ask", "GetTask", {"id": asked["id"]}))["result"]["status"]["state"]
        canceled = "result" in results["CancelTask"]

        assert state == ("TASK_STATE_CANCELED" if canceled else "TASK_STATE_COMPLETED")
        if "error" in results["SendMessage"]:
            assert canceled


async def test_a_task_that_is_deleted_is_gone(http: httpx.AsyncClient, rpc: Rpc, gate: Gate) -> None:
    """Ours: a delete of the thread ends its streams with an error, and the task is not there."""
    async with stream(http, "gated", "SendStreamingMessage", said()) as results:
        task = (await anext(results))["task"]
        await anext(results)
        assert (await http.delete(f"/threads/{task['contextId']}")).status_code == 204
        events = [event async for event in results]

    assert events[-1]["error"]["code"] == -32001
    assert (await rpc("gated", "GetTask", {"id": task["id"]}))["error"]["code"] == -32001


async def test_a_run_of_a_task_that_is_deleted(http: httpx.AsyncClient, rpc: Rpc) -> None:
    """Ours: without its answering run the task is what it was before."""
    asked = (await rpc("chat", "SendMessage", said()))["result"]["task"]
    await rpc("chat", "SendMessage", said("red", taskId=asked["id"]))
    runs = (await http.get(f"/threads/{asked['contextId']}/runs")).json()
    assert (await http.delete(f"/threads/{asked['contextId']}/runs/{runs[0]['run_id']}")).status_code == 204
    task = (await rpc("chat", "GetTask", {"id": asked["id"]}))["result"]

    assert task["id"] == asked["id"]
    assert len(task["history"]) == 1
