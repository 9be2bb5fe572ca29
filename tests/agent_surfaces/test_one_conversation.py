"""One engine: a conversation is begun by MCP, continued by A2A, watched by AG-UI and read by the LangGraph API."""

from typing import Any

import anyio
import httpx
from a2a.types import a2a_pb2 as pb
from langgraph_sdk import get_client

from a2a_api.conftest import message, sdk_client, text_of
from agui.conftest import LOADED
from agui.pages import Page, check, text, types
from conftest import WAIT_S, serving
from graphs import Gate
from mcp_client import MODERN, client, texts
from threadkeep.settings import Settings


async def test_a_conversation_goes_through_all_surfaces(settings: Settings, gate: Gate) -> None:
    """Issue 19: conversation = thread, unit of work = run, whoever asks; in two processes."""
    async with (
        serving(settings, LOADED) as url,
        serving(settings, LOADED) as elsewhere,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http,
        httpx.AsyncClient(base_url=elsewhere, timeout=WAIT_S * 2) as page_http,
        get_client(url=elsewhere, api_key=None) as langgraph,
    ):
        async with client(url, MODERN) as mcp:
            begun: Any = await mcp.call_tool("chat", {"messages": "one"})
        thread_id = begun.structured_content["thread_id"]

        a2a = await sdk_client(http, "chat")
        stream = a2a.send_message(message("wait here", context_id=thread_id))
        task_id = (await anext(stream)).task.id
        await gate.entered()

        page, watched = Page(page_http, "chat", thread_id=thread_id), list[dict[str, Any]]()
        async with page.stream(runId=task_id) as events:
            with anyio.fail_after(WAIT_S):
                async for event in events:
                    watched.append(event)
                    if event["type"] == "TEXT_MESSAGE_START":
                        gate.open()
        told = [event async for event in stream]
        state = await langgraph.threads.get_state(thread_id)
        runs = await langgraph.runs.list(thread_id)

    answer = "You said: one / wait here"
    check(watched)
    assert texts(begun) == ["You said: one"]
    assert told[-1].status_update.status.state == pb.TaskState.TASK_STATE_COMPLETED
    assert "".join(text_of(each.artifact_update.artifact.parts) for each in told[:-1]) == answer
    assert (text(watched), types(watched)[-1]) == (f"{answer}|", "RUN_FINISHED")
    values: Any = state["values"]
    assert [each["content"] for each in values["messages"]] == ["one", "You said: one", "wait here", answer]
    assert [each["id"] for each in values["messages"]] == [each["id"] for each in watched[-2]["messages"]]
    assert [run["metadata"]["source"] for run in runs] == ["a2a", "mcp"]
