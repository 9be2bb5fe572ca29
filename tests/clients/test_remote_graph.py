"""`RemoteGraph`: a graph of this server, used from another program like a graph of its own."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel.remote import RemoteException, RemoteGraph
from langgraph.types import Command, Interrupt
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import UnprocessableEntityError

from conftest import serving
from graphs import GRAPHS, Items
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


EMPTY: Any = {"items": []}
DONE = {"items": ["first", "second"]}


@pytest.fixture
def config() -> RunnableConfig:
    """A thread that is not there yet: RemoteGraph has it made."""
    return {"configurable": {"thread_id": str(uuid.uuid4())}}


def remote(client: LangGraphClient, graph: str) -> RemoteGraph:
    return RemoteGraph(graph, client=client)


def calling(node: RemoteGraph) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A graph of the client's own, with `node` in the middle."""
    graph = StateGraph(Items)
    graph.add_node("before", lambda _: {"items": ["before"]})
    graph.add_node("away", node)
    graph.add_edge(START, "before")
    graph.add_edge("before", "away")
    graph.add_edge("away", END)
    return graph.compile(checkpointer=InMemorySaver())


async def test_it_is_invoked_with_a_thread_and_without(client: LangGraphClient, config: RunnableConfig) -> None:
    """Protocol: `ainvoke`; the thread is made (`if_not_exists`)."""
    chain = remote(client, "chain")

    assert await chain.ainvoke(EMPTY) == DONE
    assert await chain.ainvoke(EMPTY, config) == DONE
    assert await chain.ainvoke({"items": ["again"]}, config) == {
        "items": ["first", "second", "again", "first", "second"]
    }
    assert [thread["thread_id"] for thread in await client.threads.search()] == [config["configurable"]["thread_id"]]


async def test_values_and_updates_are_streamed(client: LangGraphClient, config: RunnableConfig) -> None:
    """Protocol: `astream` with one mode and with several."""
    chain = remote(client, "chain")

    assert [part async for part in chain.astream(EMPTY, config)] == [
        {"first": {"items": ["first"]}},
        {"second": {"items": ["second"]}},
    ]
    assert [tuple(part)[:2] async for part in chain.astream(EMPTY, stream_mode=["values", "updates"])] == [
        ("values", {"items": []}),
        ("updates", {"first": {"items": ["first"]}}),
        ("values", {"items": ["first"]}),
        ("updates", {"second": {"items": ["second"]}}),
        ("values", DONE),
    ]


async def test_what_a_node_writes_is_streamed(client: LangGraphClient) -> None:
    """Protocol: `custom`."""
    assert [part async for part in remote(client, "writing").astream(EMPTY, stream_mode="custom")] == [{"progress": 1}]


async def test_tokens_are_streamed_with_their_metadata(client: LangGraphClient) -> None:
    """Protocol: `messages`, which RemoteGraph asks for as `messages-tuple`."""
    given = {"messages": [{"role": "user", "content": "hi"}]}

    parts = [part async for part in remote(client, "speaking").astream(given, stream_mode="messages")]

    assert "".join(chunk["content"] for chunk, _ in parts) == "word0 word1 word2 word3 word4"
    assert {(chunk["type"], metadata["langgraph_node"]) for chunk, metadata in parts} == {("AIMessageChunk", "speak")}


async def test_events_of_a_subgraph_carry_its_namespace(client: LangGraphClient) -> None:
    """Protocol: `subgraphs=True`."""
    parts = [part async for part in remote(client, "parent").astream(EMPTY, subgraphs=True)]

    assert [(tuple(one.split(":")[0] for one in namespace), data) for namespace, data in parts] == [
        (("child",), {"inner": {"items": ["first"]}}),
        ((), {"child": {"items": ["first"]}}),
        ((), {"last": {"items": ["second"]}}),
    ]


async def test_state_and_history_are_read(client: LangGraphClient, config: RunnableConfig) -> None:
    """Protocol: POST …/state/checkpoint without a checkpoint id is the latest; POST …/history."""
    chain = remote(client, "chain")
    await chain.ainvoke(EMPTY, config)

    state = await chain.aget_state(config)
    history = [one async for one in chain.aget_state_history(config)]
    older = [one async for one in chain.aget_state_history(config, before=history[1].config, limit=1)]
    by_step = [one async for one in chain.aget_state_history(config, filter={"step": 1})]

    assert (state.values, state.next, state.interrupts) == (DONE, (), ())
    assert [(one.values, one.next) for one in history] == [
        (DONE, ()),
        ({"items": ["first"]}, ("second",)),
        (EMPTY, ("first",)),
        (EMPTY, ("__start__",)),
    ]
    assert history[0] == state
    assert [one.parent_config for one in history] == [*(one.config for one in history[1:]), None]
    assert (older, by_step) == ([history[2]], [history[1]])
    assert await chain.aget_state(history[1].config) == history[1]


