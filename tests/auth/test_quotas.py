"""How much one principal may have at once; others do not notice."""

from collections.abc import AsyncIterator
from uuid import uuid4

import anyio
import httpx
import pytest

from auth.conftest import MakeKey
from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.settings import Settings

RUN = {"assistant_id": "gated", "input": {"items": []}}
RUN_NOW = {"assistant_id": "chain", "input": {"items": []}}
CAPS = {"max_streams_per_principal": 2, "max_runs_per_principal": 2, "max_queued_per_principal": 3, "max_queued": 5}


@pytest.fixture
async def two(settings: Settings, make_key: MakeKey) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Ada and Bob, on a server whose caps are low."""
    chosen = settings.model_copy(update={"auth_type": "api_key", **CAPS})
    async with serving(chosen) as url:
        keys = [await make_key(name) for name in ("ada", "bob")]
        ada, bob = (httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers={"x-api-key": key}) for key in keys)
        async with ada, bob:
            yield [ada, bob]


def _is_too_many(answer: httpx.Response) -> bool:
    return (
        answer.status_code == 429
        and answer.json().keys() >= {"detail", "code"}
        and answer.json()["code"] == "too-many-requests"
        and int(answer.headers["retry-after"]) >= 1
    )


async def test_requests_a_minute_are_counted(settings: Settings, make_key: MakeKey) -> None:
    """Ours: 429 with `Retry-After` before the body is read. Other principals are not affected."""
    chosen = settings.model_copy(update={"auth_type": "api_key", "max_requests_per_principal": 5})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url) as http:
        ada, bob = {"x-api-key": await make_key("ada")}, {"x-api-key": await make_key("bob")}
        answers = [await http.post("/threads/count", json={}, headers=ada) for _ in range(7)]
        other = await http.post("/threads/count", json={}, headers=bob)
        public = await http.get("/livez", headers=ada)

    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert _is_too_many(answers[-1])
    assert (other.status_code, public.status_code) == (200, 200)


async def test_open_streams_and_runs_are_counted_until_they_end(two: list[httpx.AsyncClient], gate: Gate) -> None:
    """Ours: the third is refused while two go on; when they have ended there is room again."""
    ada, bob = two
    found: list[int] = []

    async def wait(http: httpx.AsyncClient) -> None:
        found.append((await http.post("/runs/wait", json=RUN)).status_code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, ada)
        tasks.start_soon(wait, ada)
        await gate.entered(2)
        refused = [await ada.post("/runs/wait", json=RUN), await ada.post("/runs/stream", json=RUN)]
        short = await ada.post("/threads", json={})
        tasks.start_soon(wait, bob)
        await gate.entered()
        gate.open()
    after = await ada.post("/runs/wait", json=RUN)

    assert all(map(_is_too_many, refused))
    assert (found, short.status_code, after.status_code) == ([200] * 3, 200, 200)


async def test_runs_of_the_protocol_v2_are_counted(two: list[httpx.AsyncClient], gate: Gate) -> None:
    """Ours: a run that a command starts counts until its end, as one of v1 does."""
    ada, bob = two
    command = {"id": 1, "method": "run.start", "params": RUN}
    answers = [await http.post(f"/threads/{uuid4()}/commands", json=command) for http in (ada, ada, ada, bob)]
    await gate.entered(3)
    gate.open()

    assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
    assert _is_too_many(answers[2])


async def test_runs_of_the_protocol_v2_wait_in_the_same_queue(
    settings: Settings, make_key: MakeKey, gate: Gate
) -> None:
    """Ours: where no slot is free they count against what may wait."""
    chosen = settings.model_copy(update={"auth_type": "api_key", **CAPS, "max_queued_per_principal": 1, "run_slots": 1})
    command = {"id": 1, "method": "run.start", "params": RUN}
    async with serving(chosen) as url:
        headers = {"x-api-key": await make_key("ada")}
        async with httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers=headers) as ada:
            answers = [await ada.post(f"/threads/{uuid4()}/commands", json=command) for _ in range(3)]
            await gate.entered()
            gate.open()

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["detail"] == "you have 1 runs in the queue: at most 1 are allowed"


async def test_what_waits_in_the_queue_is_counted(two: list[httpx.AsyncClient]) -> None:
    """Ours: 429 above the own share, 503 above the queue's length. A batch counts as its runs."""
    ada, bob = two
    later = RUN | {"after_seconds": 3600}
    mine = [await ada.post("/runs", json=later) for _ in range(4)]
    batches = [await bob.post("/runs/batch", json=[later] * many) for many in (3, 2, 1)]

    assert [answer.status_code for answer in mine] == [200, 200, 200, 429]
    assert _is_too_many(mine[-1])
    assert [answer.status_code for answer in batches] == [503, 200, 503]
    assert batches[0].json() == {"detail": "the queue is full", "code": "overloaded"}
    assert int(batches[0].headers["retry-after"]) >= 1


