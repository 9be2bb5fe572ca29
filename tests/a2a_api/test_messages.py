"""Messages and tasks of A2A 1.0, to the letter of ProtoJSON."""

import base64
import re
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from a2a_api.conftest import Rpc, said
from openai_graphs import ODD_FIELDS
from threadkeep.settings import Settings

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def send(rpc: Rpc, agent: str, params: Any = None, **more: Any) -> Any:
    """The task of a message."""
    answer = await rpc(agent, "SendMessage", params or said(**more))
    assert "result" in answer, answer
    return answer["result"]["task"]


async def test_a_task_is_proto_json(rpc: Rpc) -> None:
    """Contract: no `kind`, `TASK_STATE_...`, `ROLE_...`, bare parts, times in milliseconds."""
    sent = said("hello")
    answer = await rpc("echo", "SendMessage", sent)
    task = answer["result"]["task"]

    assert answer.keys() == {"jsonrpc", "id", "result"}
    assert TIME.fullmatch(task["status"]["timestamp"])
    assert task == {
        "id": task["id"],
        "contextId": task["contextId"],
        "status": {"state": "TASK_STATE_COMPLETED", "timestamp": task["status"]["timestamp"]},
        "artifacts": [{"artifactId": "answer", "parts": [{"text": "You said: hello"}]}],
        "history": [{**sent["message"], "taskId": task["id"], "contextId": task["contextId"]}],
    }
    assert (await rpc("echo", "GetTask", {"id": task["id"]}))["result"] == task


async def test_a_task_is_a_run_and_a_context_is_a_thread(http: httpx.AsyncClient, rpc: Rpc) -> None:
    """Contract: what A2A starts is seen by the LangGraph API."""
    task = await send(rpc, "echo")
    run = (await http.get(f"/threads/{task['contextId']}/runs/{task['id']}")).json()

    assert run["status"] == "success"
    assert run["metadata"]["source"] == "a2a"
    thread = (await http.get(f"/threads/{task['contextId']}")).json()
    assert "chain" not in thread["metadata"]


async def test_integers_of_any_size_are_read(rpc: Rpc) -> None:
    """Ours: a node that returned a long integer failed the request."""
    task = await send(rpc, "long")

    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert task["artifacts"][0]["parts"] == [{"text": "many"}]


