"""Idempotency-Key: a request that is sent again, for its answer was lost, does nothing more."""

from typing import Any
from uuid import uuid4

import anyio
import httpx
import psycopg
import pytest

from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.settings import Settings

CHAIN: dict[str, Any] = {"assistant_id": "chain", "input": {"items": ["in"]}}
GATED: dict[str, Any] = {"assistant_id": "gated", "input": {"items": ["in"]}}
VALUES = {"items": ["in", "first", "second"]}


def keyed(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


async def execute(uri: str, statement: Any, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run one statement on the test's database."""
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as conn:
        cursor = await conn.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []


async def new_thread(http: httpx.AsyncClient) -> str:
    return (await http.post("/threads", json={})).json()["thread_id"]


async def test_same_request_gets_the_same_thread(http: httpx.AsyncClient) -> None:
    """Ours: POST /threads with a key makes one thread, whatever the order of the body's names."""
    first = await http.post("/threads", json={"metadata": {"a": 1, "b": 2}}, headers=keyed("t"))
    again = await http.post("/threads", json={"metadata": {"b": 2, "a": 1}}, headers=keyed("t"))

    assert (again.status_code, again.json()) == (200, first.json())
    assert (await http.post("/threads/count", json={})).json() == 1


async def test_thread_whose_id_is_taken_leaves_the_key_free(http: httpx.AsyncClient) -> None:
    """Ours: a refused request created nothing, so it may be repeated."""
    body = {"thread_id": await new_thread(http)}
    refused = [await http.post("/threads", json=body, headers=keyed("taken")) for _ in range(2)]

    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(409, "conflict")] * 2
    known = await http.post("/threads", json=body | {"if_exists": "do_nothing"}, headers=keyed("taken"))
    assert known.json()["thread_id"] == body["thread_id"]


async def test_same_background_run_is_queued_once(http: httpx.AsyncClient) -> None:
    """Ours: POST /threads/{thread_id}/runs."""
    path = f"/threads/{await new_thread(http)}/runs"
    first = await http.post(path, json=CHAIN, headers=keyed("r"))
    again = await http.post(path, json=CHAIN, headers=keyed("r"))

    assert again.status_code == 200
    assert again.json()["run_id"] == first.json()["run_id"]
    assert again.headers["content-location"] == first.headers["content-location"]
    assert len((await http.get(path)).json()) == 1


@pytest.mark.parametrize("stateless", [False, True])
async def test_wait_that_is_sent_again_answers_the_same(http: httpx.AsyncClient, *, stateless: bool) -> None:
    """Ours: of a run on a thread and of one without, which then has a row."""
    path = "/runs/wait" if stateless else f"/threads/{await new_thread(http)}/runs/wait"
    answers = [await http.post(path, json=CHAIN, headers=keyed("w")) for _ in range(3)]

    assert [answer.json() for answer in answers] == [VALUES] * 3
    assert len({answer.headers["content-location"] for answer in answers}) == 1
    assert (await http.post("/threads/count", json={})).json() == (0 if stateless else 1)


@pytest.mark.parametrize("stateless", [False, True])
async def test_a_repeated_stream_request_gets_the_stream_from_its_beginning(
    http: httpx.AsyncClient, *, stateless: bool
) -> None:
    """Ours: such a run keeps its events."""
    path = "/runs/stream" if stateless else f"/threads/{await new_thread(http)}/runs/stream"
    first = await http.post(path, json=CHAIN, headers=keyed("s"))
    again = await http.post(path, json=CHAIN, headers=keyed("s"))

    assert first.text.count("event: values") == 3
    assert again.text == first.text


async def test_same_batch_is_queued_once(http: httpx.AsyncClient) -> None:
    """Ours: POST /runs/batch is all or nothing with a key."""
    first = await http.post("/runs/batch", json=[CHAIN, GATED], headers=keyed("b"))
    again = await http.post("/runs/batch", json=[CHAIN, GATED], headers=keyed("b"))

    assert [run["run_id"] for run in again.json()] == [run["run_id"] for run in first.json()]
    assert len(first.json()) == 2


async def test_same_stateless_run_is_queued_once(http: httpx.AsyncClient) -> None:
    """Ours: POST /runs."""
    first = await http.post("/runs", json=CHAIN, headers=keyed("q"))
    again = await http.post("/runs", json=CHAIN, headers=keyed("q"))

    assert again.json()["run_id"] == first.json()["run_id"]


async def test_same_cron_is_made_once(http: httpx.AsyncClient) -> None:
    """Ours: POST /runs/crons."""
    body = {"assistant_id": "chain", "schedule": "0 0 1 1 *"}
    made = [await http.post("/runs/crons", json=body, headers=keyed("c")) for _ in range(2)]

    assert made[0].json() == made[1].json()
    assert (await http.post("/runs/crons/count", json={})).json() == 1


async def test_key_of_another_request_is_refused(http: httpx.AsyncClient) -> None:
    """Ours: another body, or another path, is 422: the client has mixed something up."""
    await http.post("/runs", json=CHAIN, headers=keyed("k"))
    other_body = await http.post("/runs", json=CHAIN | {"input": None}, headers=keyed("k"))
    other_path = await http.post("/runs/wait", json=CHAIN, headers=keyed("k"))

    assert [(one.status_code, one.json()["code"]) for one in (other_body, other_path)] == [(422, "key-reused")] * 2


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "caf\u00e9"])
async def test_an_invalid_key_is_refused(http: httpx.AsyncClient, key: str) -> None:
    """Ours: 1 to 255 visible ASCII characters."""
    answer = await http.post("/threads", json={}, headers={"idempotency-key": key.encode("latin-1")})  # pyright: ignore[reportArgumentType] - bytes are sent as they are

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_refused_run_leaves_the_key_free(http: httpx.AsyncClient) -> None:
    """Ours: a refusal is not kept; the same request may succeed later."""
    thread_id = str(uuid4())
    refused = await http.post(f"/threads/{thread_id}/runs", json=CHAIN, headers=keyed("later"))
    await http.post("/threads", json={"thread_id": thread_id})
    accepted = await http.post(f"/threads/{thread_id}/runs", json=CHAIN, headers=keyed("later"))

    assert (refused.status_code, accepted.status_code) == (404, 200)


