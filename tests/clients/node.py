"""Node: the scripts of this folder, run against a server. What a script says by `tell`, the test does."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import anyio
import pytest
from anyio.abc import ByteReceiveStream
from anyio.streams.text import TextReceiveStream

FOLDER = Path(__file__).parent
LINES: tuple[Literal["1x", "2x"], ...] = ("1x", "2x")
"""Of `@langchain/langgraph-sdk`: npm's `latest` is 2.0.0, older than 1.15.0 and with less in it; both are in use."""
SCRIPT_S = 30.0
"""The longest that a script may take."""

_packaged = next(FOLDER.glob("node_modules/node-*/bin/node"), None)
NODE = str(_packaged) if _packaged else shutil.which("node")
"""Node 22, which the newest clients need, from its npm package if there is one for this machine."""
HAS_NODE = NODE is not None and (FOLDER / "node_modules" / ".package-lock.json").exists()
"""Whether Node and the packages of this folder are installed."""
needs_node = pytest.mark.skipif(not HAS_NODE, reason="node or its packages are missing: make clients")


async def run_script(
    name: str,
    url: str,
    line: str,
    wishes: Mapping[str, Callable[[], None]] | None = None,
    *,
    options: Sequence[str] = (),
    more: Sequence[str] = (),
) -> str:
    """What the script printed; where it failed, its errors are the test's.

    A line that it prints is a wish, where `wishes` has it: what belongs to it is done at once.
    """
    said = ["", ""]
    command = [str(NODE), *options, f"{name}.mjs", url, line, *more]
    # No proxy or option of the machine's reaches the script.
    async with await anyio.open_process(command, cwd=FOLDER, env={"PATH": os.environ["PATH"]}) as process:

        async def hear(stream: ByteReceiveStream | None, place: int) -> None:
            assert stream is not None
            async for text in TextReceiveStream(stream):
                said[place] += text
                for wish in text.splitlines():
                    (wishes or {}).get(wish, str)()

        with anyio.move_on_after(SCRIPT_S) as limit:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hear, process.stdout, 0)
                tasks.start_soon(hear, process.stderr, 1)
            await process.wait()
        if limit.cancelled_caught:
            process.kill()
    assert process.returncode == 0, f"{name}.mjs with {line} ended with {process.returncode}\n{said[1]}"
    return said[0]