@pytest.mark.parametrize("number", range(len(ODD_FIELDS)))
async def test_messages_that_a_graph_made_up_fail_no_task(rpc: Rpc, number: int) -> None:
    """Ours: fields of a plain dict with values of other types."""
    task = await send(rpc, "odd", text=str(number))

    assert task["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_a_context_goes_on(rpc: Rpc) -> None:
    """Contract: contextId is the thread, and each message without a task is a task of its own."""
    first = await send(rpc, "echo", text="one")
    second = await send(rpc, "echo", said("two", contextId=first["contextId"]))

    assert second["contextId"] == first["contextId"]
    assert second["id"] != first["id"]
    assert second["artifacts"][0]["parts"] == [{"text": "You said: one / two"}]
    assert len(second["history"]) == 1
    assert (await rpc("echo", "GetTask", {"id": first["id"]}))["result"] == first


async def test_a_context_may_have_the_clients_own_name(rpc: Rpc) -> None:
    """Contract: a text stands for a thread of the caller's, and is told back verbatim. A UUID is the thread."""
    name, thread_id = f"my notes {uuid4()}", str(uuid4())
    tasks = [await send(rpc, "echo", said(text, contextId=name)) for text in ("one", "two")]
    own = await send(rpc, "echo", said("three", contextId=thread_id))

    assert [task["contextId"] for task in tasks] == [name, name]
    assert tasks[1]["artifacts"][0]["parts"] == [{"text": "You said: one / two"}]
    assert own["contextId"] == thread_id
    listed = (await rpc("echo", "ListTasks", {"contextId": name}))["result"]
    assert [task["id"] for task in listed["tasks"]] == [tasks[1]["id"], tasks[0]["id"]]


async def test_the_same_message_again_is_the_same_task(rpc: Rpc) -> None:
    """Contract: nothing runs."""
    sent = said("once", contextId=str(uuid4()))
    tasks = [await send(rpc, "echo", sent) for _ in range(2)]

    assert tasks[0] == tasks[1]
    listed = (await rpc("echo", "ListTasks", {"contextId": sent["message"]["contextId"]}))["result"]
    assert listed["totalSize"] == 1


async def test_the_same_message_for_another_agent_is_another_task(rpc: Rpc) -> None:
    """Ours: two agents may talk in one context."""
    sent = said("hello", contextId=str(uuid4()))
    tasks = [await send(rpc, agent, sent) for agent in ("echo", "plain", "echo", "plain")]

    assert tasks[0]["id"] == tasks[2]["id"] != tasks[1]["id"] == tasks[3]["id"]
    assert tasks[1]["artifacts"][0]["parts"] == [{"text": "a plain dict"}]


async def test_an_id_that_a_client_uses_twice_is_no_repetition(rpc: Rpc) -> None:
    """TCK, CORE-HIST-005: the same messageId with another text is another message."""
    task = await send(rpc, "chat", said("hello", messageId="twice"))
    for text in ("red", "blue", "done"):
        task = await send(rpc, "chat", said(text, messageId="twice", taskId=task["id"]))

    assert task["artifacts"][0]["parts"] == [{"text": "red, blue"}]


async def test_a_message_with_a_used_id_replaces_no_other(http: httpx.AsyncClient, rpc: Rpc) -> None:
    """Ours: LangGraph's reducer would put a message in the place of one with the same id."""
    thread_id = str(uuid4())
    first = said("first", messageId="used", contextId=thread_id)
    for sent in (first, said("second", messageId="used", contextId=thread_id), first):
        await send(rpc, "echo", sent)
    await send(rpc, "plain", first)
    messages = (await http.get(f"/threads/{thread_id}/state")).json()["values"]["messages"]

    texts = [message["content"] for message in messages if message["type"] == "human"]
    assert texts == ["first", "second", "first"]
    assert messages[0]["id"] == "used"


async def test_fields_may_have_the_names_of_the_proto(rpc: Rpc) -> None:
    """Contract: what the TCK sends. Unknown fields are passed over, and null is the same as absent."""
    sent: Any = {"message_id": str(uuid4()), "role": "ROLE_USER", "parts": [{"text": "hi", "media_type": "text/plain"}]}
    configuration = {"history_length": 0, "unknown": 1, "accepted_output_modes": None}
    task = await send(rpc, "echo", {"message": sent, "configuration": configuration})
    second = {**sent, "message_id": str(uuid4()), "context_id": task["contextId"]}

    assert "history" not in task
    assert (await send(rpc, "echo", {"message": second}))["contextId"] == task["contextId"]


async def test_history_length(rpc: Rpc) -> None:
    """Contract: 0 is none."""
    task = await send(rpc, "echo")
    for length, count in ((0, None), (1, 1), (5, 1)):
        read = (await rpc("echo", "GetTask", {"id": task["id"], "historyLength": length}))["result"]
        assert len(read.get("history", ())) == (count or 0)
        assert ("history" in read) == (count is not None)


async def test_parts_become_blocks_and_blocks_become_parts(rpc: Rpc) -> None:
    """Contract: text, files by bytes and by URL, data; and what the graph reads in its configuration."""
    raw = base64.b64encode(b"picture").decode()
    parts = [
        {"text": "look"},
        {"raw": raw.rstrip("="), "mediaType": "image/png", "filename": "a.png"},
        {"url": "https://files.example/a.pdf", "metadata": {"page": 1}},
        {"data": {"a": [1, None]}},
    ]
    params = said(parts=parts, metadata={"tone": "dry"}, extensions=["https://x.example"], referenceTaskIds=["t"])
    params |= {"metadata": {"trace": "1"}, "configuration": {"acceptedOutputModes": ["text/plain"]}}
    task = await send(rpc, "show", params)

    shown = task["artifacts"][0]["parts"]
    assert shown[:4] == [
        {"text": "look"},
        {"raw": raw, "mediaType": "image/png", "filename": "a.png"},
        {"url": "https://files.example/a.pdf", "mediaType": "application/pdf"},
        {"text": '{"a":[1,null]}'},
    ]
    own = shown[4]["data"]
    assert own["metadata"] == {"trace": "1"}
    assert own["accepted_output_modes"] == ["text/plain"]
    assert {name: own["message"][name] for name in ("metadata", "extensions", "referenceTaskIds")} == {
        "metadata": {"tone": "dry"},
        "extensions": ["https://x.example"],
        "referenceTaskIds": ["t"],
    }
    assert task["history"][0]["parts"] == [parts[0], {**parts[1], "raw": raw}, parts[2], parts[3]]


async def test_a_graph_without_messages_takes_and_gives_data(rpc: Rpc) -> None:
    """Contract: exactly one data part is the input, and the artifact is one data part with the output."""
    task = await send(rpc, "sum", said(parts=[{"data": {"numbers": [1, 2]}}]))
    again = await send(rpc, "sum", said(parts=[{"data": {"numbers": [5]}}], contextId=task["contextId"]))

    assert task["artifacts"][0]["parts"] == [{"data": {"total": 3}}]
    assert again["artifacts"][0]["parts"] == [{"data": {"total": 5}}]
    assert (await rpc("sum", "GetTask", {"id": task["id"]}))["result"] == task
    long = await send(rpc, "sum", said(parts=[{"data": {"numbers": [10**30, 1]}}]))
    assert long["artifacts"][0]["parts"] == [{"data": {"total": 10**30 + 1}}]
    for parts in ([{"text": "1"}], [{"data": 1}, {"data": 2}]):
        error = (await rpc("sum", "SendMessage", said(parts=parts)))["error"]
        assert error["code"] in {-32602, -32005}


@pytest.mark.parametrize(
    ("agent", "text"),
    [("plain", "a plain dict"), ("hidden", "in the open"), ("speeches", "the second"), ("think", "here it is"),
     ("twice", "three four"), ("parent", "You said: hello")],
)  # fmt: skip
async def test_the_artifact_is_the_last_message(rpc: Rpc, agent: str, text: str) -> None:
    """Contract: streamed or not, of a subgraph, beside reasoning, and of two models at once."""
    task = await send(rpc, agent)

    assert task["artifacts"][0]["parts"] == [{"text": text}]


async def test_a_failed_run_is_a_failed_task(rpc: Rpc) -> None:
    """Contract: the reason is in the status."""
    task = await send(rpc, "fail-late")

    assert task["status"]["state"] == "TASK_STATE_FAILED"
    assert task["status"]["message"]["parts"] == [{"text": "ValueError: the node failed"}]
    assert task["artifacts"][0]["parts"] == [{"text": "before the failure"}]
    answer = await rpc("fail-late", "SendMessage", said("more", taskId=task["id"]))
    assert answer["error"]["code"] == -32004


async def test_a_question_is_answered_by_its_task(http: httpx.AsyncClient, rpc: Rpc) -> None:
    """Contract: INPUT_REQUIRED, the question as text and its value as data. The answer is a second run of the same task."""
    asked = await send(rpc, "ask")
    assert asked["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    assert asked["status"]["message"]["role"] == "ROLE_AGENT"
    assert asked["status"]["message"]["parts"] == [{"text": "Which one?"}, {"data": {"question": "Which one?"}}]

    answer = said("the red one", taskId=asked["id"])
    task = await send(rpc, "ask", answer)

    assert (task["id"], task["contextId"]) == (asked["id"], asked["contextId"])
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert task["artifacts"][0]["parts"] == [{"text": "You chose 'the red one'."}]
    assert [each["role"] for each in task["history"]] == ["ROLE_USER", "ROLE_AGENT", "ROLE_USER"]
    assert task["history"][1] == asked["status"]["message"]
    assert await send(rpc, "ask", answer) == task
    runs = (await http.get(f"/threads/{task['contextId']}/runs")).json()
    assert len(runs) == 2
    assert {run["metadata"]["chain"]["id"] for run in runs} == {task["id"]}


async def test_several_answers(rpc: Rpc) -> None:
    """Ours: a text answers every question, data answers each by its id, and a text decides on actions."""
    asked = await send(rpc, "ask/two")
    ids = [part["data"]["interrupt_id"] for part in asked["status"]["message"]["parts"] if "data" in part]
    answers = {ids[0]: "one", ids[1]: "two"}
    both = await send(rpc, "ask/two", said(parts=[{"data": answers}], taskId=asked["id"]))
    assert both["status"]["state"] == "TASK_STATE_COMPLETED"
    assert both["artifacts"][0]["parts"][0]["text"] in {"left one", "right two", "left two", "right one"}

    approval = await send(rpc, "approval")
    assert approval["status"]["message"]["parts"][0]["text"] == 'Approve these actions?\n- delete({"id":1})'
    approved = await send(rpc, "approval", said("yes", taskId=approval["id"]))
    assert approved["artifacts"][0]["parts"] == [{"text": "[{'type': 'approve'}]"}]

    asks = await send(rpc, "sum-asks", said(parts=[{"data": {"numbers": [1]}}]))
    done = await send(rpc, "sum-asks", said(parts=[{"data": {"more": 4}}], taskId=asks["id"]))
    assert done["artifacts"][0]["parts"] == [{"data": {"total": 5}}]


async def test_a_long_conversation_is_one_task(rpc: Rpc) -> None:
    """Contract: history has this task's messages only, in order."""
    task = await send(rpc, "chat")
    for text in ("red", "blue", "done"):
        task = await send(rpc, "chat", said(text, taskId=task["id"], contextId=task["contextId"]))

    assert task["artifacts"][0]["parts"] == [{"text": "red, blue"}]
    texts = [message["parts"][0]["text"] for message in task["history"]]
    assert texts == ["hello", "What else?", "red", "What else?", "blue", "What else?", "done"]


async def test_a_question_that_others_have_answered_is_no_longer_open(http: httpx.AsyncClient, rpc: Rpc) -> None:
    """Ours: the LangGraph API resumes the thread, so the task is completed and takes no answer."""
    asked = await send(rpc, "ask")
    body = {"assistant_id": "ask", "command": {"resume": "this"}}
    await http.post(f"/threads/{asked['contextId']}/runs/wait", json=body)
    task = (await rpc("ask", "GetTask", {"id": asked["id"]}))["result"]

    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    answer = await rpc("ask", "SendMessage", said("late", taskId=asked["id"]))
    assert answer["error"]["code"] == -32004


async def test_ids_of_requests_come_back_as_they_were(http: httpx.AsyncClient) -> None:
    """Contract: 0 and "" are ids."""
    for rpc_id in (0, "", "a", 7):
        body = {"jsonrpc": "2.0", "id": rpc_id, "method": "SendMessage", "params": said()}
        assert (await http.post("/a2a/echo/", json=body)).json()["id"] == rpc_id


async def test_times_of_tasks_order_lists(rpc: Rpc) -> None:
    """Contract, ListTasks: newest first, pages, total, filters, artifacts only if asked for."""
    context = str(uuid4())
    tasks = [await send(rpc, "echo", said(str(number), contextId=context)) for number in range(5)]
    asked = await send(rpc, "ask")
    first = (await rpc("echo", "ListTasks", {"contextId": context, "pageSize": 2}))["result"]
    second = await rpc("echo", "ListTasks", {"contextId": context, "pageSize": 2, "pageToken": first["nextPageToken"]})
    last_token = second["result"]["nextPageToken"]
    third = (await rpc("echo", "ListTasks", {"contextId": context, "pageSize": 2, "pageToken": last_token}))["result"]

    listed = [*first["tasks"], *second["result"]["tasks"], *third["tasks"]]
    assert [task["id"] for task in listed] == [task["id"] for task in reversed(tasks)]
    assert (first["pageSize"], first["totalSize"], third["nextPageToken"]) == (2, 5, "")
    assert all("artifacts" not in task for task in listed)
    shown = (await rpc("echo", "ListTasks", {"contextId": context, "includeArtifacts": True}))["result"]
    assert shown["tasks"] == list(reversed(tasks))
    since = {"contextId": context, "statusTimestampAfter": tasks[3]["status"]["timestamp"]}
    assert (await rpc("echo", "ListTasks", since))["result"]["totalSize"] in {1, 2}
    waiting = (await rpc("ask", "ListTasks", {"status": "TASK_STATE_INPUT_REQUIRED"}))["result"]
    assert asked["id"] in [task["id"] for task in waiting["tasks"]]
    assert (await rpc("echo", "ListTasks", {"contextId": context, "status": "TASK_STATE_FAILED"}))["result"] == {
        "tasks": [],
        "nextPageToken": "",
        "pageSize": 50,
        "totalSize": 0,
    }


async def test_a_task_outlives_its_events(rpc: Rpc, module_settings: Settings) -> None:
    """Ours: after the events of its runs were deleted, the artifact comes from the thread or its checkpoints."""
    first = await send(rpc, "echo", text="one")
    second = await send(rpc, "echo", said("two", contextId=first["contextId"]))
    failed = await send(rpc, "fail")
    async with await psycopg.AsyncConnection.connect(str(module_settings.database_uri), autocommit=True) as conn:
        await conn.execute("DELETE FROM run_events")
        await conn.execute("UPDATE runs SET deleted_events_until = 100 WHERE record_events")

    for agent, task in (("echo", first), ("echo", second), ("fail", failed)):
        assert (await rpc(agent, "GetTask", {"id": task["id"]}))["result"] == task


async def test_an_id_of_a_task_is_that_of_its_first_run(rpc: Rpc) -> None:
    """Contract: server-made."""
    task = await send(rpc, "echo")

    assert UUID(task["id"]).version == 7
