"""`@langchain/langgraph-sdk`, both lines: each of its methods is called, and finds the answers that it expects."""

import json
import re
from collections.abc import AsyncIterator

import pytest

from clients.node import FOLDER, LINES, needs_node, run_script
from conftest import serving
from graphs import Gate
from threadkeep.settings import Settings

pytestmark = needs_node

SUBJECTS = ("assistants", "threads", "runs", "streams", "crons", "store", "errors")
ELSEWHERE = {"threads.stream"}
"""The protocol v2, which has tests of its own: `test_js_protocol.py`, `tests/api/test_protocol_python.py`."""


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("subject", SUBJECTS)
async def test_sdk_finds_all_as_it_should_be(url: str, gate: Gate, subject: str, line: str) -> None:
    """Protocol: what the script of that name asks and expects."""
    await run_script(subject, url, line)


@pytest.fixture
async def narrow_url(settings: Settings) -> AsyncIterator[str]:
    """The URL of a server with one slot and no line."""
    async with serving(settings.model_copy(update={"run_slots": 1, "max_waiting": 0})) as url:
        yield url


@pytest.mark.parametrize("line", LINES)
async def test_full_server_is_told_from_a_broken_one(narrow_url: str, gate: Gate, line: str) -> None:
    """Ours: 503 in JSON, before a stream begins."""
    await run_script("full", narrow_url, line)


@pytest.mark.parametrize("line", LINES)
async def test_every_method_of_the_sdk_is_called_by_a_script(line: str) -> None:
    """Ours: a release of the SDK with a new method fails here until the server offers it."""
    texts = [(FOLDER / f"{subject}.mjs").read_text(encoding="utf-8") for subject in SUBJECTS]
    called = {name for text in texts for name in re.findall(r"\bclient\.(\w+\.\w+)\(", text)}

    offered = set(json.loads(await run_script("methods", "http://localhost", line)))

    assert offered - ELSEWHERE <= called
    assert line == "2x" or called <= offered
