"""Large answers: histories, searches and heads of 100 MB. The process stays small, and its event loop answers meanwhile.

The time of `/livez` is compared with its time before, because a machine that is busy with other things makes both slow.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx

from faults.findings import Findings
from faults.servers import Place, Replica, replicas

MEGABYTE = 1024 * 1024
TOTAL_MB = 100
STATE_MB = 2
GROWTH_MB = 64
"""The promise: how much the process may grow for one of these requests."""
LIVENESS_S = 0.1
"""The promise: the seconds that `/livez` may take meanwhile, beyond its normal time."""
SAMPLE_S = 0.02

Send = Callable[[httpx.AsyncClient], Awaitable[int]]


@dataclass(slots=True)
class Sample:
    """The memory and time of a process while it answered."""

    growth_mb: int = 0
    slowest_s: float = 0.0
    answered_mb: int = 0


async def scenario(place: Place, *, total_mb: int = TOTAL_MB) -> Findings:
    """Each kind of request once: memory grows by less than 64 MB, and the event loop is not blocked for 100 ms."""
    findings = Findings(f"histories, searches and heads of {total_mb} MB")
    async with replicas(place, 1, {}) as [replica], httpx.AsyncClient(base_url=replica.url, timeout=300) as http:
        requests = await _prepare(http, total_mb)
        for send in requests.values():  # pools, caches and arenas are filled by the first
            await send(http)
        quiet = await _measure(replica, http, _idle)
        findings.figures["slowest /livez while idle"] = round(quiet.slowest_s, 3)
        for name, send in requests.items():
            sample = await _measure(replica, http, send)
            findings.figures[name] = (
                f"{sample.answered_mb} MB answered, +{sample.growth_mb} MB, slowest /livez {sample.slowest_s:.3f} s"
            )
            findings.expect(sample.growth_mb < GROWTH_MB, f"{name}: the process grew by {sample.growth_mb} MB")
            limit_s = LIVENESS_S + quiet.slowest_s
            findings.expect(
                sample.slowest_s < limit_s, f"{name}: /livez took {sample.slowest_s:.3f} s of {limit_s:.3f}"
            )
    return findings


async def _prepare(http: httpx.AsyncClient, total_mb: int) -> dict[str, Send]:
    """The requests, for threads and items of `total_mb` in all."""
    count, text = total_mb // STATE_MB, "x" * (STATE_MB * MEGABYTE)
    deep = await _create_thread(http, text, states=count)
    for _ in range(count):
        await _create_thread(http, text, states=1)
    for number in range(total_mb):
        item = {"namespace": ["large"], "key": str(number), "value": {"text": "x" * (MEGABYTE - 1000)}}
        (await http.put("/store/items", json=item)).raise_for_status()
    return {
        "history": lambda http: _read(http, "GET", f"/threads/{deep}/history?limit=1000", None),
        "history by POST": lambda http: _read(http, "POST", f"/threads/{deep}/history", {"limit": 1000}),
        "search for threads": lambda http: _read(http, "POST", "/threads/search", {"limit": 1000}),
        "search for items": lambda http: _read(
            http, "POST", "/store/items/search", {"namespace_prefix": ["large"], "limit": 1000}
        ),
        "four histories at once": lambda http: _read_at_once(http, f"/threads/{deep}/history?limit=1000"),
        "one header": lambda http: _send_head(http, total_mb, b""),
        "many headers": lambda http: _send_head(http, total_mb, b"\r\nx: "),
    }


async def _create_thread(http: httpx.AsyncClient, text: str, *, states: int) -> str:
    created = (await http.post("/threads", json={"metadata": {"graph_id": "talking"}})).raise_for_status()
    thread_id: str = created.json()["thread_id"]
    for number in range(states):
        update = {"values": {"marker": f"{number}{text}"}, "as_node": "hear"}
        (await http.post(f"/threads/{thread_id}/state", json=update)).raise_for_status()
    return thread_id


async def _measure(replica: Replica, http: httpx.AsyncClient, send: Send) -> Sample:
    sample = Sample()
    async with _watched(replica, sample):
        sample.answered_mb = await send(http) // MEGABYTE
    return sample


@asynccontextmanager
async def _watched(replica: Replica, sample: Sample) -> AsyncGenerator[None]:
    """Note the peak of the process's memory and the slowest answer of `/livez` until the block ends."""
    # Resident memory never shrinks reliably, so each request is compared with the value right before it.
    before = _resident_mb(replica.pid)

    async def watch() -> None:
        # A client of its own: a connection that waits for 100 MB would delay `/livez` here and not in the server.
        async with httpx.AsyncClient(base_url=replica.url, timeout=60) as http:
            while True:
                began = time.monotonic()
                await http.get("/livez")
                sample.slowest_s = max(sample.slowest_s, time.monotonic() - began)
                sample.growth_mb = max(sample.growth_mb, _resident_mb(replica.pid) - before)
                await anyio.sleep(SAMPLE_S)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        yield
        tasks.cancel_scope.cancel()


def _resident_mb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024


async def _idle(http: httpx.AsyncClient) -> int:
    del http
    await anyio.sleep(5)
    return 0


async def _read(http: httpx.AsyncClient, method: str, path: str, body: object) -> int:
    """The bytes of the answer, which is not kept."""
    size = 0
    async with http.stream(method, path, json=body) as answer:
        answer.raise_for_status()
        # Dropped at once, so that this process does not need the memory either.
        async for part in answer.aiter_raw():
            size += len(part)
    return size


async def _read_at_once(http: httpx.AsyncClient, path: str) -> int:
    sizes: list[int] = []

    async def read() -> None:
        sizes.append(await _read(http, "GET", path, None))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(read)
    return sum(sizes)


async def _send_head(http: httpx.AsyncClient, total_mb: int, separator: bytes) -> int:
    """Send a head that does not end, as long as the server takes it. Nothing of it is an answer."""
    part = (separator + b"a" * (1024 - len(separator))) * 1024
    stream = await anyio.connect_tcp("127.0.0.1", http.base_url.port or 80)
    async with stream:
        try:
            await stream.send(b"GET /info HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ")
            for _ in range(total_mb):
                with anyio.fail_after(10):
                    await stream.send(part)
        # The server has closed the connection, or reads no more. Both are the refusal that is expected.
        except (anyio.BrokenResourceError, TimeoutError):
            return 0
    raise AssertionError(f"a head of {total_mb} MB was taken")
