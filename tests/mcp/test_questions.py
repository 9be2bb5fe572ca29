"""Questions: interrupts as elicitations, and as results that say how to answer."""

from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from mcp_types import ElicitResult

from mcp_client import MODERN, client, post, texts

FORMS: dict[str, Any] = {"elicitation": {}}
ARGUMENTS = {"name": "x"}
Reply = Callable[[Any], ElicitResult]


def _asking(reply: Reply) -> tuple[list[Any], Any]:
    """What the user is asked, and the callback that answers."""
    asked: list[Any] = []

    async def callback(context: Any, params: Any) -> ElicitResult:
        del context
        asked.append(params)
        return reply(params)

    return asked, callback


def accept(**content: Any) -> ElicitResult:
    return ElicitResult(action="accept", content=content)


async def test_a_question_is_asked_and_its_answer_goes_on(url: str) -> None:
    """Contract, Questions: a text; two in one node; the question's own schema."""
    replies = iter([accept(answer="Ada"), accept(answer="one"), accept(answer="two"), accept(age=36, fine=True)])
    asked, callback = _asking(lambda _: next(replies))
    async with client(url, MODERN, elicitation_callback=callback) as mcp:
        name = await mcp.call_tool("name", {})
        twice = await mcp.call_tool("twice", {})
        form = await mcp.call_tool("form", {"name": "x"})

    assert [params.message for params in asked] == ["What is your name?", "first?", "second?", "Who are you?"]
    assert asked[0].requested_schema["properties"]["answer"]["type"] == "string"
    assert set(asked[3].requested_schema["properties"]) == {"age", "fine"}
    assert name.structured_content["answers"] == ["Ada"]
    assert twice.structured_content["answers"] == ["one", "two"]
    assert form.structured_content["answers"] == [{"age": 36, "fine": True}]


async def test_a_schema_that_no_form_has_is_asked_for_as_json(url: str) -> None:
    """Contract, Questions: forms have no nesting. An answer that does not fit is asked for again."""
    replies = iter([accept(answer="there"), accept(answer='{"at": {}}'), accept(answer='{"at": {"x": 1}}')])
    asked, callback = _asking(lambda _: next(replies))
    async with client(url, MODERN, elicitation_callback=callback) as mcp:
        result = await mcp.call_tool("nested", {})

    assert [params.message.splitlines()[0] for params in asked] == ["Where?"] * 3
    assert '"x"' in asked[0].message
    assert result.structured_content["answers"] == [{"at": {"x": 1}}]


async def test_several_questions_are_asked_at_once(url: str) -> None:
    """Contract, Questions: one elicitation for each pending interrupt."""
    asked, callback = _asking(lambda params: accept(answer=params.message.removesuffix("?")))
    async with client(url, MODERN, elicitation_callback=callback) as mcp:
        result = await mcp.call_tool("both", {"name": "x"})

    assert sorted(params.message for params in asked) == ["left?", "right?"]
    assert (result.structured_content["name"], result.structured_content["calls"]) == ("left left", 1)


async def test_a_decision_is_asked_for_each_action(url: str) -> None:
    """Contract, Questions: LangChain's human in the loop is answered as `{"decisions": [...]}`."""
    reply = accept(decision_1="approve", decision_2="reject", message_2="too dangerous")
    asked, callback = _asking(lambda _: reply)
    async with client(url, MODERN, elicitation_callback=callback) as mcp:
        result = await mcp.call_tool("approve", {})

    assert "send" in asked[0].message
    assert result.structured_content["answers"] == [
        {"decisions": [{"type": "approve"}, {"type": "reject", "message": "too dangerous"}]}
    ]


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_who_declines_leaves_the_thread_waiting(url: str, http: httpx.AsyncClient, action: Any) -> None:
    """Contract, Questions: a tool error, nothing resumed, the thread waits on."""
    _, callback = _asking(lambda _: ElicitResult(action=action))
    thread = (await http.post("/threads", json={})).json()
    async with client(url, MODERN, elicitation_callback=callback) as mcp:
        result = await mcp.call_tool("name", {"thread_id": thread["thread_id"]})
    after = (await http.get(f"/threads/{thread['thread_id']}")).json()
    runs = (await http.get(f"/threads/{thread['thread_id']}/runs")).json()

    assert (result.is_error, thread["thread_id"] in result.content[0].text) == (True, True)
    assert (after["status"], len(runs)) == ("interrupted", 1)


async def _ask(http: httpx.AsyncClient, tool: str) -> dict[str, Any]:
    answer = await post(http, "tools/call", {"name": tool, "arguments": ARGUMENTS}, capabilities=FORMS)
    return answer.json()["result"]


async def _retry(http: httpx.AsyncClient, tool: str, asked: dict[str, Any], **answers: Any) -> httpx.Response:
    params = {"name": tool, "arguments": ARGUMENTS, "requestState": asked["requestState"], "inputResponses": answers}
    return await post(http, "tools/call", params, capabilities=FORMS)


