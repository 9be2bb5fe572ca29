"""The protocol v2 as it is on the wire: envelopes, channels, places, refusals."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import anyio
import httpx
import psycopg
import pytest
from websockets.asyncio.client import connect

from conftest import serving
from graphs import Gate
from protocol_graphs import PROTOCOL_GRAPHS
from threadkeep.api.protocol_v2.subscription import CHANNELS
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

NOBODY = "00000000-0000-4000-8000-000000000000"
ALL = sorted(CHANNELS)


def loaded() -> dict[str, Any]:
    return {name: as_loaded_graph(name, graph, where="tests") for name, graph in PROTOCOL_GRAPHS.items()}


@pytest.fixture(scope="module")
async def file_server(module_settings: Settings) -> AsyncIterator[str]:
    """A server of the graphs of the protocol, for all tests of this file."""
    async with serving(module_settings, loaded()) as url:
        yield url


@pytest.fixture
def url(emptied_server: str) -> str:
    """The file's server, without rows of another test."""
    return emptied_server


async def send(http: httpx.AsyncClient, thread_id: str, method: str, **params: Any) -> Any:
    answer = await http.post(f"/threads/{thread_id}/commands", json={"id": 7, "method": method, "params": params})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def watch(
    http: httpx.AsyncClient, thread_id: str, *, end: str = "completed", runs: int = 1, **body: Any
) -> list[dict[str, Any]]:
    """The thread's events up to the end of so many runs."""
    found: list[dict[str, Any]] = []
    body = {"channels": ALL} | body
    with anyio.fail_after(10):
        async with http.stream("POST", f"/threads/{thread_id}/stream/events", json=body) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line.removeprefix("data: ")))
                    runs -= _is_end(found[-1], end)
                if runs == 0:
                    return found
    return found


def _is_end(event: dict[str, Any], end: str) -> bool:
    params = event.get("params", {})
    return event.get("method") == "lifecycle" and not params["namespace"] and params["data"]["event"] == end


def data(events: list[dict[str, Any]], method: str, namespace: list[str] | None = None) -> list[Any]:
    return [
        event["params"]["data"]
        for event in events
        if event["method"] == method and (namespace is None or event["params"]["namespace"] == namespace)
    ]


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


CASES: dict[str, tuple[str, Any, str]] = {
    "values": ("telling", {"text": "it is"}, "completed"),
    "updates": ("telling", {"text": "it is"}, "completed"),
    "messages": ("agent", said("hello"), "completed"),
    "tools": ("agent", said("a sum"), "completed"),
    "lifecycle": ("telling", {"text": "it is"}, "completed"),
    "input": ("asking_text", {"text": "it is"}, "interrupted"),
    "checkpoints": ("telling", {"text": "it is"}, "completed"),
    "tasks": ("telling", {"text": "it is"}, "completed"),
    "custom": ("telling", {"text": "it is"}, "completed"),
    "custom:progress": ("telling", {"text": "it is"}, "completed"),
}
METHODS = {"input": "input.requested", "custom:progress": "custom"}


@pytest.mark.parametrize("channel", CASES)
async def test_each_channel_brings_events_of_its_own_alone(http: httpx.AsyncClient, channel: str) -> None:
    """Protocol: a subscription to a channel gets that channel's events, from a real graph."""
    graph, given, end = CASES[channel]
    thread_id = str(uuid4())
    await send(http, thread_id, "run.start", assistant_id=graph, input=given)
    events = await watch(http, thread_id, channels=[channel, "lifecycle"], end=end)

    methods = {event["method"] for event in events}
    assert methods == {METHODS.get(channel, channel), "lifecycle"}


def test_there_is_a_case_for_each_channel() -> None:
    """Ours: a new channel comes with its test."""
    assert set(CASES) == {*CHANNELS, "custom:progress"}


