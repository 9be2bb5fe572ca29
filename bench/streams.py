"""Token streams: the age of a token at the client, in a separate process. Prints JSON, in milliseconds.

The graph puts the machine's monotonic clock into each token. This process compares it with the same clock.
"""

import argparse
import json
import re
import statistics
import time
import uuid
from contextlib import aclosing

import anyio
import uvloop

from connection import connected, dumped

MODES = {"tokens": "custom", "model": "messages-tuple"}
TOKEN = re.compile(rb"<(\d+)>")


class Ages:
    """Of every token, and of each stream's first, in nanoseconds."""

    def __init__(self) -> None:
        self.first: list[int] = []
        self.every: list[int] = []

    def figures(self) -> dict[str, float]:
        """Medians and 99th percentiles, in milliseconds."""
        figures: dict[str, float] = {"streams": len(self.first), "tokens": len(self.every)}
        for name, ages in (("first", self.first), ("every", self.every)):
            figures[f"{name}_p50_ms"] = statistics.median(ages) / 1e6
            figures[f"{name}_p99_ms"] = statistics.quantiles(ages, n=100, method="inclusive")[98] / 1e6
        return figures


async def _read(port: int, graph: str, path: str, ages: Ages) -> None:
    body = dumped(
        {
            "assistant_id": graph,
            "input": {"messages": [{"role": "user", "content": "hello"}]},
            "stream_mode": [MODES[graph]],
            "if_not_exists": "create",
        }
    )
    rest, seen = b"", False
    async with connected(port) as connection, aclosing(connection.stream(path, body)) as parts:
        async for part in parts:
            # Before the parsing, so that the client's own work does not make tokens older.
            now = time.monotonic_ns()
            rest += part
            for token in TOKEN.finditer(rest):
                age = now - int(token[1])
                ages.every.append(age)
                if not seen:
                    ages.first.append(age)
                seen = True
            # The last token may be cut in two: from its `<` on, it is kept for the next piece.
            rest = rest[max(rest.rfind(b">"), rest.rfind(b"<") - 1) + 1 :]
    if not seen:
        raise RuntimeError(f"a stream without a token: {rest[:300]!r}")


async def _client(port: int, graph: str, kind: str, end: float, ages: Ages) -> None:
    while time.monotonic() < end:
        path = "/runs/stream" if kind == "stateless" else f"/threads/{uuid.uuid4()}/runs/stream"
        await _read(port, graph, path, ages)


async def main(port: int, graph: str, kind: str, clients: int, seconds: float) -> None:
    """Read streams, `clients` at once."""
    ages = Ages()
    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(_client, port, graph, kind, time.monotonic() + seconds, ages)
    print(json.dumps(ages.figures()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("graph", choices=sorted(MODES))
    parser.add_argument("kind", choices=["stateless", "new thread"])
    parser.add_argument("clients", type=int)
    parser.add_argument("--seconds", type=float, default=2.0)
    chosen = parser.parse_args()
    uvloop.run(main(chosen.port, chosen.graph, chosen.kind, chosen.clients, chosen.seconds))
