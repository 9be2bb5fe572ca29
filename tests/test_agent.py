"""The built-in agent, run as the server runs it: a checkpointer and a store are bound to its graph."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel import Pregel
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command
from pydantic import Field
from typing_extensions import override

from threadkeep import agent
from threadkeep.offline_model import MODEL_NAME, OfflineModel

TOOL_NAMES = set(agent.TOOLS_BY_NAME)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def bound(graph: Pregel[Any, Any, Any, Any], saver: InMemorySaver | None = None) -> Pregel[Any, Any, Any, Any]:
    """The graph with a checkpointer and a store, as the server binds them."""
    return graph.copy({"checkpointer": saver or InMemorySaver(), "store": InMemoryStore()})


@pytest.fixture
def graph() -> Pregel[Any, Any, Any, Any]:
    return bound(agent.build())


def config(thread_id: str = "one", **configurable: object) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread_id, **configurable}}


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def say(graph: Pregel[Any, Any, Any, Any], text: str, thread_id: str = "one", **configurable: object) -> str:
    with anyio.fail_after(10):
        result = await graph.ainvoke(user(text), config(thread_id, **configurable))
    return result["messages"][-1].text


def tool_names(messages: list[BaseMessage]) -> list[str]:
    return [call["name"] for message in messages if isinstance(message, AIMessage) for call in message.tool_calls]


async def test_a_name_told_in_a_thread_is_known_later_in_that_thread_and_in_no_other(graph: Any) -> None:
    """Ours: the origin's report lost session memory; here a thread keeps it, and only that thread."""
    await say(graph, "My name is Ada.", "one")

    assert await say(graph, "What is my name?", "one") == "Your name is Ada."
    assert await say(graph, "What is my name?", "two") == "You have not told me your name in this thread."


async def test_a_conversation_goes_on_in_a_graph_built_anew_on_the_same_checkpoints() -> None:
    """Ours: a thread outlives the process."""
    saver = InMemorySaver()
    await say(bound(agent.build(), saver), "My name is Ada.")

    assert await say(bound(agent.build(), saver), "What\u2019s my name?") == "Your name is Ada."


async def test_the_state_is_the_whole_conversation_with_ids_that_stay(graph: Any) -> None:
    """Protocol: a chat client reads `values.messages` and joins streamed messages to them by id."""
    first = await graph.ainvoke(user("hello"), config())
    second = await graph.ainvoke(user("what is 2 + 2?"), config())
    state = await graph.aget_state(config())

    ids = [message.id for message in second["messages"]]
    assert [message.type for message in second["messages"]] == ["human", "ai", "human", "ai", "tool", "ai"]
    assert None not in ids
    assert len(set(ids)) == 6
    assert ids[:2] == [message.id for message in first["messages"]]
    assert state.values == second


@pytest.mark.parametrize(
    "messages",
    [
        "what is 6 * 7?",
        [{"role": "user", "content": "what is 6 * 7?"}],
        [{"type": "human", "content": "what is 6 * 7?", "id": "mine"}],
        [{"type": "human", "content": [{"type": "text", "text": "what is 6 * 7?"}]}],
        [HumanMessage("what is 6 * 7?")],
    ],
)
async def test_every_form_of_a_message_is_understood(graph: Any, messages: object) -> None:
    """Protocol: clients send dicts by role or type, content as text or as blocks; agent-chat-ui sends blocks."""
    result = await graph.ainvoke({"messages": messages}, config())

    assert result["messages"][-1].text == "6 * 7 = 42"


@pytest.mark.parametrize(
    "inputs", [{}, {"messages": []}, {"messages": 1}, {"messages": [{"text": "hi"}]}, {"messages": [7]}]
)
async def test_an_input_without_messages_is_refused_in_words(graph: Any, inputs: object) -> None:
    """Ours: the text of a ValueError reaches the client, so it says what is wanted."""
    with pytest.raises(ValueError, match="message"):
        await graph.ainvoke(inputs, config())


async def test_a_message_is_replaced_by_its_id(graph: Any) -> None:
    """Protocol: a chat client that edits a message sends it again with its id."""
    said = {"type": "human", "content": "My name is Ada.", "id": "m1"}
    await graph.ainvoke({"messages": [said]}, config())
    edited = await graph.ainvoke({"messages": [said | {"content": "My name is Grace."}]}, config())

    assert edited["messages"][0].text == "My name is Grace."
    assert [message.type for message in edited["messages"]] == ["human", "ai", "ai"]


