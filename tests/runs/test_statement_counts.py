"""What a run costs in Postgres: every statement and round trip, counted on the wire by a proxy, as exact numbers.

A number here that has to be changed is a cost that has to be wanted.
"""

import asyncio
import re
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from conftest import WAIT_S, MakeKey, serving
from threadkeep.settings import Settings

COSTS: Mapping[str, Sequence[str]] = {
    # No thread, so nothing to keep.
    "stateless wait": [],
    # `create_runs`: make the thread, open the run. Then all that the graph has written, and the end of the run with it.
    "new thread, wait": ["create_runs", "finish_runs"],
    # Between the two, the thread's last checkpoint is read.
    "second turn, wait": ["create_runs", "SELECT", "finish_runs"],
    # Reading along costs nothing.
    "new thread, stream": ["create_runs", "finish_runs"],
    # One statement that makes the thread.
    "POST /threads": ["INSERT"],
}
WARM_UP = 6
"""Requests before the count: the first ones prepare their statements."""
OURS = re.compile(r"create_runs|finish_runs")
COUNTED = 40
"""Requests that are counted at most, one after the other."""


@dataclass(slots=True)
class Traffic:
    """The round trips since the last `clear`, each with its statements."""

    round_trips: list[list[str]] = field(default_factory=list[list[str]])

    def cost(self) -> list[str]:
        """The purpose of each round trip."""
        return [" + ".join(map(_name, one)) for one in self.round_trips]

    def __str__(self) -> str:
        return "\n\n".join("\n".join(" ".join(line.split()) for line in one) for one in self.round_trips)


def _name(statement: str) -> str:
    found = OURS.search(statement)
    return found.group() if found else statement.split(maxsplit=1)[0].upper()


class Frontend:
    """One connection's messages from client to server: https://www.postgresql.org/docs/current/protocol-message-formats.html"""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._rest = b""
        self._started = False
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._sent: list[str] = []

    def read(self, data: bytes) -> None:
        """Count the messages in `data`; the last one may be told in parts."""
        self._rest += data
        if not self._started and len(self._rest) >= 4:
            length = struct.unpack("!i", self._rest[:4])[0]
            if len(self._rest) >= length:
                self._started, self._rest = True, self._rest[length:]
        while self._started and len(self._rest) >= 5:
            length = struct.unpack("!i", self._rest[1:5])[0] + 1
            if len(self._rest) < length:
                return
            kind, content, self._rest = self._rest[:1], self._rest[5:length], self._rest[length:]
            self._message(kind, content)

    def _message(self, kind: bytes, content: bytes) -> None:
        if kind == b"P":
            name, text, *_ = content.split(b"\0")
            self._prepared[name] = text.decode()
        elif kind == b"B":
            portal, name, *_ = content.split(b"\0")
            self._portals[portal] = self._prepared[name]
        elif kind == b"E":
            self._sent.append(self._portals[content.split(b"\0")[0]])
        elif kind == b"Q":
            self._sent.append(content[:-1].decode())
        if kind in {b"S", b"Q"}:
            self._traffic.round_trips.append(self._sent)
            self._sent = []


@asynccontextmanager
async def _counting(uri: str, folder: Path) -> AsyncIterator[tuple[str, Traffic]]:
    """The URI of a proxy before the Postgres at `uri`, and what goes through it."""
    traffic, behind = Traffic(), f"{conninfo_to_dict(uri)['host']}/.s.PGSQL.5432"

    async def connection(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        here.add(to_client)
        server, to_server = await asyncio.open_unix_connection(behind)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_hand_on, client, to_server, Frontend(traffic).read)
            tasks.start_soon(_hand_on, server, to_client, None)
        here.discard(to_client)

    here: set[asyncio.StreamWriter] = set()
    async with await asyncio.start_unix_server(connection, folder / ".s.PGSQL.5432"):
        yield make_conninfo(uri, host=str(folder)), traffic
        with anyio.fail_after(WAIT_S):
            while here:
                await anyio.sleep(0.01)


async def _hand_on(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, look: Callable[[bytes], None] | None
) -> None:
    while data := await source.read(65536):
        if look is not None:
            look(data)
        target.write(data)
    target.close()
    await target.wait_closed()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the proxy's socket, whose path may be 104 bytes long."""
    return tmp_path_factory.mktemp("proxy")


RUN = {"assistant_id": "chain", "input": {"items": ["given"]}}
Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


async def _on_new_thread(http: httpx.AsyncClient, ending: str) -> httpx.Response:
    return await http.post(f"/threads/{uuid.uuid4()}/runs/{ending}", json=RUN | {"if_not_exists": "create"})


def _asks() -> Mapping[str, Ask]:
    thread_id = str(uuid.uuid4())
    again = RUN | {"if_not_exists": "create"}
    return {
        "stateless wait": lambda http: http.post("/runs/wait", json=RUN),
        "new thread, wait": lambda http: _on_new_thread(http, "wait"),
        "second turn, wait": lambda http: http.post(f"/threads/{thread_id}/runs/wait", json=again),
        "new thread, stream": lambda http: _on_new_thread(http, "stream"),
        "POST /threads": lambda http: http.post("/threads", json={}),
    }


@pytest.mark.parametrize("name", list(COSTS))
async def test_requests_cost_a_fixed_number_of_statements_and_round_trips(
    name: str, settings: Settings, folder: Path
) -> None:
    """Ours: a run on a thread costs two round trips, one more where there is a state to read, a stateless one none."""
    least = await _least(name, settings, folder, {})

    assert least.cost() == COSTS[name], str(least)


@pytest.mark.parametrize("name", [name for name in COSTS if name != "POST /threads"])
async def test_a_run_with_an_api_key_costs_as_many_statements_and_round_trips(
    name: str, settings: Settings, folder: Path, make_key: MakeKey
) -> None:
    """Issue 14: with API keys as fast as without."""
    keyed = settings.model_copy(update={"auth_type": "api_key"})

    least = await _least(name, keyed, folder, {"x-api-key": await make_key("ada")})

    assert least.cost() == COSTS[name], str(least)


async def _least(name: str, settings: Settings, folder: Path, headers: Mapping[str, str]) -> Traffic:
    """What a request costs at least: others meet a sweep, a beat, or a busy machine, on which writes part."""
    ask, found = _asks()[name], list[Traffic]()
    quiet = {"reaper_interval_s": 3600.0, "lease_s": 3600.0}
    async with _counting(str(settings.database_uri), folder) as (uri, traffic):
        counted = settings.model_copy(update=quiet | {"database_uri": uri})
        async with (
            serving(counted) as url,
            httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers=dict(headers)) as http,
        ):
            for _ in range(WARM_UP):
                assert (await ask(http)).is_success
            while len(found) < COUNTED and (not found or found[-1].cost() != COSTS[name]):
                found.append(await _traffic(ask, http, traffic))
    return min(found, key=lambda one: len(one.cost()))


async def _traffic(ask: Ask, http: httpx.AsyncClient, traffic: Traffic) -> Traffic:
    traffic.round_trips.clear()
    assert (await ask(http)).is_success
    return Traffic(list(traffic.round_trips))
