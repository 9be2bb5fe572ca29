"""A load on a server of the LangGraph API, from a process of its own: `python bench/load.py PORT KIND CLIENTS SECONDS`.

KIND: `stateless`, `new thread` (a thread for each run) or `same thread` (one thread a client). One connection a
client, and no HTTP library: on two cores a client that is slow would be what is measured. Prints JSON.
"""

import json
import statistics
import sys
import time

import anyio
import uvloop
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

RUN = {"assistant_id": "echo", "input": {"messages": [{"role": "user", "content": "hello"}]}}


class Client:
    """One keep-alive connection."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._received = BufferedByteReceiveStream(stream)

    async def post(self, path: str, body: object) -> bytes:
        """The answer's body; RuntimeError where the status is not 200."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        await self._stream.send(head.encode() + data)
        answer = await self._received.receive_until(b"\r\n\r\n", 65536)
        lines = answer.decode().lower().split("\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), None)
        content = await (self._chunks() if length is None else self._received.receive_exactly(length))
        if " 200 " not in lines[0]:
            raise RuntimeError(f"{lines[0]}: {content[:200]!r}")
        return content

    async def _chunks(self) -> bytes:
        content = b""
        while size := int(await self._received.receive_until(b"\r\n", 64), 16):
            content += await self._received.receive_exactly(size)
            await self._received.receive_exactly(2)
        await self._received.receive_exactly(2)
        return content


async def _client(port: int, kind: str, end: float, latencies: list[float]) -> None:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        client = Client(stream)
        thread_id = ""
        while time.perf_counter() < end:
            began = time.perf_counter()
            if kind == "new thread" or (kind == "same thread" and not thread_id):
                thread_id = json.loads(await client.post("/threads", {}))["thread_id"]
            path = f"/threads/{thread_id}/runs/wait" if thread_id else "/runs/wait"
            answer = await client.post(path, RUN)
            if b"echo: hello" not in answer:
                raise RuntimeError(f"a wrong answer: {answer[:200]!r}")
            latencies.append(time.perf_counter() - began)


async def main(port: int, kind: str, clients: int, seconds: float) -> None:
    """One load, and its figures."""
    latencies: list[float] = []
    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(_client, port, kind, began + seconds, latencies)
    elapsed = time.perf_counter() - began
    print(json.dumps({"rate": len(latencies) / elapsed, "p50_ms": statistics.median(latencies) * 1000}))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
