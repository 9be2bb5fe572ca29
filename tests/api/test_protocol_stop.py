"""Told to stop: streams and sockets of the protocol v2 go on while the runs have their time, and end then."""

import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from test_serve import serving_process
from test_stop import asking, told_to_stop

CHANNELS = {"channels": ["values", "lifecycle"]}


def start(seconds: float) -> dict[str, Any]:
    params = {key: value for key, value in asking(seconds).items() if key != "stream_mode"}
    return {"id": 1, "method": "run.start", "params": params}


async def test_a_stream_has_the_end_of_a_run_that_ends_in_time(database: str, tmp_path: Path) -> None:
    """Ours: a run that ends within the drain is streamed to its end. Then the stream is closed."""
    thread = "/threads/00000000-0000-4000-8000-000000000001"
    async with serving_process(tmp_path, DATABASE_URI=database, THREADKEEP_LINGER="0.2") as (process, http):
        (await http.post(f"{thread}/commands", json=start(1))).raise_for_status()
        with anyio.fail_after(15):
            received = await told_to_stop(process, http.stream("POST", f"{thread}/stream/events", json=CHANNELS))
        with anyio.fail_after(10):
            code = await anyio.to_thread.run_sync(process.wait)

    assert b'"event":"completed"' in received
    assert received.endswith(b": the server is stopping\r\nretry: 1000\r\n")
    assert code == 0


@pytest.mark.parametrize(("seconds", "ends"), [(1, True), (60, False)])
async def test_socket_is_closed_with_the_code_that_says_come_again(
    database: str, tmp_path: Path, seconds: float, *, ends: bool
) -> None:
    """Ours: code 1012 after the end of a run that ends in time. There is no end of a run that does not."""
    quick = {"DATABASE_URI": database, "THREADKEEP_LINGER": "0.2", "THREADKEEP_DRAIN": "5" if ends else "1"}
    found: list[str | bytes] = []
    async with serving_process(tmp_path, **quick) as (process, http):
        address = f"ws://127.0.0.1:{http.base_url.port}/threads/00000000-0000-4000-8000-000000000001/stream/events"
        with anyio.fail_after(15):
            async with connect(address) as socket:
                await socket.send(json.dumps(start(seconds)))
                await socket.send(json.dumps({"id": 2, "method": "subscription.subscribe", "params": CHANNELS}))
                found += [await socket.recv(), await socket.recv()]
                process.send_signal(signal.SIGTERM)
                with suppress(ConnectionClosed):
                    while True:
                        found.append(await socket.recv())
            code = await anyio.to_thread.run_sync(process.wait)

    assert socket.close_code == 1012
    assert any('"event":"completed"' in str(one) for one in found) is ends
    assert code == 0
