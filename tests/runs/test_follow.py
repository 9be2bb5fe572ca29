"""Two processes, one database: a run of the one is followed, joined and stopped in the other."""

import anyio
import anyio.abc
import httpx
import psycopg

from conftest import WAIT_S
from graphs import Gate
from threadkeep.settings import Settings

GATED = {"assistant_id": "gated", "input": {"items": ["in"]}}
ENDED = {"items": ["in", "gated"]}


async def running(http: httpx.AsyncClient, gate: Gate, tasks: anyio.abc.TaskGroup) -> str:
    """The path of a foreground run in the process of `http`, whose events are not recorded."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]

    async def wait() -> None:
        await http.post(f"/threads/{thread_id}/runs/wait", json=GATED)

    tasks.start_soon(wait)
    await gate.entered()
    (run,) = (await http.get(f"/threads/{thread_id}/runs")).json()
    return f"/threads/{thread_id}/runs/{run['run_id']}"


async def test_run_of_another_process_is_followed(
    replicas: tuple[httpx.AsyncClient, httpx.AsyncClient], gate: Gate
) -> None:
    """Ours: the events of a foreground run are recorded as soon as a client asks another process for them."""
    http, elsewhere = replicas
    received: list[str] = []
    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks:
            path = await running(http, gate, tasks)
            async with elsewhere.stream("GET", f"{path}/stream", headers={"last-event-id": "-1"}) as answer:
                lines = answer.aiter_lines()
                assert await anext(lines) == "event: metadata"
                gate.open()
                received += [line async for line in lines]

    assert 'data: {"items":["in","gated"]}' in received


async def test_run_of_another_process_is_joined_without_a_delay(
    replicas: tuple[httpx.AsyncClient, httpx.AsyncClient], gate: Gate
) -> None:
    """Ours: the end of the run wakes a client that joined at another process, before the slow poll does."""
    http, elsewhere = replicas
    answers: list[object] = []
    with anyio.fail_after(WAIT_S - 1):
        async with anyio.create_task_group() as tasks:
            path = await running(http, gate, tasks)

            async def join() -> None:
                answers.append((await elsewhere.get(f"{path}/join")).json())

            tasks.start_soon(join)
            await anyio.sleep(0.3)
            gate.open()

    assert answers == [ENDED]


async def test_temporary_run_is_joined_elsewhere_and_after_its_end(
    replicas: tuple[httpx.AsyncClient, httpx.AsyncClient], gate: Gate, settings: Settings
) -> None:
    """Ours: POST /runs deletes its thread some seconds after the end, and no search finds it meanwhile."""
    http, elsewhere = replicas
    answers: list[object] = []
    run = (await http.post("/runs", json=GATED)).json()
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
    await gate.entered()
    async with anyio.create_task_group() as tasks:
        for one in replicas:

            async def join(one: httpx.AsyncClient = one) -> None:
                answers.append((await one.get(f"{path}/join")).json())

            tasks.start_soon(join)
        await anyio.sleep(0.1)
        gate.open()

    assert answers == [ENDED, ENDED]
    assert (await elsewhere.get(f"{path}/join")).json() == ENDED
    stream = await elsewhere.get(f"{path}/stream", headers={"last-event-id": "-1"})
    assert stream.text.count("event: values") == 2
    assert (await http.post("/threads/search", json={})).json() == []
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
        left = await (await conn.execute("SELECT ephemeral_until - now() FROM threads")).fetchone()
    assert left is not None
    assert 0 < left[0].total_seconds() <= 8


async def test_a_thread_that_another_process_deletes_ends_its_run(
    replicas: tuple[httpx.AsyncClient, httpx.AsyncClient], gate: Gate
) -> None:
    """Ours: the run is stopped in the process that executes it, and its slot is free again."""
    http, elsewhere = replicas
    with anyio.fail_after(WAIT_S - 1):
        async with anyio.create_task_group() as tasks:
            path = await running(http, gate, tasks)
            assert (await elsewhere.delete(path.split("/runs/", 1)[0])).status_code == 204
            while gate.inside:
                await anyio.sleep(0.01)
            while (await http.get("/info")).json()["load"]["running"]:
                await anyio.sleep(0.01)
