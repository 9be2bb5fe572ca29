"""`make scale`: the cost of a run under growth: long threads, big state, a full database, many streams, a wide graph.

Each pair is measured in interleaved rounds on one server. Prints the table, writes bench/results/scale.json and, with
--write, its part of docs/benchmarks.md.
"""

import argparse
import statistics
import time
import uuid
from collections.abc import Generator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

import anyio
import psycopg
import uvloop

import report
import servers
from connection import Connection, connected, dumped
from run import command, database, empty, machine, output, say
from servers import Server
from streams import TOKEN
from threadkeep.postgres import migrate

STREAMS = 1000
LONG = 200
BIG_BYTES = 10_000_000
THREADS = 10_000
CHECKPOINTS = 1_000_000
SAY = [{"role": "user", "content": "hello"}]
# Filled by SQL: a million checkpoints by runs would take an hour.
FILL = """
    INSERT INTO threads (thread_id, project_id, metadata, "values")
    SELECT gen_random_uuid(), 'graphs', jsonb_build_object('topic', n), '{"messages": []}' FROM generate_series(1, %(threads)s) AS n;
    INSERT INTO runs (run_id, project_id, thread_id, assistant_id, graph_id, status, finished_at)
    SELECT gen_random_uuid(), project_id, thread_id, gen_random_uuid(), 'echo', 'success', now() FROM threads;
    INSERT INTO checkpoints (thread_id, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT thread_id::text, '1ef00000-0000-6000-8000-' || lpad(n::text, 12, '0'), NULL,
           '{"v": 4, "id": "x", "ts": "x", "channel_values": {}, "channel_versions": {}, "versions_seen": {}}',
           '{"step": 1, "source": "loop"}'
      FROM threads, generate_series(1, %(checkpoints)s / %(threads)s) AS n;
    INSERT INTO checkpoint_blobs (thread_id, channel, version, type, blob)
    SELECT thread_id, 'messages', checkpoint_id, 'msgpack', '\\x90' FROM checkpoints;
    INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, type, blob)
    SELECT thread_id, checkpoint_id, 'task', 0, 'messages', 'msgpack', '\\x90' FROM checkpoints;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The options of one command."""

    uri: str
    server: Server
    full: Server
    """On a database that holds `CHECKPOINTS`."""
    seconds: float
    turns: int

    def round(self) -> dict[str, float]:
        """Measure everything once, and the databases one after the other."""
        empty(self.uri)
        self._load(self.server, "warm-up")
        figures = self._load(self.server, "empty") | self._load(self.full, "filled")
        for part in (self.long_threads, self.big_state, self.wide):
            figures |= uvloop.run(part())
        return figures

    async def long_threads(self) -> dict[str, float]:
        """A thread's second turn beside its 200th, the turns of both in turn."""
        short, long = str(uuid.uuid4()), str(uuid.uuid4())
        async with connected(self.server.port) as connection:
            for _ in range(LONG - 1):
                await _turn(connection, long)
            times: dict[str, list[float]] = {"turn 2": [], f"turn {LONG}": []}
            for _ in range(self.turns):
                short = str(uuid.uuid4())
                await _turn(connection, short)
                times["turn 2"].append(await _turn(connection, short))
                times[f"turn {LONG}"].append(await _turn(connection, long))
        return _medians(times)

    async def big_state(self) -> dict[str, float]:
        """A turn on a thread with a state of 10 MB beside one on a thread with 10 B, in turns."""
        threads = {"state of 10 MB": BIG_BYTES, "state of 10 B": 10}
        times: dict[str, list[float]] = {name: [] for name in threads}
        async with connected(self.server.port) as connection:
            ids = {name: str(uuid.uuid4()) for name in threads}
            for name, size in threads.items():
                await _turn(connection, ids[name], "large", {"bytes": size})
            for _ in range(min(5, self.turns)):
                for name in threads:
                    times[name].append(await _turn(connection, ids[name], "large", {"items": []}))
        return _medians(times)

    async def wide(self) -> dict[str, float]:
        """A graph of 200 nodes at once on a thread."""
        async with connected(self.server.port) as connection:
            turns = [await _turn(connection, str(uuid.uuid4()), "fan", {}) for _ in range(min(5, self.turns))]
        return _medians({"fan-out of 200 nodes": turns})

    def _load(self, server: Server, label: str) -> dict[str, float]:
        figures = output("load.py", server.port, "new thread", 12, "--seconds", self.seconds)
        return {f"{label}, new thread, 12: {name}": value for name, value in figures.items()}