async def test_events_have_places_that_go_up_and_stay_below_what_javascript_counts(http: httpx.AsyncClient) -> None:
    """Protocol: `seq` is monotonous over the runs of a thread."""
    thread_id = str(uuid4())
    given: dict[str, Any] = {"assistant_id": "telling", "input": {"text": "it is"}}
    await send(http, thread_id, "run.start", **given)
    answer = await send(http, thread_id, "run.start", **given)
    events = await watch(http, thread_id, runs=2, since=0)

    places = [event["seq"] for event in events]
    assert places == sorted(set(places))
    assert max(places) < 2**53
    assert len({event["event_id"] for event in events}) == len(events)
    assert answer["type"] == "success"
    assert answer["id"] == 7


async def test_since_returns_the_events_after_any_position(http: httpx.AsyncClient) -> None:
    """Ours: from each place on, exactly the rest."""
    thread_id = str(uuid4())
    await send(http, thread_id, "run.start", assistant_id="agent", input=said("hello"))
    whole = await watch(http, thread_id)

    for index in range(0, len(whole) - 1, 3):
        rest = await watch(http, thread_id, since=whole[index]["seq"])
        assert _placed(rest) == _placed(whole[index + 1 :])


async def test_streamed_events_are_there_after_a_restart(settings: Settings) -> None:
    """Ours: the same events under the same ids from a process that never ran the graph."""
    thread_id = str(uuid4())
    async with serving(settings, loaded()) as url, httpx.AsyncClient(base_url=url) as http:
        await send(http, thread_id, "run.start", assistant_id="crew", input=said("a sum"))
        before = await watch(http, thread_id)
    async with serving(settings, loaded()) as url, httpx.AsyncClient(base_url=url) as http:
        after = await watch(http, thread_id)

    assert _placed(after) == _placed(before)


async def test_a_run_of_another_process_is_watched_as_it_goes(settings: Settings, gate: Gate) -> None:
    """Ours: any process shows any thread; half of a message read from one, the rest from another."""
    thread_id = str(uuid4())
    async with (
        serving(settings, loaded()) as one,
        serving(settings, loaded()) as two,
        httpx.AsyncClient(base_url=one) as http,
        httpx.AsyncClient(base_url=two) as other,
    ):
        await send(http, thread_id, "run.start", assistant_id="agent", input=said("wait"))
        await gate.entered()
        found: list[Any] = []
        async with anyio.create_task_group() as tasks:

            async def elsewhere() -> None:
                found.extend(await watch(other, thread_id))

            tasks.start_soon(elsewhere)
            gate.open()
        here = await watch(http, thread_id)

    assert _placed(found) == _placed(here)


def _placed(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(one["seq"], one["event_id"], one["method"], one["params"]["data"]) for one in events]


async def test_a_run_of_v1_is_watched_as_far_as_its_modes_go(http: httpx.AsyncClient) -> None:
    """Ours: one log for both protocols; a run that streams nothing has its lifecycle still."""
    thread = (await http.post("/threads", json={})).json()
    path = f"/threads/{thread['thread_id']}/runs"
    body = {"assistant_id": "agent", "input": said("hello")}
    await http.post(f"{path}/wait", json=body)
    await http.post(f"{path}/stream", json=body | {"stream_mode": ["messages-tuple"], "stream_resumable": True})
    events = await watch(http, thread["thread_id"], runs=2)

    methods = [event["method"] for event in events]
    assert methods[:3] == ["lifecycle", "lifecycle", "lifecycle"]
    assert set(methods[3:-1]) == {"messages"}
    text = "".join(one["delta"]["text"] for one in data(events, "messages") if one["event"] == "content-block-delta")
    assert text == "one two three four"


@pytest.mark.parametrize("value", [["__interrupt__"], {"deep": {"__interrupt__": 1}}, "__interrupt__", 5], ids=str)
async def test_values_of_any_type_are_told(http: httpx.AsyncClient, value: object) -> None:
    """Ours: a list that has the name of the key of interrupts ended the stream."""
    thread_id = str(uuid4())
    await send(http, thread_id, "run.start", assistant_id="returning", input=value)
    events = await watch(http, thread_id)

    assert data(events, "values") == [value]


