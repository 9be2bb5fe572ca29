"""A server under a flood of requests that mean harm goes on as if there had been none."""

from typing import Any

import anyio
import httpx

from conftest import MakeKey, serving
from hostile.attackers import ANSWER_S, ATTACKERS, Attackers
from hostile.corpus import RUN, attacks
from threadkeep.settings import Settings

ALL_S = 240.0
TRUTH = '\N{SNOWMAN}\u2028 "quoted" \\ \r\n \x7f'


async def _make(http: httpx.AsyncClient) -> dict[str, str]:
    """Ids of one thing of each kind."""
    thread_id = (await http.post("/threads", json={"metadata": {"graph_id": "chain"}})).json()["thread_id"]
    await http.post(f"/threads/{thread_id}/runs/wait", json=RUN)
    run_id = (await http.get(f"/threads/{thread_id}/runs")).json()[0]["run_id"]
    cron = (await http.post("/runs/crons", json=RUN | {"schedule": "0 0 1 1 *"})).json()
    assistant = (await http.post("/assistants", json={"graph_id": "parent"})).json()
    return {
        "thread_id": thread_id,
        "run_id": run_id,
        "cron_id": cron["cron_id"],
        "assistant_id": assistant["assistant_id"],
        "checkpoint_id": (await http.get(f"/threads/{thread_id}/state")).json()["checkpoint_id"],
        "namespace": "child",
    }


async def _everything(http: httpx.AsyncClient, ids: dict[str, str]) -> list[Any]:
    """All that can be read of what was made before."""
    thread = f"/threads/{ids['thread_id']}"
    paths = (
        thread,
        f"{thread}/state",
        f"{thread}/history?limit=100",
        f"{thread}/runs",
        f"/runs/crons/{ids['cron_id']}",
        f"/assistants/{ids['assistant_id']}",
        "/store/items?namespace=truth&key=k",
    )
    return [(await http.get(path)).json() for path in paths]


SECOND = 2
"""Of the corpus, what is sent: neighbours differ in one value, and the whole would take a minute."""
NINTH = 9
"""Of the corpus, what is sent again where callers are known."""


async def test_no_hostile_request_harms_the_server_or_what_it_keeps(patient: Settings) -> None:
    """Ours: no 5xx, no error that is not JSON, nobody waits for ever, and what was there is there, unchanged."""
    limits = httpx.Limits(max_connections=ATTACKERS * 2)
    async with serving(patient) as url, httpx.AsyncClient(base_url=url, timeout=ANSWER_S, limits=limits) as http:
        kept, lost = await _make(http), await _make(http)
        item = {"namespace": ["truth"], "key": "k", "value": {TRUTH: [TRUTH, 2**63, -(2**63), 1.5e-7, None, {"a": []}]}}
        assert (await http.put("/store/items", json=item)).status_code == 204
        patched = await http.patch(f"/threads/{kept['thread_id']}", json={"metadata": item["value"]})
        before = await _everything(http, kept)
        corpus = list(attacks(lost))[::SECOND]
        attackers = Attackers(http)
        with anyio.fail_after(ALL_S):
            await attackers.send_all(corpus)
        after = await _everything(http, kept)
        alive = await http.get("/livez")
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        answer = await http.post(f"/threads/{thread_id}/runs/wait", json=RUN)

    assert attackers.wrong == []
    assert len(corpus) >= 2000
    assert attackers.statuses[422] > len(corpus) / 4
    assert (alive.status_code, answer.status_code, patched.status_code) == (200, 200, 200)
    assert after == before
    assert before[0]["metadata"][TRUTH] == item["value"][TRUTH]


async def test_no_hostile_request_of_a_known_caller_harms_another(patient: Settings, make_key: MakeKey) -> None:
    """Ours: the same with API keys, by one of two callers; the other's things are as they were."""
    chosen = patient.model_copy(update={"auth_type": "api_key", "max_requests_per_principal": 0})
    async with serving(chosen) as url:
        keys = [{"x-api-key": await make_key(name)} for name in ("ada", "eve")]
        ada, eve = (httpx.AsyncClient(base_url=url, timeout=ANSWER_S, headers=key) for key in keys)
        async with ada, eve:
            hers = await _make(ada)
            before = await _everything(ada, hers)
            corpus = [attack for ids in (await _make(eve), hers) for attack in list(attacks(ids))[::NINTH]]
            attackers = Attackers(eve)
            with anyio.fail_after(ALL_S):
                await attackers.send_all(corpus)
            after = await _everything(ada, hers)

    assert attackers.wrong == []
    assert len(corpus) >= 2000
    assert after == before