async def open_streams(port: int) -> dict[str, float]:
    """1,000 streams at once: how old the tokens are that come each second, and that all come."""
    body = dumped({"assistant_id": "open", "input": {"items": []}, "stream_mode": ["custom"]})
    ages: list[int] = []
    first = 0

    async def follow() -> None:
        nonlocal first
        seen = False
        async with connected(port) as connection, aclosing(connection.stream("/runs/stream", body)) as parts:
            async for part in parts:
                now = time.monotonic_ns()
                ages.extend(now - int(token[1]) for token in TOKEN.finditer(part))
                if not seen and b"<" in part:
                    seen = True
                    first += 1

    began = time.monotonic()
    with anyio.move_on_after(120):
        async with anyio.create_task_group() as tasks:
            for _ in range(STREAMS):
                tasks.start_soon(follow)
            while first < STREAMS:  # noqa: ASYNC110 - counted by a thousand tasks
                await anyio.sleep(0.05)
            opened_s = time.monotonic() - began
            # The first tokens were held up by the start of a thousand runs.
            ages.clear()
            await anyio.sleep(5)
            tasks.cancel_scope.cancel()
    if first < STREAMS:
        raise RuntimeError(f"{first} of {STREAMS} streams gave a token")
    p99 = statistics.quantiles(ages, n=100)[98] / 1e6
    return {"streams: opened_s": opened_s, "streams: p50_ms": statistics.median(ages) / 1e6, "streams: p99_ms": p99}


async def _turn(connection: Connection, thread_id: str, graph: str = "echo", given: object = None) -> float:
    """Make one run. Return its seconds."""
    body = dumped(
        {
            "assistant_id": graph,
            "input": {"messages": SAY} if given is None else given,
            "if_not_exists": "create",
        }
    )
    began = time.perf_counter()
    await connection.post(f"/threads/{thread_id}/runs/wait", body)
    return time.perf_counter() - began


def _medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {f"{name}: p50_ms": statistics.median(seconds) * 1000 for name, seconds in times.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 21))
    parser.add_argument("--seconds", type=float, default=1.5, help="of each load")
    parser.add_argument("--turns", type=int, default=10, help="of each thread that is compared")
    parser.add_argument("--checkpoints", type=int, default=CHECKPOINTS)
    parser.add_argument("--write", action="store_true", help="write the figures into docs/benchmarks.md")
    chosen = parser.parse_args()
    with database() as uri:
        say(f"filling a database with {chosen.checkpoints:,} checkpoints")
        with filled(uri, chosen.checkpoints) as full_uri, servers.ours(uri) as server, servers.ours(full_uri) as full:
            scale = Scale(uri=uri, server=server, full=full, seconds=chosen.seconds, turns=chosen.turns)
            rounds: list[dict[str, float]] = []
            for number in range(chosen.rounds):
                say(f"round {number + 1} of {chosen.rounds}")
                rounds.append(scale.round())
        say(f"{STREAMS} streams")
        with servers.ours(uri, THREADKEEP_RUN_SLOTS=str(STREAMS)) as server:
            before = server.memory_mb()
            once = uvloop.run(open_streams(server.port))
            once["streams: kb_each"] = (server.memory_mb() - before) * 1000 / STREAMS
    results = {"machine": machine(), "command": command(), "rounds": [measured | once for measured in rounds]}
    report.keep("scale", results)
    print("\n".join(report.scale(results)))
    if chosen.write:
        report.write("scale", results)


@contextmanager
def filled(uri: str, checkpoints: int) -> Generator[str]:
    """Another database of the same Postgres: 10,000 threads and so many checkpoints, with a blob and a write each."""
    full_uri = psycopg.conninfo.make_conninfo(uri, dbname="threadkeep_full")
    with psycopg.connect(uri, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS threadkeep_full WITH (FORCE)")
        admin.execute("CREATE DATABASE threadkeep_full")
        anyio.run(migrate.migrate, full_uri)
        # A client cursor, because a prepared statement can't consist of several statements.
        with psycopg.connect(full_uri, autocommit=True) as conn, psycopg.ClientCursor(conn) as cursor:
            cursor.execute(FILL, {"threads": THREADS, "checkpoints": checkpoints})
            # Otherwise autovacuum would run during the measurement, and the planner would know nothing of the rows.
            cursor.execute("VACUUM ANALYZE")
            # Otherwise Postgres would write the filled tables to disk during the measurement.
            cursor.execute("CHECKPOINT")
        yield full_uri
        admin.execute("DROP DATABASE threadkeep_full WITH (FORCE)")


if __name__ == "__main__":
    main()