async def test_state_of_a_subgraph_is_in_its_task(settings: Settings, config: RunnableConfig) -> None:
    """Protocol: `subgraphs=True`; without it the task has the subgraph's config."""
    graph = StateGraph(Items)
    graph.add_node("child", GRAPHS["asking"].compile())
    graph.add_edge(START, "child")
    graphs = {"nested": as_loaded_graph("nested", graph, where="tests")}
    async with serving(settings, graphs) as url, get_client(url=url, api_key=None) as client:
        nested = remote(client, "nested")
        await nested.ainvoke(EMPTY, config)

        (flat,) = (await nested.aget_state(config)).tasks
        (deep,) = (await nested.aget_state(config, subgraphs=True)).tasks

        assert (flat.name, deep.name, flat.interrupts) == ("child", "child", deep.interrupts)
        assert flat.state["configurable"]["checkpoint_ns"] == deep.state.config["configurable"]["checkpoint_ns"]
        assert (deep.state.values, deep.state.next) == ({"items": ["first"]}, ("ask",))
        assert (await nested.aget_state(flat.state)).next == ("ask",)
        assert await nested.ainvoke(Command(resume="this"), config) == {"items": ["first", "this", "second"]}


async def test_state_is_written(client: LangGraphClient, config: RunnableConfig) -> None:
    """Protocol: POST …/state, at the latest checkpoint and at an older one."""
    chain = remote(client, "chain")
    await chain.ainvoke(EMPTY, config)
    (_, middle, *_) = [one async for one in chain.aget_state_history(config)]

    written = await chain.aupdate_state(config, {"items": ["by hand"]}, as_node="first")
    assert (await chain.aget_state(written)).values == {"items": ["first", "second", "by hand"]}
    branch = await chain.aupdate_state(middle.config, {"items": ["branch"]}, as_node="first")
    state = await chain.aget_state(config)

    assert (state.config, state.values, state.next) == (branch, {"items": ["first", "branch"]}, ("second",))
    assert await chain.ainvoke(None, config) == {"items": ["first", "branch", "second"]}


async def test_interrupt_is_answered_with_a_command(client: LangGraphClient, config: RunnableConfig) -> None:
    """Protocol: `__interrupt__` in the values; `Command(resume=…)`."""
    asking = remote(client, "asking")

    asked = await asking.ainvoke(EMPTY, config, version="v2")
    (waiting,) = (await asking.aget_state(config)).interrupts

    assert asked.value == {"items": ["first"]}
    assert [(one.id, one.value) for one in asked.interrupts] == [(waiting.id, {"question": "which?"})]
    assert await asking.ainvoke(Command(resume="this"), config) == {"items": ["first", "this", "second"]}


async def test_run_stops_where_it_was_told_to(client: LangGraphClient, config: RunnableConfig) -> None:
    """Protocol: `interrupt_before`, then a run without input."""
    chain = remote(client, "chain")

    stopped = await chain.ainvoke(EMPTY, config, interrupt_before=["second"])

    assert stopped["items"] == ["first"]
    assert (await chain.aget_state(config)).next == ("second",)
    assert await chain.ainvoke(None, config) == DONE


async def test_failure_is_raised(client: LangGraphClient) -> None:
    """Protocol: the `error` event; a refusal is the SDK's own error."""
    with pytest.raises(RemoteException) as failed:
        await remote(client, "failing").ainvoke(EMPTY)
    with pytest.raises(UnprocessableEntityError):
        await remote(client, "nope").ainvoke(EMPTY)

    assert failed.value.args == ({"error": "ValueError", "message": "the node failed"},)


async def test_graph_is_drawn_as_the_local_one_would_be(client: LangGraphClient) -> None:
    """Protocol: GET /assistants/{name}/graph."""
    drawn = await remote(client, "parent").aget_graph()
    deep = await remote(client, "parent").aget_graph(xray=True)

    assert list(drawn.nodes) == ["__start__", "child", "last", "__end__"]
    assert [(edge.source, edge.target) for edge in drawn.edges] == [
        ("__start__", "child"),
        ("child", "last"),
        ("last", "__end__"),
    ]
    assert "child:inner" in deep.nodes
    assert "child" in drawn.draw_mermaid()


async def test_it_is_a_node_of_a_local_graph(client: LangGraphClient, config: RunnableConfig) -> None:
    """Protocol: the local thread's id is the remote thread's; its events reach the local stream."""
    local = calling(remote(client, "chain"))

    parts = [part async for part in local.astream(EMPTY, config, subgraphs=True)]

    assert [(bool(namespace), data) for namespace, data in parts] == [
        (False, {"before": {"items": ["before"]}}),
        (True, {"first": {"items": ["first"]}}),
        (True, {"second": {"items": ["second"]}}),
        (False, {"away": {"items": ["before", "first", "second"]}}),
    ]
    state = await client.threads.get_state(config["configurable"]["thread_id"])
    assert state["values"] == {"items": ["before", "first", "second"]}


