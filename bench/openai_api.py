"""The OpenAI API against the LangGraph API: the cost of a streamed token, and the rate of answers on new threads.

Starts a server of its own on an embedded Postgres. Twelve clients stream the graph `words` by `/runs/stream`
(`messages-tuple`) and by `/v1/chat/completions`, and then ask the graph `echo` on new threads by `/threads/{id}/runs/wait`
and by `/v1/chat/completions`, in turns. Prints the ratios. With --write they go into docs/benchmarks.md.
"""

import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping

import anyio
import httpx

from connection import Connection, connected, dumped
from parts import Part, main, on_a_server
from protocol import at_once
from servers import Server

CLIENTS = 12
MOST = 1.3
"""The most that a token may cost, of the same token in a stream of the LangGraph API."""
LEAST = 0.9
"""The least rate of answers on new threads, of the rate of `/runs/wait`."""
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
RUN = {"assistant_id": "words", "input": HELLO, "stream_mode": ["messages-tuple"]}
WAIT = dumped({"assistant_id": "echo", "input": HELLO, "if_not_exists": "create"})

TokenStream = Callable[[httpx.AsyncClient], Awaitable[int]]
Ask = Callable[[Connection], Awaitable[bytes]]


async def tokens(http: httpx.AsyncClient, path: str, body: object, mark: str) -> int:
    tokens = 0
    async with http.stream("POST", path, json=body) as answer:
        async for line in answer.aiter_lines():
            tokens += mark in line
    return tokens - 1  # the model's last chunk is empty, and so is the first one of a completion


async def runs_stream(http: httpx.AsyncClient) -> int:
    """A stream of the LangGraph API. The tokens that came."""
    return await tokens(http, "/runs/stream", RUN, "event: messages")


async def chat_stream(http: httpx.AsyncClient) -> int:
    """A stream of the OpenAI API. The tokens that came."""
    body = {"model": "words", "stream": True, **HELLO}
    return await tokens(http, "/v1/chat/completions", body, '"content":')


async def runs_wait(connection: Connection) -> bytes:
    """A run on a new thread."""
    return await connection.post(f"/threads/{uuid.uuid4()}/runs/wait", WAIT)


async def chat(connection: Connection) -> bytes:
    """A completion on a new thread."""
    body = {"model": "echo", "metadata": {"thread_id": str(uuid.uuid4())}, **HELLO}
    return await connection.post("/v1/chat/completions", dumped(body))


async def token_cost(server: Server, stream: TokenStream, seconds: float) -> float:
    """CPU milliseconds of the server a token."""
    began = server.cpu_s()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as http:
        tokens = await at_once(http, stream, CLIENTS, seconds)
    # CPU and not time: the graph pauses between words, so all streams take equally long.
    return (server.cpu_s() - began) * 1000 / tokens


async def _rate(server: Server, ask: Ask, seconds: float) -> float:
    """Answers a second."""
    answers, began = 0, time.monotonic()
    end = began + seconds

    async def client() -> None:
        nonlocal answers
        async with connected(server.port, None) as connection:
            while time.monotonic() < end:
                if b"echo: hello" not in await ask(connection):
                    raise RuntimeError("a wrong answer")
                answers += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(CLIENTS):
            tasks.start_soon(client)
    return answers / (time.monotonic() - began)


async def measured(server: Server, seconds: float, rounds: int) -> dict[str, float]:
    """The two ratios, medians of interleaved rounds. The first round warms up."""
    costs: list[float] = []
    rates: list[float] = []
    for _ in range(rounds + 1):
        # One right after the other: machines drift, and only the ratio within a round has a meaning.
        before, after = [await token_cost(server, each, seconds) for each in (runs_stream, chat_stream)]
        costs.append(after / before)
        before, after = [await _rate(server, each, seconds) for each in (runs_wait, chat)]
        rates.append(after / before)
    return {"tokens": statistics.median(costs[1:]), "answers": statistics.median(rates[1:])}


def table(ratios: Mapping[str, float]) -> list[str]:
    """The ratios as Markdown."""
    return [
        f"| {CLIENTS} clients | measured | must |",
        "|---|---|---|",
        f"| CPU of a token of `/v1/chat/completions`, over one of `/runs/stream` | {ratios['tokens']:.2f}x | ≤ {MOST}x{missed(ratios['tokens'] > MOST)} |",
        f"| completions on new threads a second, over `/runs/wait` | {ratios['answers']:.2f}x | ≥ {LEAST}x{missed(ratios['answers'] < LEAST)} |",
    ]


def missed(is_missed: bool) -> str:
    return ", **missed**" if is_missed else ""


PART = Part(
    section="openai",
    description=__doc__,
    measure=on_a_server(measured),
    table=table,
    is_missed=lambda ratios: ratios["tokens"] > MOST or ratios["answers"] < LEAST,
)

if __name__ == "__main__":
    sys.exit(main(PART))
