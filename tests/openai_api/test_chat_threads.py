"""Chat Completions on a thread: who owns the history, and how questions of a graph are answered."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import anyio
import httpx
import openai as sdk
import pytest
from openai import AsyncOpenAI

from graphs import Gate

QUESTION_TOOL: list[Any] = [{"type": "function", "function": {"name": "langgraph_interrupt"}}]


def turns(*texts: str) -> list[Any]:
    """A conversation: the user and the assistant take turns."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


class Chat:
    """A client of one conversation."""

    def __init__(self, openai: AsyncOpenAI, header: str, name: str | None = None, model: str = "echo") -> None:
        self.openai, self.model = openai, model
        self.headers = {header: name or f"chat {uuid4()}"}
        self.outcome: str | None = None
        self.thread_id: str | None = None

    async def say(self, messages: Sequence[Any], headers: dict[str, str] | None = None, **more: Any) -> str:
        """The text of the answer."""
        return (await self.choice(messages, headers, **more)).message.content

    async def choice(self, messages: Sequence[Any], headers: dict[str, str] | None = None, **more: Any) -> Any:
        create = self.openai.chat.completions.with_raw_response.create
        asked: Any = {"messages": [*messages], **more}
        answer = await create(model=self.model, extra_headers=self.headers | (headers or {}), **asked)
        self.outcome = answer.headers.get("x-threadkeep-history")
        self.thread_id = answer.headers.get("x-thread-id", self.thread_id)
        return answer.parse().choices[0]

    async def held(self, http: httpx.AsyncClient) -> list[str]:
        """The texts of the thread."""
        state = (await http.get(f"/threads/{self.thread_id}/state")).json()
        return [message["content"] for message in state["values"]["messages"]]


@pytest.fixture
def by_thread(openai: AsyncOpenAI) -> Chat:
    return Chat(openai, "X-Thread-Id")


@pytest.fixture
def by_client(openai: AsyncOpenAI) -> Chat:
    return Chat(openai, "X-Conversation-Id")


async def test_a_thread_that_owns_the_history_gets_what_is_new(by_thread: Chat, http: httpx.AsyncClient) -> None:
    """Contract, Which thread: `X-Thread-Id`."""
    await by_thread.say(turns("one"))
    assert await by_thread.say(turns("two")) == "You said: one / two"
    assert await by_thread.say(turns("ignored", "ignored", "three")) == "You said: one / two / three"

    assert by_thread.outcome == "appended"
    assert len(await by_thread.held(http)) == 6


async def test_metadata_names_a_thread_and_a_uuid_is_its_id(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    """Contract, Which thread: unknown ones are made."""
    thread_id = str(uuid4())
    for text in ("one", "two"):
        answer = await openai.chat.completions.create(
            model="echo", messages=turns(text), metadata={"thread_id": thread_id}
        )
        assert (answer.model_extra or {})["langgraph"]["thread_id"] == thread_id

    assert answer.choices[0].message.content == "You said: one / two"
    assert (await http.get(f"/threads/{thread_id}")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Conversation-Id": ""},
        {"X-OpenWebUI-Chat-Id": "local:1"},
        {"X-OpenWebUI-Chat-Id": "a", "X-OpenWebUI-Task": "title_generation"},
    ],
)
async def test_nothing_is_kept_without_a_name(openai: AsyncOpenAI, headers: dict[str, str]) -> None:
    """Contract, Which thread: the third row. `user` and `prompt_cache_key` never name one."""
    for _ in range(2):
        answer = await openai.chat.completions.with_raw_response.create(
            model="echo", messages=turns("hello"), user="ada", extra_headers=headers
        )
        assert answer.parse().choices[0].message.content == "You said: hello"
        assert "x-thread-id" not in answer.headers


async def test_a_conversation_is_taken_over_and_continued(by_client: Chat, http: httpx.AsyncClient) -> None:
    """Contract, The client owns the history: rules 1 and 2."""
    await by_client.say(turns("one", "You said: one", "two"))
    assert by_client.outcome == "imported"
    assert (
        await by_client.say(turns("one", "changed by the page", "two", "-", "three")) == "You said: one / two / three"
    )

    assert by_client.outcome == "appended"
    assert len(await by_client.held(http)) == 6


async def test_a_thread_of_the_other_way_in_is_continued(
    openai: AsyncOpenAI, by_thread: Chat, http: httpx.AsyncClient
) -> None:
    """Contract, rule 2: no digest, and the same texts of the user."""
    await by_thread.say(turns("one"))
    other = Chat(openai, "X-Conversation-Id", by_thread.thread_id)

    assert await other.say(turns("one", "-", "two")) == "You said: one / two"
    assert other.outcome == "appended"


