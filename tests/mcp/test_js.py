"""`@modelcontextprotocol/sdk` and `@modelcontextprotocol/client` of npm."""

import pytest

from clients.node import FOLDER, needs_node, run_script

_missing = not (FOLDER / "node_modules" / "@modelcontextprotocol" / "client").exists()
pytestmark = [needs_node, pytest.mark.skipif(_missing, reason="packages of MCP are missing: make clients")]


@pytest.mark.parametrize("subject", ["sdk1", "client2_legacy", "client2_auto"])
async def test_clients_of_npm(url: str, subject: str) -> None:
    """Contract, MCP: what the script expects of that client."""
    await run_script("mcp", url, "1x", more=[subject])