async def test_a_run_started_here_is_joined_by_v1(http: httpx.AsyncClient) -> None:
    """Ours: and the other way round."""
    thread_id = str(uuid4())
    started = await send(http, thread_id, "run.start", assistant_id="telling", input={"text": "it is"})
    run = f"/threads/{thread_id}/runs/{started['result']['run_id']}"
    joined = await http.get(f"{run}/stream", headers={"last-event-id": "-1"}, params={"stream_mode": "custom"})
    values = await http.get(f"{run}/join")

    assert '"done":1' in joined.text
    assert values.json() == {"text": "it is told"}


async def test_namespaces_and_depth_choose_graphs(http: httpx.AsyncClient) -> None:
    """Protocol: a namespace is a beginning, a segment without a task id any task, `depth` how far below."""
    thread_id = str(uuid4())
    await send(http, thread_id, "run.start", assistant_id="nested", input={"text": "it is"})
    root = await watch(http, thread_id, end="interrupted", namespaces=[[]], depth=0)
    both = await watch(http, thread_id, end="interrupted", namespaces=[["child"], []])
    below = [event for event in both if event["params"]["namespace"]]

    assert {tuple(event["params"]["namespace"]) for event in root} == {()}
    assert {event["params"]["namespace"][0].partition(":")[0] for event in below} == {"child"}
    assert [one["event"] for one in data(below, "lifecycle")] == ["started", "interrupted"]


async def test_a_question_in_a_subgraph_is_sent_once_and_answered(http: httpx.AsyncClient) -> None:
    """Protocol: by its id, with an update of the state beside the answer."""
    thread_id = str(uuid4())
    await send(http, thread_id, "run.start", assistant_id="nested", input={"text": "it is"})
    [asked] = data(await watch(http, thread_id, end="interrupted"), "input.requested")
    wrong = await send(http, thread_id, "input.respond", namespace=[], interrupt_id="0" * 32, response="no")
    answered = await send(
        http, thread_id, "input.respond", responses=[{"interrupt_id": asked["interrupt_id"], "response": "so"}]
    )
    events = await watch(http, thread_id, since=answered["meta"]["applied_through_seq"])

    assert (asked["payload"], asked["value"]) == ("and why?", "and why?")
    assert (wrong["type"], wrong["id"], wrong["error"]) == ("error", 7, "no_such_interrupt")
    assert data(events, "values", [])[-1] == {"text": "it is told so"}


async def test_blocks_other_than_text_are_sent_too(http: httpx.AsyncClient) -> None:
    """Protocol: each block has its start, its deltas and its whole; what is large comes with the whole."""
    thread_id = str(uuid4())
    await send(http, thread_id, "run.start", assistant_id="thinking", input=said("hello"))
    told = data(await watch(http, thread_id), "messages")
    starts = [one["content"] for one in told if one["event"] == "content-block-start"]
    deltas = [one["delta"] for one in told if one["event"] == "content-block-delta"]
    wholes = [one["content"] for one in told if one["event"] == "content-block-finish"]

    assert [one["type"] for one in starts] == ["reasoning", "text", "image"]
    assert "base64" not in starts[2]
    assert [one.get("reasoning", one.get("text")) for one in deltas] == ["so, ", "well", "here ", "it is"]
    assert [one["type"] for one in wholes] == ["reasoning", "text", "image"]
    assert (wholes[0]["reasoning"], wholes[1]["text"], wholes[2]["base64"]) == ("so, well", "here it is", "AAAA")


async def test_parallel_messages_of_one_node_are_kept_apart(http: httpx.AsyncClient) -> None:
    """Protocol: while several come in, each event names its message."""
    thread_id = str(uuid4())
    await send(http, thread_id, "run.start", assistant_id="two_voices", input=said("hello"))
    told = data(await watch(http, thread_id), "messages")
    texts: dict[str, str] = {}
    for one in told:
        if one["event"] == "message-start":
            texts[one["id"]] = ""
        if one["event"] == "content-block-delta":
            alone = next(iter(texts)) if len(texts) == 1 else ""
            texts[one.get("message_id", alone)] += one["delta"]["text"]

    assert list(texts.values()) == ["one two three four"] * 2


