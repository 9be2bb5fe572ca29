"""Node: the scripts of this folder, run against a server, with the gate of the graph `gated` within their reach."""

import os
import shutil
from pathlib import Path
from typing import Literal

import anyio
import pytest
from anyio.streams.text import TextReceiveStream

from graphs import Gate

FOLDER = Path(__file__).parent
LINES: tuple[Literal["1x", "2x"], ...] = ("1x", "2x")
"""Of `@langchain/langgraph-sdk`: npm's `latest` is 2.0.0, older than 1.15.0 and with less in it; both are in use."""
SCRIPT_S = 30.0
"""The longest that a script may take."""

_missing = shutil.which("node") is None or not (FOLDER / "node_modules" / ".package-lock.json").exists()
needs_node = pytest.mark.skipif(_missing, reason="node or its packages are missing: make clients")


async def run_script(name: str, url: str, line: str, gate: Gate | None = None) -> str:
    """What the script printed; its errors, where it failed, are the test's. "open the gate" opens `gate`."""
    said = ["", ""]
    command = ["node", f"{name}.mjs", url, line]
    # No proxy or option of the machine's reaches the script.
    async with await anyio.open_process(command, cwd=FOLDER, env={"PATH": os.environ["PATH"]}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = TextReceiveStream(process.stdout), TextReceiveStream(process.stderr)

        async def hear(stream: TextReceiveStream, place: int) -> None:
            async for text in stream:
                said[place] += text
                if gate is not None and "open the gate\n" in said[0]:
                    gate.open()

        with anyio.move_on_after(SCRIPT_S) as limit:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hear, out, 0)
                tasks.start_soon(hear, err, 1)
            await process.wait()
        if limit.cancelled_caught:
            process.kill()
    assert process.returncode == 0, f"{name}.mjs with {line} ended with {process.returncode}\n{said[1]}"
    return said[0]