async def test_what_is_missing_or_does_not_fit_is_asked_again(http: httpx.AsyncClient) -> None:
    """Contract, Questions: a retry is asked again only for what is open."""
    asked = await _ask(http, "both")
    left, right = sorted(asked["inputRequests"], key=lambda key: asked["inputRequests"][key]["params"]["message"])
    some = (await _retry(http, "both", asked, **{left: {"action": "accept", "content": {"answer": "a"}}})).json()
    none = (await _retry(http, "both", some["result"])).json()
    wrong = (await _retry(http, "both", some["result"], **{right: {"action": "accept", "content": {"x": 1}}})).json()
    done = (
        await _retry(http, "both", wrong["result"], **{right: {"action": "accept", "content": {"answer": "b"}}})
    ).json()

    assert [list(each["result"]["inputRequests"]) for each in (some, none, wrong)] == [[right]] * 3
    assert done["result"]["structuredContent"]["name"] == "left a"


async def test_an_answer_given_twice_is_given_once(http: httpx.AsyncClient) -> None:
    """Contract, Questions: twice the same is no second answer, also at once; another answer gets the present result."""
    asked = await _ask(http, "name")
    (key,) = asked["inputRequests"]
    results: list[dict[str, Any]] = []

    async def answer(text: str) -> None:
        sent = {key: {"action": "accept", "content": {"answer": text}}}
        results.append((await _retry(http, "name", asked, **sent)).json()["result"])

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(answer, "Ada")
    await answer("Bob")
    thread_id = results[0]["structuredContent"]["thread_id"]
    runs = (await http.get(f"/threads/{thread_id}/runs")).json()

    assert [each["structuredContent"]["answers"] for each in results] == [["Ada"]] * 4
    assert len(runs) == 2


async def test_a_state_that_was_not_given_is_refused(http: httpx.AsyncClient) -> None:
    """Contract, Questions: sealed, and bound to tool and arguments; -32602."""
    asked = await _ask(http, "name")
    sent = {"name": "name", "arguments": ARGUMENTS, "requestState": asked["requestState"]}
    changed = [
        {**sent, "requestState": asked["requestState"][:-4] + "AAAA"},
        {**sent, "requestState": "x"},
        {**sent, "name": "twice"},
        {**sent, "arguments": {"name": "other"}},
        {"name": "name", "arguments": {}, "inputResponses": {"x": {"action": "cancel"}}},
    ]
    answers = [await post(http, "tools/call", params, capabilities=FORMS) for params in changed]

    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(400, -32602)}


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_a_client_that_cannot_be_asked_is_told_how_to_answer(url: str, mode: str) -> None:
    """Contract, Questions: otherwise a result that tells the question, and `resume`."""
    async with client(url, mode) as mcp:
        await mcp.list_tools()
        asked = await mcp.call_tool("name", {})
        thread_id = asked.structured_content["thread_id"]
        wrong = await mcp.call_tool("form", {"thread_id": thread_id, "resume": "x"})
        answered = await mcp.call_tool("name", {"thread_id": thread_id, "resume": "Ada"})
        again = await mcp.call_tool("name", {"thread_id": thread_id, "resume": "Ada"})

    assert not asked.is_error
    assert "What is your name?" in texts(asked)[0]
    assert thread_id in texts(asked)[0]
    assert (wrong.is_error, "another agent" in wrong.content[0].text) == (True, True)
    assert answered.structured_content["answers"] == ["Ada"]
    assert (again.is_error, "does not wait for an answer" in again.content[0].text) == (True, True)


async def test_several_questions_are_answered_by_their_ids(url: str) -> None:
    """Contract, Questions: `resume` is an object by interrupt id; schemas and decisions are held to."""
    async with client(url, "legacy") as mcp:
        asked = await mcp.call_tool("both", {"name": "x"})
        thread_id = asked.structured_content["thread_id"]
        ids = [line.split(":")[0].removeprefix("- ") for line in texts(asked)[0].splitlines() if line.startswith("- ")]
        wrong = await mcp.call_tool("both", {"thread_id": thread_id, "resume": "x"})
        both = await mcp.call_tool("both", {"thread_id": thread_id, "resume": dict.fromkeys(ids, "y")})
        form = await mcp.call_tool("form", {})
        thread_id = form.structured_content["thread_id"]
        misfit = await mcp.call_tool("form", {"thread_id": thread_id, "resume": {"age": -1}})
        fits = await mcp.call_tool("form", {"thread_id": thread_id, "resume": {"age": 1}})
        approve = await mcp.call_tool("approve", {})
        thread_id = approve.structured_content["thread_id"]
        approved = await mcp.call_tool("approve", {"thread_id": thread_id, "resume": "yes"})

    assert (wrong.is_error, ids[0] in wrong.content[0].text) == (True, True)
    assert both.structured_content["name"] == "left y"
    assert misfit.is_error
    assert fits.structured_content["answers"] == [{"age": 1}]
    assert approved.structured_content["answers"] == [{"decisions": [{"type": "approve"}] * 2}]