async def test_a_request_that_is_still_being_admitted_is_a_conflict(settings: Settings, gate: Gate) -> None:
    """Ours: while the first request waits for a slot, the second gets `Retry-After`."""
    narrow = settings.model_copy(update={"run_slots": 1})
    found: list[httpx.Response] = []
    async with (
        serving(narrow) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http,
        anyio.create_task_group() as tasks,
    ):

        async def ask() -> None:
            found.append(await http.post("/runs/wait", json=GATED, headers=keyed("slow")))

        tasks.start_soon(lambda: http.post("/runs/wait", json=GATED))
        await gate.entered()
        tasks.start_soon(ask)
        with anyio.fail_after(WAIT_S):
            while (await http.get("/info")).json()["load"]["waiting"] == 0:
                await anyio.sleep(0.01)
        refused = await http.post("/runs/wait", json=GATED, headers=keyed("slow"))
        gate.open()
        assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (409, "key-in-use", "1")

    assert [answer.json() for answer in found] == [{"items": ["in", "gated"]}]


async def test_racing_replicas_make_one_run(
    replicas: tuple[httpx.AsyncClient, httpx.AsyncClient], settings: Settings
) -> None:
    """Ours: twenty requests with one key, half of them to either: one run, and one answer for all that were let in."""
    thread_id = await new_thread(replicas[0])
    found: list[httpx.Response] = []

    async def ask(http: httpx.AsyncClient) -> None:
        found.append(await http.post(f"/threads/{thread_id}/runs/wait", json=CHAIN, headers=keyed("race")))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(ask, replicas[number % 2])

    assert {answer.status_code for answer in found} <= {200, 409}
    assert {tuple(answer.json()["items"]) for answer in found if answer.status_code == 200} == {tuple(VALUES["items"])}
    assert await execute(str(settings.database_uri), "SELECT count(*) FROM runs") == [(1,)]
    for http in replicas:
        assert (await http.post(f"/threads/{thread_id}/runs/wait", json=CHAIN, headers=keyed("race"))).json() == VALUES


async def test_key_of_a_process_that_died_is_taken_over_with_its_ids(
    http: httpx.AsyncClient, settings: Settings
) -> None:
    """Ours: whoever dies between the key and the run leaves nothing that stands in the way, and nothing is made twice."""
    uri = str(settings.database_uri)
    first = (await http.post("/runs", json=CHAIN, headers=keyed("dead"))).json()
    await execute(uri, "DELETE FROM threads")
    await execute(uri, "UPDATE idempotency_keys SET completed = false, worker_id = gen_random_uuid()")
    again = await http.post("/runs", json=CHAIN, headers=keyed("dead"))
    once_more = await http.post("/runs", json=CHAIN, headers=keyed("dead"))

    assert (again.json()["run_id"], once_more.json()["run_id"]) == (first["run_id"], first["run_id"])
    assert await execute(uri, "SELECT count(*) FROM runs") == [(1,)]


async def test_taken_key_whose_run_comes_late_makes_no_second_run(http: httpx.AsyncClient, settings: Settings) -> None:
    """Ours: the first process was only slow. Its run exists, so the process that took the key over creates none."""
    uri = str(settings.database_uri)
    run_id = (await http.post("/runs", json=CHAIN, headers=keyed("late"))).json()["run_id"]
    await execute(uri, "UPDATE idempotency_keys SET completed = false, worker_id = gen_random_uuid()")
    refused = await http.post("/runs", json=CHAIN, headers=keyed("late"))

    assert (refused.status_code, refused.json()["code"]) == (409, "key-in-use")
    assert await execute(uri, "SELECT run_id::text FROM runs") == [(run_id,)]


async def test_expired_key_is_free(http: httpx.AsyncClient, settings: Settings) -> None:
    """Ours: 24 hours, then it is as if it had never been sent, whether it was swept or not."""
    first = (await http.post("/threads", json={}, headers=keyed("old"))).json()
    await execute(str(settings.database_uri), "UPDATE idempotency_keys SET expires_at = now() - interval '1 s'")
    second = (await http.post("/threads", json={"metadata": {"n": 1}}, headers=keyed("old"))).json()

    assert first["thread_id"] != second["thread_id"]


async def test_deleted_results_of_a_key_are_not_created_again(http: httpx.AsyncClient) -> None:
    """Ours: the thread was deleted since; a late repetition does not bring it back."""
    thread_id = (await http.post("/threads", json={}, headers=keyed("gone"))).json()["thread_id"]
    await http.delete(f"/threads/{thread_id}")
    again = await http.post("/threads", json={}, headers=keyed("gone"))

    assert again.status_code == 404
    assert (await http.post("/threads/count", json={})).json() == 0