async def test_without_authentication_nobody_is_counted(settings: Settings) -> None:
    """Ours: callers without an identity have no share of their own."""
    chosen = settings.model_copy(update={"max_requests_per_principal": 1, **CAPS})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url) as http:
        later = RUN | {"after_seconds": 3600}
        answers = [await http.post("/runs", json=later) for _ in range(6)]

    assert [answer.status_code for answer in answers] == [200] * 5 + [503]


async def test_a_query_counts_as_a_run_and_not_as_a_place_in_the_queue(two: list[httpx.AsyncClient]) -> None:
    """Issue: a full queue does not refuse it, as it does not refuse `/runs/wait`."""
    ada, bob = two
    later = {"assistant_id": "chain", "input": {"items": []}, "after_seconds": 3600}
    queued = [(await http.post("/runs", json=later)).status_code for http in (ada, ada, ada, bob, bob)]
    full = await bob.post("/runs", json=later)
    answers = [await bob.post("/query", json={"query": "hello"}), await bob.post("/runs/wait", json=RUN_NOW)]

    assert (queued, full.status_code) == ([200] * 5, 503)
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_query_counts_against_its_principals_runs(two: list[httpx.AsyncClient], gate: Gate) -> None:
    """Issue: it did not, so that a principal could have any number of them at once."""
    ada, bob = two
    for _ in range(2):
        await ada.post("/runs", json=RUN)
    await gate.entered(2)
    refused = await ada.post("/query", json={"query": "hello"})
    other = await bob.post("/query", json={"query": "hello"})

    assert _is_too_many(refused)
    assert other.status_code == 200


CRON = {"assistant_id": "chain", "schedule": "0 0 1 1 *", "input": {"items": []}}
ROWS = {"/runs/crons": CRON, "/assistants": {"graph_id": "chain"}}


@pytest.mark.parametrize("path", ROWS)
async def test_rows_of_a_principal_are_counted_under_concurrency(
    settings: Settings, make_key: MakeKey, path: str
) -> None:
    """Issue: one principal could have any number of crons and assistants. Two processes count the same rows."""
    caps = {"max_crons_per_principal": 3, "max_assistants_per_principal": 3}
    chosen = settings.model_copy(update={"auth_type": "api_key", **caps})
    ada, bob = {"x-api-key": await make_key("ada")}, {"x-api-key": await make_key("bob")}
    async with serving(chosen) as one, serving(chosen) as two, httpx.AsyncClient(timeout=WAIT_S) as http:
        answers: list[httpx.Response] = []

        async def create(url: str) -> None:
            answers.append(await http.post(url + path, json=ROWS[path], headers=ada))

        async with anyio.create_task_group() as tasks:
            for url in (one, two) * 6:
                tasks.start_soon(create, url)
        other = await http.post(one + path, json=ROWS[path], headers=bob)
        made = next(answer.json() for answer in answers if answer.status_code == 200)
        gone = await http.delete(f"{one}{path}/{made.get('cron_id') or made['assistant_id']}", headers=ada)
        after = await http.post(two + path, json=ROWS[path], headers=ada)

    refused = [answer for answer in answers if answer.status_code != 200]
    assert (len(refused), all(map(_is_too_many, refused))) == (9, True)
    assert (other.status_code, gone.is_success, after.status_code) == (200, True, 200)


async def test_threads_that_stay_are_counted_within_a_minute(settings: Settings, make_key: MakeKey) -> None:
    """Issue: one principal could create any number. Those of stateless runs go with their runs, and are not counted."""
    chosen = settings.model_copy(update={"auth_type": "api_key", "max_new_threads_per_principal": 4})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        ada, bob = {"x-api-key": await make_key("ada")}, {"x-api-key": await make_key("bob")}
        stateless = [(await http.post("/runs/wait", json=RUN_NOW, headers=ada)).status_code for _ in range(5)]
        thread = (await http.post("/threads", json={}, headers=ada)).json()["thread_id"]
        staying = {**RUN_NOW, "if_not_exists": "create"}
        again = [await http.post(f"/threads/{thread}/runs/wait", json=staying, headers=ada) for _ in range(3)]
        made = [
            await http.post(f"/threads/{uuid4()}/runs/wait", json=staying, headers=ada),
            await http.post("/runs/wait", json={**RUN_NOW, "on_completion": "keep"}, headers=ada),
            await http.post(f"/threads/{thread}/copy", headers=ada),
        ]
        refused = [
            await http.post("/threads", json={}, headers=ada),
            await http.post(f"/threads/{uuid4()}/runs", json=staying, headers=ada),
            await http.post(f"/threads/{thread}/copy", headers=ada),
        ]
        other = await http.post("/threads", json={}, headers=bob)

    assert (stateless, [answer.status_code for answer in again + made]) == ([200] * 5, [200] * 6)
    assert all(map(_is_too_many, refused))
    assert other.status_code == 200
