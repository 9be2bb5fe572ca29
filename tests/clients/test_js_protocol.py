"""`@langchain/langgraph-sdk` 1.15: `client.threads.stream`, the protocol v2, over SSE and over a WebSocket."""

from collections.abc import AsyncIterator

import pytest

from clients.node import needs_node, run_script
from conftest import serving
from graphs import Gate
from protocol_graphs import PROTOCOL_GRAPHS
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

pytestmark = needs_node


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """A server of the protocol's graphs."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in PROTOCOL_GRAPHS.items()}
    async with serving(settings, loaded) as url:
        yield url


@pytest.mark.parametrize("transport", ["sse", "websocket"])
@pytest.mark.parametrize(
    "subject", ["messages", "channels", "tools", "subgraphs", "question", "questions", "v1", "watchers"]
)
async def test_threads_stream_of_the_js_sdk(url: str, gate: Gate, subject: str, transport: str) -> None:
    """Protocol: what the script expects of that subject; a run waits where it would be over before it is watched."""
    options = ["--experimental-websocket"]
    await run_script("protocol", url, "1x", {"open the gate": gate.open}, options=options, more=[transport, subject])