async def test_an_answer_may_change_the_state(http: httpx.AsyncClient) -> None:
    """Protocol: `update` beside the answer, as LangGraph's `Command` has it."""
    events = await _answered(http, "asking_text", {"text": "it is"}, update={"text": "it was"})

    assert data(events, "values", [])[-1] == {"text": "it was Ada"}


async def test_an_answer_may_jump(http: httpx.AsyncClient) -> None:
    """Protocol: `goto` beside the answer: that node runs in the step of the one that asked."""
    events = await _answered(http, "asking", {"items": []}, goto="second")
    ran = [update["node"] for update in data(events, "updates", [])]

    assert (sorted(ran[:2]), ran[2:]) == (["ask", "second"], ["second"])


async def _answered(
    http: httpx.AsyncClient, graph: str, given: dict[str, Any], **beside: object
) -> list[dict[str, Any]]:
    """The events of the run that goes on after the answer Ada."""
    thread_id = str(uuid4())
    await send(http, thread_id, "run.start", assistant_id=graph, input=given)
    [asked] = data(await watch(http, thread_id, end="interrupted"), "input.requested")
    answered = await send(
        http, thread_id, "input.respond", interrupt_id=asked["interrupt_id"], response="Ada", **beside
    )
    return await watch(http, thread_id, since=answered["meta"]["applied_through_seq"])


async def test_the_tree_shows_the_graphs_that_go_on(http: httpx.AsyncClient, gate: Gate) -> None:
    """Protocol: `agent.getTree` is of the run that goes on; without one, `no_such_run`."""
    thread_id = str(uuid4())
    started = await send(http, thread_id, "run.start", assistant_id="crew", input=said("wait"))
    await gate.entered()
    during = await send(http, thread_id, "agent.getTree")
    gate.open()
    await watch(http, thread_id)
    after = await send(http, thread_id, "agent.getTree")
    of_run = await send(http, thread_id, "agent.getTree", run_id=started["result"]["run_id"])

    tree = during["result"]["tree"]
    assert (tree["namespace"], tree["status"], tree["graph_name"]) == ([], "running", "crew")
    assert [(child["status"], child["graph_name"]) for child in tree["children"]] == [("started", "agent")]
    assert after["error"] == "no_such_run"
    assert [child["status"] for child in of_run["result"]["tree"]["children"]] == ["completed"]