async def test_other_prompts_under_the_name_of_a_chat_are_no_part_of_it(
    openai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    """Contract, rule 3: titles and tags of Open WebUI. The thread has four messages after two turns."""
    chat = Chat(openai, "X-OpenWebUI-Chat-Id")
    await chat.say(turns("one"))
    assert await chat.say(turns("### Task: make a title")) == "You said: ### Task: make a title"
    assert chat.outcome == "aside"
    await chat.say(turns("one", "-", "two"))
    await chat.say(turns("### Task: make tags"))

    assert await chat.held(http) == ["one", "You said: one", "two", "You said: one / two"]


async def test_the_first_question_asked_again_starts_over(by_client: Chat, http: httpx.AsyncClient) -> None:
    """Contract, rule 3."""
    await by_client.say(turns("one"))
    await by_client.say(turns("one", "-", "two"))
    await by_client.say(turns("one"))

    assert by_client.outcome == "restarted"
    assert await by_client.held(http) == ["one", "You said: one"]


async def test_an_edited_question_forks(by_client: Chat, http: httpx.AsyncClient) -> None:
    """Contract, rule 4: regenerate and edit, and the conversation goes on from there."""
    await by_client.say(turns("one"))
    await by_client.say(turns("one", "-", "two"))
    await by_client.say(turns("one", "-", "two", "-", "three"))
    assert await by_client.say(turns("one", "-", "other")) == "You said: one / other"
    assert by_client.outcome == "forked"
    assert await by_client.say(turns("one", "-", "other", "-", "four")) == "You said: one / other / four"

    assert by_client.outcome == "appended"


async def test_a_window_that_was_cut_is_continued(by_client: Chat) -> None:
    """Contract, rule 5."""
    await by_client.say(turns("one"))
    await by_client.say(turns("one", "-", "two"))
    assert await by_client.say(turns("two", "-", "three")) == "You said: one / two / three"

    assert by_client.outcome == "appended"


async def test_a_conversation_that_is_another_one_replaces_the_thread(by_client: Chat) -> None:
    """Contract, rule 5: the client's list is the truth."""
    await by_client.say(turns("one"))
    assert await by_client.say(turns("strange", "-", "new")) == "You said: strange / new"

    assert by_client.outcome == "imported"


async def test_a_thread_that_was_made_with_a_state_is_replaced_too(
    openai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    """Ours: its first checkpoint is not empty."""
    step = {"updates": [{"values": {"messages": turns("old")}, "as_node": "__start__"}]}
    made = await http.post("/threads", json={"metadata": {"graph_id": "echo"}, "supersteps": [step]})
    chat = Chat(openai, "X-Conversation-Id", made.json()["thread_id"])

    assert await chat.say(turns("strange", "-", "new")) == "You said: strange / new"


async def test_a_run_of_the_langgraph_api_has_no_digest(by_client: Chat, http: httpx.AsyncClient) -> None:
    """Ours: what a run of another API adds is not taken for what the client knows."""
    await by_client.say(turns("one"))
    run = {"assistant_id": "echo", "input": {"messages": turns("elsewhere")}}
    await http.post(f"/threads/{by_client.thread_id}/runs/wait", json=run)

    assert await by_client.say(turns("one", "-", "two")) == "You said: one / two"
    assert by_client.outcome == "forked"


async def test_the_newest_text_of_the_system_replaces_the_older_one(openai: AsyncOpenAI) -> None:
    """Contract, System text on a thread."""
    chat = Chat(openai, "X-Thread-Id", model="describe")
    for text in ("be short", "be long"):
        shown = await chat.say([{"role": "system", "content": text}, *turns("hello")])
    messages = eval(shown)["messages"]  # noqa: S307 - a literal of our own graph

    assert [each[:2] for each in messages if each[0] == "system"] == [["system", "be long"]]
    assert messages[0][0] == "system"


async def test_two_at_once_come_one_after_the_other(by_thread: Chat, http: httpx.AsyncClient, gate: Gate) -> None:
    """Contract: two at once on one thread."""
    by_thread.model = "gated"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(by_thread.say, turns("one"))
        await gate.entered()
        tasks.start_soon(by_thread.say, turns("two"))
        gate.open()

    assert await by_thread.held(http) == ["one", "before after", "two", "before after"]


async def test_a_question_is_text_and_the_next_message_is_the_answer(by_thread: Chat) -> None:
    """Contract, Questions."""
    by_thread.model = "ask"
    choice = await by_thread.choice(turns("hello"))
    assert (choice.message.content, choice.finish_reason) == ("Which one?", "stop")

    assert await by_thread.say(turns('{"number": 2}')) == "You chose {'number': 2}."
    await by_thread.say(turns("again"))
    assert await by_thread.say(turns("the red one")) == "You chose 'the red one'."


async def test_an_answer_is_no_message_of_the_thread_and_the_client_goes_on(by_client: Chat) -> None:
    """Contract, rule 2: the answer to a question is in the client's list alone."""
    by_client.model = "ask"
    await by_client.say(turns("hello"))
    assert await by_client.say(turns("hello", "Which one?", "red")) == "You chose 'red'."
    assert await by_client.say(turns("hello", "Which one?", "red", "-", "more")) == "Which one?"
    assert by_client.outcome == "appended"


async def test_an_older_question_is_answered_anew(by_client: Chat) -> None:
    """Contract, Questions: a checkpoint keeps the first answer, and would repeat it."""
    by_client.model = "ask"
    await by_client.say(turns("hello"))
    await by_client.say(turns("hello", "Which one?", "red"))
    assert await by_client.say(turns("hello", "Which one?", "blue")) == "You chose 'blue'."
    assert by_client.outcome == "forked"


async def test_several_older_questions_are_answered_anew(by_client: Chat) -> None:
    """Ours: the copy's questions have other ids."""
    by_client.model = "ask/two"
    assert await by_client.say(turns("hello")) == "left?\n\nright?"
    await by_client.say(turns("hello", "-", "red"))
    said = await by_client.say(turns("hello", "-", "blue"))
    assert sorted(said.split("\n\n")) == ["left blue", "right blue"]


@pytest.mark.parametrize(
    ("text", "decisions"),
    [
        ("Yes, please", [{"type": "approve"}]),
        ("no, keep it", [{"type": "reject", "message": "no, keep it"}]),
        ('{"decisions": [{"type": "edit"}]}', [{"type": "edit"}]),
    ],
)
async def test_actions_are_approved_by_text(by_thread: Chat, text: str, decisions: list[Any]) -> None:
    """Contract, Questions: LangChain's human-in-the-loop shape."""
    by_thread.model = "approval"
    assert await by_thread.say(turns("hello")) == 'Approve these actions?\n- delete({"id":1})'
    assert await by_thread.say(turns(text)) == str(decisions)


async def test_a_client_with_the_question_tool_gets_a_call(by_thread: Chat) -> None:
    """Contract, Questions: `langgraph_interrupt`."""
    by_thread.model = "ask"
    choice = await by_thread.choice(turns("hello"), tools=QUESTION_TOOL)
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "langgraph_interrupt",
        {"question": "Which one?"},
    )
    result = {"role": "tool", "tool_call_id": call.id, "content": "red"}
    with pytest.raises(sdk.BadRequestError) as refused:
        await by_thread.say([result | {"tool_call_id": "call_none"}], tools=QUESTION_TOOL)
    assert refused.value.param == "tool_call_id"
    assert await by_thread.say([result], tools=QUESTION_TOOL) == "You chose 'red'."


async def test_all_that_is_pending_must_be_answered(by_thread: Chat) -> None:
    """Contract, Questions: several at once."""
    by_thread.model = "ask/two"
    calls = (await by_thread.choice(turns("hello"), tools=QUESTION_TOOL)).message.tool_calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": call.id[-4:]} for call in calls]
    with pytest.raises(sdk.BadRequestError):
        await by_thread.say(results[:1], tools=QUESTION_TOOL)
    said = await by_thread.say(results, tools=QUESTION_TOOL)

    assert len(said.split("\n\n")) == 2


async def test_a_message_of_the_assistant_alone_continues_nothing(by_thread: Chat) -> None:
    """Ours: there is nothing to append."""
    await by_thread.say(turns("one"))
    with pytest.raises(sdk.BadRequestError) as refused:
        await by_thread.say(turns("one", "two"))
    assert refused.value.param == "messages"


async def test_an_idempotency_key_makes_one_turn(by_thread: Chat, http: httpx.AsyncClient) -> None:
    """Contract, In general: one turn of a thread, also of an answer to a question."""
    by_thread.model = "ask"
    key = {"Idempotency-Key": str(uuid4())}
    assert [await by_thread.say(turns("hello"), key) for _ in range(2)] == ["Which one?"] * 2
    key = {"Idempotency-Key": str(uuid4())}
    assert [await by_thread.say(turns("red"), key) for _ in range(2)] == ["You chose 'red'."] * 2
    assert len(await by_thread.held(http)) == 2
