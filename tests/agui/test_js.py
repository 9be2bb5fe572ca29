"""`@ag-ui/client` of npm, with its verification on."""

import pytest

from clients.node import FOLDER, needs_node, run_script
from graphs import Gate

_missing = not (FOLDER / "node_modules" / "@ag-ui" / "client").exists()
pytestmark = [needs_node, pytest.mark.skipif(_missing, reason="@ag-ui/client is missing: make clients")]


@pytest.mark.parametrize("subject", ["text", "tools", "state", "reasoning", "interrupts", "failure"])
async def test_http_agent_accepts_each_stream(url: str, subject: str) -> None:
    """Contract: what the script expects of that subject."""
    await run_script("agui", url, "1x", more=[subject])


async def test_http_agent_comes_back_to_a_run_that_it_left(url: str, gate: Gate) -> None:
    """Contract, Coming back and Leaving: with the same run id within the grace."""
    await run_script("agui", url, "1x", {"open": gate.open}, more=["abort"])


@pytest.mark.parametrize("subject", ["text", "tools", "interrupt"])
async def test_langgraph_agent_of_copilotkit(url: str, subject: str) -> None:
    """`@ag-ui/langgraph` speaks with the LangGraph API, as with LangGraph's own server."""
    await run_script("copilotkit", url, "1x", more=[subject])
