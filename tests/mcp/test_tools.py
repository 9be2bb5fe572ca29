"""Tools: which there are, what they take, and what they give, through the official client in both eras."""

import uuid
from typing import Any

import anyio
import httpx
import pytest
from mcp.shared.exceptions import MCPError

from mcp_client import ERAS, MODERN, client, post, texts


@pytest.mark.parametrize("mode", ERAS)
async def test_tools_are_the_assistants_in_a_stable_order(url: str, http: httpx.AsyncClient, mode: str) -> None:
    """Contract, Tools: graphs as in langgraph.json, then by creation; names, and never an empty description."""
    named = [("Ada's  tool", "What it does."), ("echo", None), (None, None)]
    if mode == "legacy":
        for name, description in named:
            body = {"graph_id": "count", "name": name, "description": description}
            await http.post("/assistants", json={key: value for key, value in body.items() if value is not None})
    async with client(url, mode) as mcp:
        tools = (await mcp.list_tools()).tools

    names = [tool.name for tool in tools]
    assert names[:4] == ["echo", "report", "count", "wait"]
    assert names[16] == "odd_name_"
    made = (await http.post("/assistants/search", json={"graph_id": "count", "sort_by": "created_at"})).json()
    ids = {assistant["name"]: assistant["assistant_id"].replace("-", "")[:8] for assistant in made}
    assert names[17:] == ["Ada_s_tool", f"echo-{ids['echo']}", f"Untitled-{ids['Untitled']}"]
    assert (tools[17].title, tools[17].description) == ("Ada's  tool", "What it does.")
    assert all(tool.description for tool in tools)


async def test_schemas_are_those_of_the_graph(url: str) -> None:
    """Contract, Tools: `inputSchema`, `outputSchema`."""
    async with client(url, MODERN) as mcp:
        tools = {tool.name: tool for tool in (await mcp.list_tools()).tools}

    report, echo, total = tools["report"], tools["echo"], tools["sum"]
    assert list(report.input_schema["properties"]) == ["topic", "words", "thread_id", "resume"]
    assert set(report.output_schema["properties"]) == {"report", "score", "thread_id"}
    assert report.output_schema["required"] == ["thread_id"]
    assert echo.input_schema["properties"]["messages"]["type"] == "string"
    assert "$defs" not in echo.input_schema
    assert set(echo.output_schema["properties"]) == {"thread_id"}
    assert {"input", "thread_id"} <= set(total.input_schema["properties"])
    assert all(tool.input_schema["type"] == "object" for tool in tools.values())


@pytest.mark.parametrize("mode", ERAS)
async def test_a_result_is_for_models_and_for_programs(url: str, mode: str) -> None:
    """Contract, Tools: `content`, `structuredContent`. The client validates it."""
    async with client(url, mode) as mcp:
        await mcp.list_tools()
        report = await mcp.call_tool("report", {"topic": "tea", "words": 2})
        echo = await mcp.call_tool("echo", {"messages": "hello"})
        total = await mcp.call_tool("sum", {"input": 3})

    assert not report.is_error
    thread_id = report.structured_content.pop("thread_id")
    assert report.structured_content == {"report": "tea tea", "score": 0.5}
    assert uuid.UUID(thread_id)
    assert texts(report) == ['{"report":"tea tea","score":0.5}']
    assert texts(echo) == ["You said: hello"]
    assert set(echo.structured_content) == {"thread_id"}
    assert total.structured_content["output"] == 3


async def test_blocks_of_a_message_are_blocks_of_the_result(url: str) -> None:
    """Contract, Tools: text, image, audio, else JSON text."""
    async with client(url, MODERN) as mcp:
        shown = await mcp.call_tool("show", {"messages": "x"})

    assert [block.type for block in shown.content] == ["text", "image", "text", "text"]
    assert (shown.content[1].data, shown.content[1].mime_type) == ("aW1n", "image/png")
    assert "https://example.com/a.pdf" in shown.content[2].text


@pytest.mark.parametrize("mode", ERAS)
async def test_a_conversation_goes_on_by_its_thread_id(url: str, http: httpx.AsyncClient, mode: str) -> None:
    """Contract, Tools: `thread_id`. The LangGraph API sees the thread."""
    async with client(url, mode) as mcp:
        first = await mcp.call_tool("echo", {"messages": [{"role": "user", "content": "one"}]})
        thread_id = first.structured_content["thread_id"]
        second = await mcp.call_tool("echo", {"messages": "two", "thread_id": thread_id})
    thread = (await http.get(f"/threads/{thread_id}")).json()

    assert texts(second) == ["You said: one / two"]
    assert second.structured_content == {"thread_id": thread_id}
    assert (thread["metadata"]["source"], len(thread["values"]["messages"])) == ("mcp", 4)


async def test_calls_at_once_on_a_thread_get_their_own_results(url: str) -> None:
    """Contract, Tools: five calls on one thread get five different counts."""
    counts: list[int] = []

    async def call(thread_id: str) -> None:
        result = await mcp.call_tool("count", {"name": "x", "thread_id": thread_id})
        counts.append(result.structured_content["calls"])

    async with client(url, MODERN) as mcp:
        thread_id = (await mcp.call_tool("count", {"name": "x"})).structured_content["thread_id"]
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(call, thread_id)

    assert sorted(counts) == [2, 3, 4, 5, 6]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("report", {"topic": "x"}, "words"),
    ("report", {"topic": 1, "words": 1}, "topic"),
    ("report", {"topic": "x", "words": 1, "wrods": 2}, "wrods"),
    ("echo", {}, "messages"),
    ("echo", {"messages": ""}, "messages"),
    ("echo", {"messages": [{"role": "x", "content": "y"}]}, "messages[0].role"),
    ("echo", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("echo", {"messages": "x", "thread_id": "no id"}, "Omit thread_id"),
    ("echo", {"messages": "x", "thread_id": str(uuid.UUID(int=7))}, "Omit thread_id"),
    ("name", {"resume": "x"}, "thread_id"),
    ("name", {"resume": "x", "thread_id": str(uuid.UUID(int=7))}, "Omit thread_id"),
]


@pytest.mark.parametrize("mode", ERAS)
async def test_what_is_wrong_with_a_call_is_told_to_the_model(url: str, mode: str) -> None:
    """Contract, Tools: a tool error that names the field; an unknown thread; a graph that raises."""
    async with client(url, mode) as mcp:
        for tool, arguments, said in WRONG:
            result = await mcp.call_tool(tool, arguments)
            assert (result.is_error, said in result.content[0].text) == (True, True), result
        failed = await mcp.call_tool("fail", {"name": "x"})
        hidden = await mcp.call_tool("hidden", {"name": "x"})
        with pytest.raises(MCPError) as unknown:
            await mcp.call_tool("none", {})

    assert (failed.is_error, failed.content[0].text) == (True, "ValueError: the node failed")
    assert hidden.content[0].text.startswith("Hidden: An internal error occurred (request ")
    assert unknown.value.code == -32602


async def test_a_list_is_private_and_has_one_page(http: httpx.AsyncClient) -> None:
    """Contract, Tools: `cacheScope: private`, a small `ttlMs`. A cursor that was never given is refused."""
    listed = (await post(http, "tools/list")).json()["result"]
    refused = await post(http, "tools/list", {"cursor": "x"})

    assert (listed["cacheScope"], listed["ttlMs"], "nextCursor" in listed) == ("private", 5000, False)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32602)
