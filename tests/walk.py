"""Walk: which files of the server five requests enter, from the first byte to the last (`make walk`).

The server runs in this process, and each call of a function below `server/threadkeep` is written down. Each request is
sent several times, and only the files that are entered every time count: the others are background work that came
between.
"""

import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import httpx
import uvicorn

import threadkeep
from graphs import GRAPHS
from threadkeep.app import create_app
from threadkeep.graphs import as_loaded_graph
from threadkeep.postgres import embedded, migrate
from threadkeep.settings import Settings

PACKAGE = f"{Path(threadkeep.__file__).parent}/"
TIMES = 20
RUN: dict[str, Any] = {"assistant_id": "chain", "input": {"items": []}}
MARK_START, MARK_END = "<!-- walk -->", "<!-- /walk -->"

Request = Callable[[httpx.AsyncClient], Awaitable[None]]


async def runs_wait(http: httpx.AsyncClient) -> None:
    """POST /runs/wait: a run without a thread, answered with its final values."""
    _ = (await http.post("/runs/wait", json=RUN)).raise_for_status()


async def thread_runs_wait(http: httpx.AsyncClient) -> None:
    """POST /threads/{thread_id}/runs/wait: a run on a thread, answered with its final values."""
    _ = (await http.post(f"/threads/{await _new_thread(http)}/runs/wait", json=RUN)).raise_for_status()


async def runs_stream(http: httpx.AsyncClient) -> None:
    """POST /runs/stream: a run without a thread, and its events."""
    async with http.stream("POST", "/runs/stream", json=RUN) as response:
        _ = await response.aread()


async def background_run(http: httpx.AsyncClient) -> None:
    """POST /threads/{thread_id}/runs: a run left in the queue, and executed by the worker."""
    run = (await http.post(f"/threads/{await _new_thread(http)}/runs", json=RUN)).json()
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
    with _recording_paused():
        while (await http.get(path)).json()["status"] != "success":
            _RECORDER.resume()
            await anyio.sleep(0.05)
            _RECORDER.pause()


async def update_state(http: httpx.AsyncClient) -> None:
    """POST /threads/{thread_id}/state: a change of a thread's state without a run."""
    thread_id = await _new_thread(http)
    with _recording_paused():
        _ = (await http.post(f"/threads/{thread_id}/runs/wait", json=RUN)).raise_for_status()
    update = {"values": {"items": ["changed"]}}
    _ = (await http.post(f"/threads/{thread_id}/state", json=update)).raise_for_status()


REQUESTS: tuple[Request, ...] = (runs_wait, thread_runs_wait, runs_stream, background_run, update_state)


class _Recorder:
    """Writes down the files whose functions are called."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._calls: Callable[[FrameType, str, object], None] = self._called

    def resume(self) -> None:
        sys.setprofile(self._calls)

    def pause(self) -> None:
        sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        del argument
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.files.add(frame.f_code.co_filename.removeprefix(PACKAGE))


_RECORDER = _Recorder()


class _recording_paused:  # noqa: N801 - used as a function
    """What a request needs beforehand is no part of its way."""

    def __enter__(self) -> None:
        _RECORDER.pause()

    def __exit__(self, *_: object) -> None:
        _RECORDER.resume()


async def _new_thread(http: httpx.AsyncClient) -> str:
    with _recording_paused():
        return (await http.post("/threads", json={})).json()["thread_id"]


async def walk(http: httpx.AsyncClient, request: Request) -> list[str]:
    """The files that a request enters each time, by name. The first time does not count: caches are filled then."""
    await request(http)
    entered: list[set[str]] = []
    for _ in range(TIMES):
        _RECORDER.files = set()
        _RECORDER.resume()
        try:
            await request(http)
            await anyio.sleep(0.01)
        finally:
            _RECORDER.pause()
        entered.append(_RECORDER.files)
    return sorted(set[str].intersection(*entered))


@asynccontextmanager
async def serving(uri: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(database_uri=uri, data_dir=folder, host="127.0.0.1", port=0)
    loaded = {"chain": as_loaded_graph("chain", GRAPHS["chain"], where="tests")}
    app = await anyio.to_thread.run_sync(create_app, settings, uri, loaded)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        until = time.monotonic() + 30
        while not server.started and time.monotonic() < until:
            await anyio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            yield http
        server.should_exit = True


async def _main(folder: Path, uri: str) -> str:
    await migrate.migrate(uri)
    lines = ["| request | files entered |", "| --- | --- |"]
    async with serving(uri, folder) as http:
        for request in REQUESTS:
            files = await walk(http, request)
            name, _, _ = str(request.__doc__).partition(": ")
            lines.append(f"| `{name}` | {len(files)} |")
            print(f"{name}: {len(files)} files\n  " + "\n  ".join(files))  # noqa: T201 - the answer
    return "\n".join(lines)


def main() -> None:
    """Print the files of each request, and write the table of docs/design.md anew."""
    with tempfile.TemporaryDirectory() as name, embedded.embedded_postgres(Path(name), durable=False) as uri:
        table = anyio.run(_main, Path(name), uri)
    page = Path(__file__).parents[1] / "docs" / "design.md"
    text = page.read_text()
    if MARK_START in text:
        head, _, rest = text.partition(MARK_START)
        _, _, tail = rest.partition(MARK_END)
        _ = page.write_text(f"{head}{MARK_START}\n{table}\n{MARK_END}{tail}")


if __name__ == "__main__":
    main()
