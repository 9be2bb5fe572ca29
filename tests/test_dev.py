"""`threadkeep dev`: a change of a file is served soon, and a mistake in it leaves the server as it was."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from conftest import free_port

LANGGRAPH_JSON = '{"dependencies": ["."], "graphs": {"talker": "./talker.py:graph"}, "env": ".env"}'
TALKER = """
import os
from pathlib import Path
from typing import TypedDict

import anyio
from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    wait: bool
    said: str


async def begin(state: State) -> State:
    if state.get("wait"):
        Path("begun").touch()
        while not Path("go").exists():
            await anyio.sleep(0.01)
    return {}


async def say(state: State) -> State:
    return {"said": "WORD " + os.environ["NAME"]}


graph = StateGraph(State).add_sequence([begin, say]).add_edge(START, "begin").compile()
"""


class Dev:
    """A running `threadkeep dev`."""

    def __init__(self, folder: Path, http: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
        self.folder, self.http, self.process = folder, http, process

    def write(self, word: str, name: str = "Ada") -> None:
        """Change the project."""
        (self.folder / ".env").write_text(f"NAME={name}\n")
        (self.folder / "talker.py").write_text(TALKER.replace("WORD", word))

    async def said(self) -> str:
        """What a run says."""
        answer = await self.http.post("/runs/wait", json={"assistant_id": "talker", "input": {}})
        return answer.json().get("said", answer.text)

    def output(self) -> str:
        """What the process has printed."""
        return (self.folder / "log").read_text()


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(60):
        while not await condition():
            await anyio.sleep(0.05)


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    """A project that is being developed."""
    port = free_port()
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PORT": str(port),
        "THREADKEEP_DATA_DIR": str(tmp_path / "data"),
    }
    (tmp_path / "langgraph.json").write_text(LANGGRAPH_JSON)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        with (tmp_path / "log").open("wb") as log:
            command = [sys.executable, "-m", "threadkeep", "dev"]
            running: Any = None
            dev = Dev(tmp_path, http, running)
            dev.write("hello")
            dev.process = await asyncio.create_subprocess_exec(
                *command, cwd=tmp_path, env=environment, stdout=log, stderr=log
            )
        try:
            await _until(lambda: _is_served(dev))
            yield dev
        finally:
            if dev.process.returncode is None:
                dev.process.terminate()
            with anyio.fail_after(60):
                await dev.process.wait()


async def _is_served(dev: Dev) -> bool:
    assert dev.process.returncode is None, dev.output()
    try:
        return (await dev.http.get("/ok")).is_success
    except httpx.TransportError:
        return False


async def test_a_change_is_served_and_a_mistake_leaves_the_server_as_it_was(dev: Dev) -> None:
    """Issue: no reload. A syntax error is shown with its place, and the graphs before it stay."""
    assert await dev.said() == "hello Ada"

    dev.write("bye", name="Bob")
    await _until(lambda: _says(dev, "bye Bob"))

    (dev.folder / "talker.py").write_text("graph = (\n")
    await _until(lambda: _printed(dev, "the server before this change goes on"))
    assert await dev.said() == "bye Bob"
    assert "talker.py" in dev.output()
    assert "'(' was never closed" in dev.output()

    dev.write("again")
    await _until(lambda: _says(dev, "again Ada"))


async def test_a_run_in_progress_survives_a_change(dev: Dev) -> None:
    """Issue: runs in progress go on, here in the process that executes it."""
    thread_id = (await dev.http.post("/threads", json={})).json()["thread_id"]
    body = {"assistant_id": "talker", "input": {"wait": True}}
    run = (await dev.http.post(f"/threads/{thread_id}/runs", json=body)).json()
    await _until(lambda: anyio.Path(dev.folder / "begun").exists())
    dev.write("bye")
    await _until(lambda: _says(dev, "bye Ada"))
    (dev.folder / "go").touch()
    answer = await dev.http.get(f"/threads/{thread_id}/runs/{run['run_id']}/join")

    assert answer.json()["said"].endswith("Ada")


async def _says(dev: Dev, words: str) -> bool:
    return await dev.said() == words


async def _printed(dev: Dev, words: str) -> bool:
    return words in dev.output()


async def test_waiting_for_a_debugger_needs_its_port(tmp_path: Path) -> None:
    """Ours: it would wait for ever."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "threadkeep", "dev", "--wait-for-client", cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()

    assert process.returncode == 2
    assert "--wait-for-client needs --debug-port" in errors.decode()
