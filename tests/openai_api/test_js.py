"""`openai`, `@ai-sdk/openai` and `@ai-sdk/openai-compatible` of npm."""

import pytest

from clients.node import FOLDER, needs_node, run_script

_missing = not (FOLDER / "node_modules" / "openai").exists()
pytestmark = [needs_node, pytest.mark.skipif(_missing, reason="packages of the OpenAI API are missing: make clients")]


@pytest.mark.parametrize("subject", ["sdk", "background", "conversation", "ai", "compatible"])
async def test_clients_of_npm(url: str, subject: str) -> None:
    """Contract: what the script expects of that subject."""
    await run_script("openai", url, "1x", more=[subject])
