"""`openai`, `@ai-sdk/openai` and `@ai-sdk/openai-compatible` of npm."""

import pytest

from clients.node import needs_node, run_script

pytestmark = needs_node


@pytest.mark.parametrize("subject", ["sdk", "background", "conversation", "ai", "compatible"])
async def test_clients_of_npm(url: str, subject: str) -> None:
    """Contract: what the script expects of that subject."""
    await run_script("openai", url, "1x", more=[subject])
