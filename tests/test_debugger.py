"""`threadkeep dev --debug-port`: a debugger stops in a node. Skipped without debugpy (threadkeep[debug])."""

import asyncio
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from conftest import free_port
from test_dev import LANGGRAPH_JSON, TALKER

pytestmark = pytest.mark.skipif(importlib.util.find_spec("debugpy") is None, reason="debugpy is missing")


class Debugger:
    """A client of the Debug Adapter Protocol."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)

    async def send(self, command: str, **arguments: Any) -> int:
        """Send a request, and return its number."""
        number = next(self._numbers)
        body = json.dumps({"seq": number, "type": "request", "command": command, "arguments": arguments}).encode()
        self._writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await self._writer.drain()
        return number

    async def receive(self, kind: str, name: str) -> Any:
        """Return the next event or response of this name."""
        with anyio.fail_after(20):
            while True:
                head = await self._reader.readuntil(b"\r\n\r\n")
                message = json.loads(await self._reader.readexactly(int(head.split(b":")[1])))
                if message["type"] == kind and message.get("event", message.get("command")) == name:
                    return message

    async def attach(self, file: Path, line: int) -> None:
        """Attach, with a breakpoint."""
        await self.send("initialize", adapterID="test", linesStartAt1=True, columnsStartAt1=True, pathFormat="path")
        await self.receive("response", "initialize")
        await self.send("attach", justMyCode=False)
        await self.receive("event", "initialized")
        await self.send("setBreakpoints", source={"path": str(file)}, breakpoints=[{"line": line}])
        await self.receive("response", "setBreakpoints")
        await self.send("configurationDone")
        await self.receive("response", "attach")


@asynccontextmanager
async def _connected(port: int) -> AsyncIterator[Debugger]:
    with anyio.fail_after(60):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except OSError:
                await anyio.sleep(0.1)
    try:
        yield Debugger(reader, writer)
    finally:
        writer.close()


async def _stops(debugger: Debugger, http: httpx.AsyncClient) -> tuple[str, str]:
    """Run the graph, whose node stops at the breakpoint. The reason of the stop, and what the run says."""
    answers: list[httpx.Response] = []

    async def run() -> None:
        answers.append(await http.post("/runs/wait", json={"assistant_id": "talker", "input": {}}))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        stopped = (await debugger.receive("event", "stopped"))["body"]
        await debugger.send("continue", threadId=stopped["threadId"])
    return stopped["reason"], answers[0].json()["said"]


async def _ready(http: httpx.AsyncClient) -> None:
    with anyio.fail_after(60):
        while True:
            try:
                if (await http.get("/ok")).is_success:
                    return
            except httpx.TransportError:
                await anyio.sleep(0.1)


async def test_a_debugger_stops_in_a_node(tmp_path: Path) -> None:
    """Issue 20: --debug-port and --wait-for-client."""
    port, debug_port = free_port(), free_port()
    own = {"HOME": str(tmp_path), "PORT": str(port), "THREADKEEP_DATA_DIR": str(tmp_path / "data")}
    (tmp_path / "langgraph.json").write_text(LANGGRAPH_JSON)
    (tmp_path / ".env").write_text("NAME=Ada\n")
    talker = tmp_path / "talker.py"
    talker.write_text(TALKER.replace("WORD", "hello"))
    line = TALKER.splitlines().index('    return {"said": "WORD " + os.environ["NAME"]}') + 1
    command = [sys.executable, "-m", "threadkeep", "dev", "--debug-port", str(debug_port), "--wait-for-client"]
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, env={**os.environ, **own}, stdout=log, stderr=log
        )
    try:
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
            _connected(debug_port) as debugger,
        ):
            await debugger.attach(talker, line)
            await _ready(http)
            stopped = await _stops(debugger, http)
    finally:
        process.terminate()
        await process.wait()

    assert stopped == ("breakpoint", "hello Ada")