async def test_its_interrupt_stops_the_local_graph(client: LangGraphClient, config: RunnableConfig) -> None:
    """Protocol: `updates` with `__interrupt__`, raised as GraphInterrupt in the local node."""
    asking = remote(client, "asking")
    local = calling(asking)

    stopped = await local.ainvoke(EMPTY, config)
    (waiting,) = (await local.aget_state(config)).tasks

    assert stopped["__interrupt__"] == list(waiting.interrupts)
    assert [one.value for one in waiting.interrupts] == [{"question": "which?"}]
    assert isinstance(waiting.interrupts[0], Interrupt)
    assert (await asking.ainvoke(Command(resume="this"), config))["items"] == ["before", "first", "this", "second"]


async def test_messages_of_the_local_program_arrive_as_such(client: LangGraphClient) -> None:
    """Protocol: message objects are sent as JSON and read by the reducer."""
    values = await remote(client, "speaking").ainvoke({"messages": [HumanMessage("hi", id="question")]})

    assert [(one["type"], one["id"]) for one in values["messages"]] == [("human", "question"), ("ai", "answer-1")]


@pytest.fixture
async def served(settings: Settings, client: LangGraphClient) -> AsyncIterator[LangGraphClient]:
    """A client of a second server, whose graphs are those of the first, on the same database."""
    names = ("chain", "asking", "failing", "speaking")
    graphs = {name: as_loaded_graph(name, remote(client, name), where="tests") for name in names}
    async with serving(settings, graphs) as url, get_client(url=url, api_key=None) as second:
        yield second


async def test_one_that_is_served_runs_with_a_thread_and_without(served: LangGraphClient) -> None:
    """Protocol: a RemoteGraph may stand in `graphs`. Its thread goes on where it runs."""
    thread_id = (await served.threads.create())["thread_id"]
    stateless = await served.runs.wait(None, "chain", input=EMPTY)
    first = await served.runs.wait(thread_id, "chain", input=EMPTY, config={"configurable": {"tone": "kind"}})
    second = await served.runs.wait(thread_id, "chain", input={"items": ["again"]})
    state = await served.threads.get_state(thread_id)
    history = await served.threads.get_history(thread_id, limit=100)

    assert (stateless, first) == (DONE, DONE)
    assert second == state["values"] == {"items": ["first", "second", "again", "first", "second"]}
    assert {one["checkpoint"]["thread_id"] for one in history} == {thread_id}
    assert (await served.threads.get(thread_id))["values"] == second


async def test_one_that_is_served_streams_in_every_mode(served: LangGraphClient) -> None:
    """Protocol: the events of a graph of this process, messages word by word."""
    hello: Any = {"messages": [{"role": "user", "content": "hello"}]}
    streamed = [
        (part.event, part.data)
        async for part in served.runs.stream(
            None, "speaking", input=hello, stream_mode=["values", "updates", "messages-tuple", "events", "debug"]
        )
    ]
    words = [data[0]["content"] for event, data in streamed if event == "messages"]
    modes = {event for event, _ in streamed}

    assert {"metadata", "values", "updates", "messages", "debug"} <= modes
    assert "error" not in modes
    assert len(words) > 1
    assert "".join(words) == "word0 word1 word2 word3 word4"


async def test_one_that_is_served_asks_and_is_answered(served: LangGraphClient) -> None:
    """Protocol: an interrupt there is one here; so is its answer."""
    thread_id = (await served.threads.create())["thread_id"]
    asked = await served.runs.wait(thread_id, "asking", input=EMPTY)
    waiting = await served.threads.get(thread_id)
    done = await served.runs.wait(thread_id, "asking", command={"resume": "this"})

    assert [one["value"] for one in asked["__interrupt__"]] == [{"question": "which?"}]
    assert waiting["status"] == "interrupted"
    assert done == {"items": ["first", "this", "second"]}


async def test_one_that_is_served_can_be_updated_and_described(served: LangGraphClient) -> None:
    """Protocol: the state is the other server's. Nothing is known of its schemas here."""
    thread_id = (await served.threads.create())["thread_id"]
    await served.runs.wait(thread_id, "chain", input=EMPTY)
    await served.threads.update_state(thread_id, {"items": ["mine"]}, as_node="second")
    drawn = await served.assistants.get_graph("chain")
    schemas = await served.assistants.get_schemas("chain")

    assert (await served.threads.get_state(thread_id))["values"] == {"items": ["first", "second", "mine"]}
    assert "first" in {node["id"] for node in drawn["nodes"]}
    assert schemas["input_schema"] is None


async def test_one_that_is_served_fails_like_any_other(served: LangGraphClient) -> None:
    """Ours: the run ends as `error`."""
    failed: Any = await served.runs.wait(None, "failing", input=EMPTY, raise_error=False)

    assert failed["__error__"]["error"] == "RemoteException"