async def test_the_tree_of_a_run_is_found_behind_any_number_of_others(
    http: httpx.AsyncClient, module_settings: Settings
) -> None:
    """Ours: the thousand oldest runs were searched, so a newer one was `no_such_run`."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    async with await psycopg.AsyncConnection.connect(str(module_settings.database_uri)) as conn:
        await conn.execute(
            """
            INSERT INTO runs (run_id, project_id, thread_id, assistant_id, graph_id, status, finished_at)
            SELECT gen_random_uuid(), project_id, thread_id, gen_random_uuid(), 'crew', 'success',
                   now() - interval '1 hour' -- a stream begins with the runs that have just ended
              FROM threads, generate_series(1, 1000)
             WHERE thread_id = %s
            """,
            [thread_id],
        )
    started = await send(http, thread_id, "run.start", assistant_id="crew", input=said("hello"))
    await watch(http, thread_id)
    of_run = await send(http, thread_id, "agent.getTree", run_id=started["result"]["run_id"])
    of_nothing = await send(http, thread_id, "agent.getTree", run_id="not an id")

    assert of_run["result"]["tree"]["status"] == "completed"
    assert of_nothing["error"] == "no_such_run"


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("state.get", {"namespace": []}, "unknown_command"),
        ("run.start", {}, "invalid_argument"),
        ("run.start", {"assistant_id": "agent", "config": 3}, "invalid_argument"),
        ("input.respond", {"interrupt_id": "x"}, "invalid_argument"),
        ("input.respond", {"interrupt_id": "x", "response": 1}, "no_such_interrupt"),
        ("agent.getTree", {}, "no_such_run"),
        ("run.start", {"assistant_id": "nobody"}, "invalid_argument"),
        ("run.start", {"assistant_id": str(NOBODY)}, "unknown_error"),
        ("run.start", {"assistant_id": "agent", "config": {"recursion_limit": 0}}, "invalid_argument"),
        (
            "run.start",
            {"assistant_id": "agent", "context": {"a": 1}, "config": {"configurable": {"b": 1}}},
            "invalid_argument",
        ),
    ],
)
async def test_errors_with_a_code_of_the_protocol_use_its_envelope(
    http: httpx.AsyncClient, method: str, params: dict[str, Any], code: str
) -> None:
    """Protocol: 200, with the command's id and the error's code."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    answer = await send(http, thread_id, method, **params)

    assert (answer["type"], answer["id"], answer["error"]) == ("error", 7, code)


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", '{"method": "run.start"}', '{"id": 1}', '{"id": "1", "method": 2}', '{"id": -1, "method": "x"}'],
)
async def test_an_unknown_command_is_refused(http: httpx.AsyncClient, body: str) -> None:
    """Protocol: 400 without an id or a method."""
    answer = await http.post(f"/threads/{uuid4()}/commands", content=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"channels": []},
        {"channels": ["vibes"]},
        {"channels": ["custom:"]},
        {"channels": "values"},
        {"channels": ["values"], "namespaces": ["child"]},
        {"channels": ["values"], "depth": -1},
        {"channels": ["values"], "since": 2**53},
        {"channels": ["values"], "since": "1"},
    ],
)
async def test_a_subscription_that_makes_no_sense_is_refused(http: httpx.AsyncClient, body: Any) -> None:
    """Protocol: 400 for an unknown channel, and for what else is wrong."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    answer = await http.post(f"/threads/{thread_id}/stream/events", json=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")


async def test_an_unknown_thread_is_not_found(http: httpx.AsyncClient) -> None:
    """Ours: 404, where the reference answers 200 and hangs."""
    events = await http.post(f"/threads/{NOBODY}/stream/events", json={"channels": ["values"]})
    tree = await http.post(f"/threads/{NOBODY}/commands", json={"id": 1, "method": "agent.getTree", "params": {}})
    no_id = await http.post("/threads/nonsense/stream/events", json={"channels": ["values"]})

    assert [events.status_code, tree.status_code, no_id.status_code] == [404, 404, 422]
    assert {"type": "error", "id": 1, "error": "unknown_error"}.items() <= tree.json().items()
    assert tree.json()["message"] == tree.json()["detail"]


async def test_a_position_after_the_end_of_the_thread_is_ignored(http: httpx.AsyncClient) -> None:
    """Ours: an unknown place replays, and is never answered by silence."""
    thread_id = str(uuid4())
    await send(http, thread_id, "run.start", assistant_id="telling", input={"text": "it is"})

    whole = await watch(http, thread_id)
    assert _placed(await watch(http, thread_id, since=2**53 - 1)) == _placed(whole)


async def test_failed_and_cancelled_runs_have_their_status(http: httpx.AsyncClient, gate: Gate) -> None:
    """Protocol: lifecycle `failed` with the error, `interrupted` for what was stopped; open messages end in an error."""
    failed, stopped = str(uuid4()), str(uuid4())
    await send(http, failed, "run.start", assistant_id="failing", input={"items": []})
    started = await send(http, stopped, "run.start", assistant_id="agent", input=said("wait"))
    await gate.entered()
    await http.post(f"/threads/{stopped}/runs/{started['result']['run_id']}/cancel", params={"wait": "true"})

    [error] = [one for one in data(await watch(http, failed, end="failed"), "lifecycle") if one["event"] == "failed"]
    events = await watch(http, stopped, end="interrupted")
    assert error == {"event": "failed", "graph_name": "failing", "error": "the node failed"}
    assert data(events, "messages")[-1]["event"] == "error"


async def test_commands_and_events_share_a_socket(url: str) -> None:
    """Protocol: WS on the path of the events; a subscription's answer comes before its events."""
    thread_id = str(uuid4())
    found: list[dict[str, Any]] = []
    with anyio.fail_after(10):
        async with connect(f"{url.replace('http', 'ws')}/threads/{thread_id}/stream/events") as socket:

            async def ask(number: int, method: str, **params: Any) -> None:
                await socket.send(json.dumps({"id": number, "method": method, "params": params}))

            await ask(1, "run.start", assistant_id="telling", input={"text": "it is"})
            await ask(2, "subscription.subscribe", channels=["values", "lifecycle"])
            while not found or not _is_end(found[-1], "completed"):
                found.append(json.loads(await socket.recv()))
            await ask(3, "subscription.unsubscribe", subscription_id=found[1]["result"]["subscription_id"])
            await ask(4, "subscription.unsubscribe", subscription_id="none")
            await ask(5, "subscription.subscribe", channels=["vibes"])
            await socket.send("nonsense")
            last = [json.loads(await socket.recv()) for _ in range(4)]

    assert [(one.get("type"), one.get("id")) for one in found[:2]] == [("success", 1), ("success", 2)]
    assert data(found[2:], "values")[-1] == {"text": "it is told"}
    assert [(one.get("id"), one.get("error")) for one in last] == [
        (3, None),
        (4, "no_such_subscription"),
        (5, "invalid_argument"),
        (None, "invalid_argument"),
    ]


