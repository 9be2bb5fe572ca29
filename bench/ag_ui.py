"""AG-UI against the LangGraph API: what a streamed token costs.

Starts a server of its own on an embedded Postgres. Twelve clients stream the graph `words` by `/runs/stream`
(`messages-tuple`), by `/threads/{id}/runs/stream` with `stream_resumable`, and by `/ag-ui/words`, in turns. Prints the ratios;
with --write they go into docs/benchmarks.md.
"""

import argparse
import os
import statistics
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

import anyio
import httpx
import uvloop

import report
import servers
from openai_api import CLIENTS, MOST, missed, runs_stream, token_cost, tokens
from run import command
from servers import Server
from threadkeep.postgres import embedded, migrate

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
        streams = (runs_stream, resumable_stream, page_stream)
        one, kept, page = [await token_cost(server, each, seconds) for each in streams]
        plain.append(page / one)
        resumable.append(page / kept)
    return {"plain": statistics.median(plain[1:]), "resumable": statistics.median(resumable[1:])}


def table(found: Mapping[str, float]) -> list[str]:
    """The ratios as Markdown."""
    return [
        f"| {CLIENTS} clients, CPU of a token of `/ag-ui` | measured | must |",
        "|---|---|---|",
        f"| over one of `/runs/stream` | {found['plain']:.2f}x | ≤ {MOST}x{missed(found['plain'] > MOST)} |",
        f"| over one of a stream that can be rejoined (`stream_resumable`) | {found['resumable']:.2f}x | |",
    ]


def main() -> int:
    """Measure, print, write; 1 if the ratio is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded.embedded_postgres(Path(folder)) as uri,
    ):
        anyio.run(migrate.migrate, uri)
        with servers.ours(os.environ.get("DATABASE_URI", uri)) as server:
            found = uvloop.run(measured(server, chosen.seconds, chosen.rounds))
    lines = table(found)
    print("\n".join(lines))
    if chosen.write:
        report.put("ag-ui", [f"Medians of {chosen.rounds} rounds, by `{command()}`:", "", *lines])
    return int(found["plain"] > MOST)


if __name__ == "__main__":
    sys.exit(main())