def test_the_schema_of_the_input_names_messages() -> None:
    """Protocol: a client finds out by the schema that it can chat."""
    schema = agent.build().get_input_jsonschema()

    assert schema["required"] == ["messages"]
    assert schema["properties"]["messages"]["type"] == "array"


async def test_tokens_come_one_by_one_and_join_to_the_saved_message(graph: Any) -> None:
    """Protocol: `stream_mode="messages"` gives an AIMessageChunk for each token, all with the message's id."""
    chunks = [chunk async for chunk, _ in graph.astream(user("hello"), config(), stream_mode="messages")]
    state = await graph.aget_state(config())

    saved = state.values["messages"][-1]
    assert len(chunks) > 20
    assert {type(chunk) for chunk in chunks} == {AIMessageChunk}
    assert {chunk.id for chunk in chunks} == {saved.id}
    assert "".join(chunk.text for chunk in chunks) == saved.text
    assert saved.response_metadata["model_name"] == MODEL_NAME


async def test_a_stream_does_not_repeat_what_was_said_before(graph: Any) -> None:
    """Ours: the conversation returned at the end must not go out as new messages."""
    await graph.ainvoke(user("My name is Ada."), config())
    stream = graph.astream(user("what is 2 + 2?"), config(), stream_mode="messages")
    messages = [message async for message, _ in stream]

    state = await graph.aget_state(config())
    assert list(dict.fromkeys(message.id for message in messages)) == [m.id for m in state.values["messages"][3:]]


async def test_simulated_latency_is_the_time_of_the_whole_answer(graph: Any) -> None:
    """Ours: the concurrency report asks for it; several runs wait at once."""
    began = time.perf_counter()
    async with anyio.create_task_group() as runs:
        for number in range(5):
            runs.start_soon(lambda n=number: say(graph, "hello", f"t{n}", simulated_latency_s=0.3))
    elapsed_s = time.perf_counter() - began

    assert 0.25 < elapsed_s < 5 * 0.3


@pytest.mark.parametrize("given", ["1.5", True, float("nan"), [1]])
async def test_simulated_latency_of_a_wrong_type_is_refused(graph: Any, given: object) -> None:
    """Ours: a figure that is not in force must not look as if it were."""
    with pytest.raises(ValueError, match="simulated_latency_s"):
        await say(graph, "hello", simulated_latency_s=given)


async def test_arithmetic_is_done_by_the_calculator(graph: Any) -> None:
    """Ours: the answer is the tool's, not the model's."""
    result = await graph.ainvoke(user("what is 17 * 23?"), config())

    asked, told, said = result["messages"][1:]
    assert asked.tool_calls[0]["args"] == {"expression": "17 * 23"}
    assert (told.text, told.status) == ("391", "success")
    assert said.text == "17 * 23 = 391"


async def test_a_refused_calculation_is_told_in_the_answer(graph: Any) -> None:
    """Ours: a tool's error is an answer, not the end of the run."""
    assert (await say(graph, "what is 9**9**9?")).startswith("calculator failed: the result is too large")


