"""Stored values never break their readers: one request stores, and an innocent one reads."""

import json
from collections import Counter
from typing import Any

import anyio
import httpx

from conftest import serving
from hostile.attackers import ANSWER_S, ATTACKERS, Attackers, each_of
from hostile.corpus import RUN, Attack
from hostile.stored import EVENT_IDS, StoredResult, get, post, respond_params, start_params, stored
from threadkeep.settings import Settings

ALL_S = 500.0
LASTING = ("assistant", "cron")
"""Kinds whose every later run has what was stored."""
MEANT_TO_FAIL = ("graph_id='failing'", "assistant_id='failing'")


class TwoSteps:
    """Stores each case, and sends what reads it."""

    def __init__(self, http: httpx.AsyncClient, attackers: Attackers) -> None:
        self._http = http
        self._attackers = attackers
        self.kept: Counter[str] = Counter()
        """By kind: how many cases were not refused."""
        self.failed: list[str] = []
        """Lasting cases whose runs end in an error."""

    async def try_case(self, case: StoredResult) -> None:
        """Store it on a thread of its own, and read it if it was taken."""
        thread_id = (await self._http.post("/threads", json={"metadata": {"graph_id": "chain"}})).json()["thread_id"]
        path = case.write.path.replace("{thread_id}", thread_id)
        if path.endswith("/state"):
            await self._http.post(f"/threads/{thread_id}/runs/wait", json=RUN)
        write = Attack(method=case.write.method, path=path, body=case.write.body, headers=case.write.headers)
        answer = await self._attackers.send(write)
        if answer is None or answer.status_code >= 300:
            return
        self.kept[case.name.partition(" ")[0]] += 1
        for read in case.readers(answer.json() if answer.content else {}):
            told = await self._attackers.send(read, before=f"{case.name}: ")
            self._look(case, read, told)

    def _look(self, case: StoredResult, read: Attack, told: httpx.Response | None) -> None:
        if told is None or not case.name.startswith(LASTING) or case.name.endswith(MEANT_TO_FAIL):
            return
        answer = told.json() if read.path == "/runs/wait" and told.status_code == 200 else None
        if isinstance(answer, dict) and "__error__" in answer:
            self.failed.append(f"{case.name}: {answer}")


async def test_no_stored_value_breaks_its_readers(patient: Settings, errors: list[str]) -> None:
    """Issue: no 5xx, no failing cron, no assistant whose runs fail for ever, no trace in the log."""
    limits = httpx.Limits(max_connections=ATTACKERS * 2)
    async with serving(patient) as url, httpx.AsyncClient(base_url=url, timeout=ANSWER_S, limits=limits) as http:
        attackers = Attackers(http)
        steps = TwoSteps(http, attackers)
        with anyio.fail_after(ALL_S):
            await each_of(stored(), steps.try_case)
        answer = await http.post("/runs/wait", json=RUN)

    assert "\n".join(attackers.wrong) == ""
    assert "\n".join(errors) == ""
    assert "\n".join(steps.failed) == ""
    assert answer.status_code == 200
    assert set(steps.kept) == {"assistant", "cron", "item", "run", "state", "stateless", "thread"}
    assert attackers.statuses[200] > 1000


async def test_no_event_id_breaks_a_stream(patient: Settings, errors: list[str]) -> None:
    """Issue: of a run, of a thread, of a run that goes on; whatever id a client names."""
    async with serving(patient) as url, httpx.AsyncClient(base_url=url, timeout=ANSWER_S) as http:
        thread = f"/threads/{(await http.post('/threads', json={})).json()['thread_id']}"
        kept = await http.post(f"{thread}/runs/stream", json=RUN | {"stream_resumable": True})
        gated = (await http.post(f"{thread}/runs", json=RUN | {"assistant_id": "gated"})).json()["run_id"]
        paths = (kept.headers["location"], f"{thread}/stream", f"{thread}/runs/{gated}/stream")
        ends: dict[str, str] = {}
        for path in paths:
            for event_id in EVENT_IDS:
                ends[f"{path[-40:]} {event_id:.30}"] = await _beginning(http, get(path, **{"last-event-id": event_id}))

    assert "\n".join(errors) == ""
    assert {name: end for name, end in ends.items() if end not in {"events", "quiet", "422"}} == {}


async def _beginning(http: httpx.AsyncClient, attack: Attack) -> str:
    """How a stream begins: with events, with nothing yet, or refused. `cut`: it ends without its end."""
    headers = [(name.encode(), value.encode()) for name, value in attack.headers.items()]
    try:
        async with http.stream("GET", attack.path, headers=headers) as answer:
            if answer.status_code != 200:
                return str(answer.status_code)
            with anyio.move_on_after(0.3):
                async for _ in answer.aiter_bytes():
                    return "events"
                return "events" if "/runs/" in attack.path else "cut"
            return "quiet"
    except httpx.TransportError as error:
        return type(error).__name__


async def test_no_command_breaks_the_thread_that_it_is_for(patient: Settings, errors: list[str]) -> None:
    """Issue: starts and answers by the protocol v2, over HTTP, and what they leave behind."""
    async with serving(patient) as url, httpx.AsyncClient(base_url=url, timeout=ANSWER_S) as http:
        attackers = Attackers(http)

        async def start(params: dict[str, Any]) -> None:
            await _commanded(http, attackers, "run.start", params)

        async def respond(params: dict[str, Any]) -> None:
            await _commanded(http, attackers, "input.respond", params)

        with anyio.fail_after(ALL_S):
            await each_of(start_params(), start)
            await each_of(respond_params(), respond)

    assert "\n".join(attackers.wrong) == ""
    assert "\n".join(errors) == ""


async def _commanded(http: httpx.AsyncClient, attackers: Attackers, method: str, params: dict[str, Any]) -> None:
    thread_id = (await http.post("/threads", json={"metadata": {"graph_id": "chain"}})).json()["thread_id"]
    path = f"/threads/{thread_id}"
    if method == "input.respond":
        asked = await http.post(f"{path}/runs/wait", json=RUN | {"assistant_id": "asking"})
        interrupt_id = asked.json()["__interrupt__"][0]["id"]
        params = json.loads(json.dumps(params).replace('"interrupt_id": "x"', f'"interrupt_id": "{interrupt_id}"'))
    before = f"{method} {params!r:.200}: "
    await attackers.send(post(f"{path}/commands", {"id": 1, "method": method, "params": params}), before)
    for read in (get(path), get(f"{path}/state"), get(f"{path}/runs"), get(f"{path}/history?limit=5")):
        await attackers.send(read, before)
