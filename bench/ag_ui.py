"""AG-UI against the LangGraph API: the cost of a streamed token.

Starts a server of its own on an embedded Postgres. Twelve clients stream the graph `words` by `/runs/stream`
(`messages-tuple`), by `/threads/{id}/runs/stream` with `stream_resumable`, and by `/ag-ui/words`, in turns. Prints the ratios.
With --write they go into docs/benchmarks.md.
"""

import statistics
import sys
import uuid
from collections.abc import Mapping

import httpx

from openai_api import CLIENTS, MOST, missed, runs_stream, token_cost, tokens
from parts import Part, main, on_a_server
from servers import Server

HELLO = {"role": "user", "content": "hello"}
RESUMABLE = {
    "assistant_id": "words",
    "input": {"messages": [HELLO]},
    "stream_mode": ["messages-tuple"],
    "stream_resumable": True,
    "if_not_exists": "create",
}


async def resumable_stream(http: httpx.AsyncClient) -> int:
    """A stream of the LangGraph API that a client can rejoin, as it can a run of AG-UI. The tokens that came."""
    return await tokens(http, f"/threads/{uuid.uuid4()}/runs/stream", RESUMABLE, "event: messages")


async def page_stream(http: httpx.AsyncClient) -> int:
    """A stream of AG-UI on a new thread. The tokens that came."""
    message = HELLO | {"id": str(uuid.uuid4())}
    body = {"threadId": str(uuid.uuid4()), "runId": str(uuid.uuid4()), "messages": [message], "state": {}}
    return await tokens(http, "/ag-ui/words", body, "TEXT_MESSAGE_CONTENT") + 1  # it has no empty token


async def measured(server: Server, seconds: float, rounds: int) -> dict[str, float]:
    """The ratios, medians of interleaved rounds. The first round warms up."""
    plain: list[float] = []
    resumable: list[float] = []
    for _ in range(rounds + 1):
        # In turns within a round, so that a machine that drifts slows all three.
        streams = (runs_stream, resumable_stream, page_stream)
        v1_cost, resumable_cost, page_cost = [await token_cost(server, each, seconds) for each in streams]
        plain.append(page_cost / v1_cost)
        resumable.append(page_cost / resumable_cost)
    return {"plain": statistics.median(plain[1:]), "resumable": statistics.median(resumable[1:])}


def table(ratios: Mapping[str, float]) -> list[str]:
    """The ratios as Markdown."""
    return [
        f"| {CLIENTS} clients, CPU of a token of `/ag-ui` | measured | must |",
        "|---|---|---|",
        f"| over one of `/runs/stream` | {ratios['plain']:.2f}x | ≤ {MOST}x{missed(ratios['plain'] > MOST)} |",
        f"| over one of a stream that can be rejoined (`stream_resumable`) | {ratios['resumable']:.2f}x | |",
    ]


PART = Part(
    section="ag-ui",
    description=__doc__,
    measure=on_a_server(measured),
    table=table,
    is_missed=lambda ratios: ratios["plain"] > MOST,
)

if __name__ == "__main__":
    sys.exit(main(PART))