async def test_subscriptions_that_come_together_are_served_together(url: str, http: httpx.AsyncClient) -> None:
    """JS SDK: who returns asks anew for all that he had, and takes an end that one is told of for the end of all."""
    thread_id = str(uuid4())
    await send(http, thread_id, "run.start", assistant_id="agent", input=said("hello"))
    await watch(http, thread_id)
    found: list[dict[str, Any]] = []
    with anyio.fail_after(10):
        async with connect(f"{url.replace('http', 'ws')}/threads/{thread_id}/stream/events") as socket:
            for number, channels in enumerate((["lifecycle"], ["messages", "lifecycle"])):
                asked = {"id": number, "method": "subscription.subscribe", "params": {"channels": channels}}
                await socket.send(json.dumps(asked))
            while not found or not _is_end(found[-1], "completed"):
                found.append(json.loads(await socket.recv()))

    # The answer to the second subscription may come between events of the first.
    events = [message for message in found if "method" in message]
    assert data(events, "messages")[-1]["event"] == "message-finish"


async def test_a_subscription_gets_all_while_another_is_being_served(
    url: str, http: httpx.AsyncClient, gate: Gate
) -> None:
    """Ours: how far the others were served says nothing of one that has just come."""
    thread_id = str(uuid4())
    await send(http, thread_id, "run.start", assistant_id="chatting", input={"text": ""})
    await gate.entered()
    found: list[dict[str, Any]] = []
    with anyio.fail_after(10):
        async with connect(f"{url.replace('http', 'ws')}/threads/{thread_id}/stream/events") as socket:
            for number, channels in enumerate((["custom"], ["checkpoints", "lifecycle"])):
                asked = {"id": number, "method": "subscription.subscribe", "params": {"channels": channels}}
                await socket.send(json.dumps(asked))
                while not found or found[-1]["type"] != "event":
                    found.append(json.loads(await socket.recv()))
            gate.open()
            while not found or not _is_end(found[-1], "completed"):
                found.append(json.loads(await socket.recv()))
    events = [one for one in found if one["type"] == "event"]

    assert [one["step"] for one in data(events, "checkpoints")] == [-1, 0, 1]
    assert [one["payload"] for one in data(events, "custom")] == list(range(1_000))