@pytest.mark.parametrize(("place", "offset_h"), [("Asia/Tokyo", 9), ("Tokyo", 9), ("asia/tokyo", 9), ("UTC", 0)])
async def test_the_clock_tells_the_time_of_a_zone_or_of_its_city(graph: Any, place: str, offset_h: int) -> None:
    """Ours."""
    said = await say(graph, f"What time is it in {place}?")

    told = datetime.strptime(said.split(" in ")[0], "%A %Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    assert abs(told - timedelta(hours=offset_h) - datetime.now(UTC)) < timedelta(minutes=1)
    assert f"(UTC+{offset_h:02}00)" in said


async def test_facts_belong_to_the_user_and_cross_threads(graph: Any) -> None:
    """Ours: remember and recall use the store, by user; the signed-in user goes before a claimed one."""
    ada = {"langgraph_auth_user_id": "ada@example.org", "user_id": "eve"}
    assert await say(graph, "Please remember that I like tea.", "one", **ada) == "I keep in mind that I like tea."
    await say(graph, "Remember that I like tea", "one", **ada)

    assert await say(graph, "What do you remember?", "two", **ada) == "I keep in mind:\n- I like tea"
    assert await say(graph, "What do you remember?", "one", user_id="eve") == "I keep no facts for you."
    assert await say(graph, "What do you remember?", "one") == "I keep no facts for you."


async def test_facts_without_a_store_are_a_clear_error() -> None:
    """Ours: a graph run without a store still answers."""
    said = await agent.build().ainvoke(user("remember that I like tea"))

    assert said["messages"][-1].text.startswith("remember failed: facts can't be stored")


async def test_several_tools_run_in_one_turn(graph: Any) -> None:
    """Ours: the calls of one model turn run at once, and their results stand in the calls' order."""
    result = await graph.ainvoke(
        user("What is 2+2 and 3*4? What time is it in Tokyo? Remember that it rains."), config()
    )

    messages = result["messages"]
    assert tool_names(messages) == ["calculator", "calculator", "clock", "remember"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "tool", "tool", "tool", "ai"]
    assert [message.name for message in messages[2:6]] == ["calculator", "calculator", "clock", "remember"]
    assert messages[-1].text.startswith("2+2 = 4\n3*4 = 12\n")


async def test_an_unknown_tool_and_wrong_arguments_are_told_to_the_model(graph: Any) -> None:
    """Ours: a model that makes up a tool gets an answer."""
    result = await bound(agent.graph_of(Calling(calls=["nonsense", "calculator"]))).ainvoke(user("go"), config())

    told = [message for message in result["messages"] if isinstance(message, ToolMessage)]
    assert [message.status for message in told] == ["error", "error"]
    assert told[0].text.startswith("there is no tool nonsense")


async def test_a_model_that_never_stops_is_stopped() -> None:
    """Ours: at most 8 model calls for one input, and the conversation ends with a message."""
    result = await bound(agent.graph_of(Calling(calls=["clock"], times=1000))).ainvoke(user("go"), config())

    assert len(tool_names(result["messages"])) == agent.MAX_MODEL_CALLS
    assert result["messages"][-1].text == "I stopped after 8 model calls."
    assert result["messages"][-1].id


def question(*texts: str) -> dict[str, Any]:
    """The interrupt's value, as LangChain's HumanInTheLoopMiddleware has it."""
    return {
        "action_requests": [{"name": "ask_human", "args": {"question": text}, "description": text} for text in texts],
        "review_configs": [{"action_name": "ask_human", "allowed_decisions": ["respond", "approve", "reject"]}],
    }


async def test_a_question_to_a_human_stops_the_run_until_it_is_answered(graph: Any) -> None:
    """Protocol: an interrupt shows in the state, and `Command(resume=…)` goes on with its value."""
    stopped = await graph.ainvoke(user("Ask a human whether to deploy."), config())
    state = await graph.aget_state(config())

    assert [item.value for item in stopped["__interrupt__"]] == [question("Whether to deploy?")]
    assert [item.value for item in state.interrupts] == [question("Whether to deploy?")]

    done = await graph.ainvoke(Command(resume="yes, on Monday"), config())
    assert done["messages"][-1].text == "The answer to “Whether to deploy?” was: yes, on Monday"


@pytest.mark.parametrize(
    ("decision", "answer"),
    [
        ({"type": "respond", "message": "on Monday"}, "on Monday"),
        ({"type": "approve"}, "yes"),
        ({"type": "reject"}, "no"),
        ({"type": "reject", "message": "not today"}, "not today"),
    ],
)
async def test_a_question_is_answered_by_a_decision(graph: Any, decision: dict[str, str], answer: str) -> None:
    """Protocol: agent-chat-ui answers `action_requests` with `decisions`."""
    await graph.ainvoke(user("Ask a human whether to deploy."), config())
    done = await graph.ainvoke(Command(resume={"decisions": [decision]}), config())

    assert done["messages"][-1].text == f"The answer to “Whether to deploy?” was: {answer}"


async def test_several_questions_are_asked_together(graph: Any) -> None:
    """Protocol: one interrupt, for a chat page answers one, with a decision for each of its requests."""
    asked = await graph.ainvoke(user("What is 2+2? Ask a human if it rains. Ask a human if it snows."), config())
    answers = [{"type": "approve"}, {"type": "reject"}]
    done = await graph.ainvoke(Command(resume={"decisions": answers}), config())

    assert [item.value for item in asked["__interrupt__"]] == [question("If it rains?", "If it snows?")]
    assert [message.text for message in done["messages"] if message.type == "tool"] == ["4", "yes", "no"]


@pytest.mark.parametrize("decisions", [[], [{"type": "edit"}], [{"type": "respond"}], ["yes"], "yes", [{}, {}]])
async def test_decisions_that_do_not_fit_are_refused_in_words(graph: Any, decisions: object) -> None:
    """Ours: the text of a ValueError reaches the client."""
    await graph.ainvoke(user("Ask a human whether to deploy."), config())

    with pytest.raises(ValueError, match="decision"):
        await graph.ainvoke(Command(resume={"decisions": decisions}), config())


async def test_a_turn_in_progress_is_in_the_state(graph: Any) -> None:
    """Ours: a chat page that is opened meanwhile shows what was said, in its order."""
    await graph.ainvoke(user("What is 2+2? Ask a human if it rains."), config())
    stopped = await graph.aget_state(config())
    await graph.ainvoke(Command(resume="yes"), config())
    done = await graph.aget_state(config())

    assert [message.type for message in stopped.values["messages"]] == ["human", "ai", "tool"]
    assert [message.type for message in done.values["messages"]] == ["human", "ai", "tool", "tool", "ai"]
    assert [message.id for message in done.values["messages"][:3]] == [m.id for m in stopped.values["messages"]]


async def test_what_had_finished_before_the_question_is_not_done_again() -> None:
    """Ours: each model call and each tool call is a task; a resumed run repeats none that has finished."""
    model = Counting()
    graph = bound(agent.graph_of(model))
    parts = graph.astream(user("What is 2+2? Ask a human if it rains."), config(), stream_mode="updates")
    before = [name for part in [part async for part in parts] for name in part]
    parts = graph.astream(Command(resume={"rain": True}), config(), stream_mode="updates")
    after = [name for part in [part async for part in parts] for name in part]

    assert before == ["model", "tools", "__interrupt__"]
    assert after.count("model") == 1
    assert len(model.seen) == 2
    state = await graph.aget_state(config())
    assert state.values["messages"][-1].text == '2+2 = 4\nThe answer to “If it rains?” was: {"rain": true}'


@pytest.mark.parametrize(("reply", "used"), [("yes", True), (True, True), ("No, stop.", False), (False, False)])
async def test_a_request_to_be_asked_first_is_heeded(graph: Any, reply: object, used: bool) -> None:
    """Ours: the tool runs after the human said yes, and not at all after a no."""
    stopped = await graph.ainvoke(user("Ask me before you calculate 17 * 23"), config())
    done = await graph.ainvoke(Command(resume=reply), config())

    [request] = stopped["__interrupt__"][0].value["action_requests"]
    assert request["description"].endswith("Ask me before you calculate 17 * 23")
    assert ("calculator" in tool_names(done["messages"])) is used
    assert ("17 * 23 = 391" in done["messages"][-1].text) is used


async def test_a_new_message_in_place_of_an_answer_takes_the_question_back(graph: Any) -> None:
    """Ours: no model is given a tool call without its result. What the human said stays."""
    await graph.ainvoke(user("hello"), config())
    await graph.ainvoke(user("What is 3*3? Ask a human whether to deploy."), config())
    done = await graph.ainvoke(user("what is 2+2?"), config())

    assert [message.type for message in done["messages"]] == ["human", "ai", "human", "human", "ai", "tool", "ai"]
    assert done["messages"][-1].text == "2+2 = 4"


async def test_a_streamed_answer_pauses_before_each_word_and_others_do_not() -> None:
    """Ours: so that streaming can be seen; a setting."""
    paused = bound(agent.build(pause_s=0.01))
    began = time.perf_counter()
    await paused.ainvoke(user("hello"), config())
    at_once_s, began = time.perf_counter() - began, time.perf_counter()
    chunks = [chunk async for chunk, _ in paused.astream(user("hello"), config("two"), stream_mode="messages")]

    assert time.perf_counter() - began > 0.01 * (len(chunks) - 2) > at_once_s


class Counting(OfflineModel):
    """The offline model, which also keeps how many messages each call saw."""

    seen: list[int] = Field(default_factory=list)

    @override
    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.seen.append(len(messages))
        return await super()._agenerate(messages, *args, **kwargs)


class Calling(OfflineModel):
    """A model that calls these tools without arguments, so many times, and then says that it is done."""

    calls: list[str]
    times: int = 1

    @override
    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        turns = sum(isinstance(message, AIMessage) for message in messages)
        calls = [ToolCall(name=name, args={}, id=f"{turns}-{name}", type="tool_call") for name in self.calls]
        message = AIMessage("done") if turns >= self.times else AIMessage("", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=message)])
