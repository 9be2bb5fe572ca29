"""A webhook is no way into the machine or its network: nothing that listens here ever hears of one."""

import socket
from collections.abc import AsyncIterator

import anyio
import httpx
import psycopg
import pytest

from conftest import WAIT_S, serving
from threadkeep.settings import Settings

RUN = {"assistant_id": "chain", "input": {"items": []}}
LOOPBACK = (
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "localhost",
    "LocalHost.",
    "x.localhost",
    "0.0.0.0",  # noqa: S104 - nothing is bound to it
    "0",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "user:word@127.0.0.1",
    "example.com@127.0.0.1",
    "127.0.0.1%23@example.com@127.0.0.1",
    "\u2460\u2461\u2466.0.0.1",
)
"""Ways to write this machine's own address."""
ELSEWHERE = (
    "169.254.169.254",
    "[::ffff:169.254.169.254]",
    "0xa9fea9fe",
    "2852039166",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "10.0.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "[fe80::1]",
    "[fc00::1]",
    "[ff02::1]",
)
"""Metadata of clouds, private and link-local networks."""


class Ear:
    """What hears whoever connects to this machine."""

    def __init__(self) -> None:
        self.heard = 0
        self.port = 0

    async def listen(self) -> None:
        async with await anyio.create_tcp_listener(local_host=None) as listener:
            self.port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - of anyio, no Django
            await listener.serve(self._hear)

    async def _hear(self, stream: anyio.abc.SocketStream) -> None:
        self.heard += 1
        await stream.aclose()


@pytest.fixture
async def ear() -> AsyncIterator[Ear]:
    """On all addresses of this machine, IPv6 too."""
    ear = Ear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ear.listen)
        with anyio.fail_after(WAIT_S):
            while not ear.port:
                await anyio.sleep(0.01)
        yield ear
        tasks.cancel_scope.cancel()


async def test_no_spelling_of_a_forbidden_address_is_called(settings: Settings, database: str, ear: Ear) -> None:
    """Ours: refused before the run begins, whether it is on a thread, without one, kept, or a cron's."""
    answers: list[tuple[str, int]] = []
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        for host in (*LOOPBACK, *ELSEWHERE):
            for path in ("/runs/wait", "/runs", f"/threads/{thread_id}/runs"):
                body = RUN | {"webhook": f"http://{host}:{ear.port}/hook"}
                answers.append((host, (await http.post(path, json=body)).status_code))
            cron = body | {"schedule": "* * * * *"}
            answers.append((host, (await http.post("/runs/crons", json=cron)).status_code))

    assert [answer for answer in answers if answer[1] != 422] == []
    assert ear.heard == 0
    async with await psycopg.AsyncConnection.connect(database) as conn:
        assert await (await conn.execute("SELECT count(*) FROM runs")).fetchone() == (0,)


async def test_a_name_of_this_machine_is_checked_by_its_address(settings: Settings, ear: Ear) -> None:
    """Ours: a name is looked up when it is called, each of its addresses judged, and that very one called."""
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        body = RUN | {"webhook": f"http://{socket.gethostname()}:{ear.port}/hook"}
        answer = await http.post("/runs/wait", json=body)
        await anyio.sleep(0.5)

    assert answer.status_code in {200, 422}
    assert ear.heard == 0
