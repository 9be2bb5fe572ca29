"""An operation that touches several resources asks for each of them, whichever route or socket it comes by."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from auth.conftest import MakeKey
from threadkeep.api.routes import TABLE
from threadkeep.auth.authorization import Condition, Operation, permissions
from threadkeep.auth.scopes import ALL_EVENTS

NOT_A_GRAPHS_OWN: Final[Condition] = "the assistant is not a graph's own"
STOPPING: Final[tuple[Condition, ...]] = (NOT_A_GRAPHS_OWN, "the strategy stops other runs")
ON_THREAD: Final[tuple[Condition, ...]] = (*STOPPING, "the thread may be created")
RUN: Final[dict[str, Any]] = {"assistant_id": "{assistant_id}", "input": {"items": []}}
THREAD_RUN: Final = RUN | {"if_not_exists": "create", "multitask_strategy": "interrupt"}
CRON: Final = RUN | {"schedule": "0 0 1 1 *", "multitask_strategy": "rollback"}


@dataclass(frozen=True)
class Case:
    """A request, the operation that it is, and the conditions that hold for it."""

    operation: Operation
    conditions: Collection[Condition] = ()
    body: Any = None
    query: Mapping[str, Any] = field(default_factory=dict[str, Any])
    also: Collection[str] = ()
    """What its route asks for beside."""

    @property
    def events(self) -> list[str]:
        """Every event that it needs."""
        needed = [permission.event for permission in permissions(self.operation, self.conditions)]
        return list(dict.fromkeys((*self.also, *needed)))


CASES: Final[Mapping[str, Case]] = {
    "POST /runs": Case("run.start", [NOT_A_GRAPHS_OWN], RUN),
    "POST /runs/batch": Case("run.start", [NOT_A_GRAPHS_OWN], [RUN]),
    "POST /runs/wait": Case("run.start", [NOT_A_GRAPHS_OWN], RUN),
    "POST /runs/stream": Case("run.start", [NOT_A_GRAPHS_OWN], RUN),
    "POST /query": Case("run.start", body={"query": "hello"}),
    "POST /threads/{thread_id}/runs": Case("run.start", ON_THREAD, THREAD_RUN),
    "POST /threads/{thread_id}/runs/wait": Case("run.start", ON_THREAD, THREAD_RUN),
    "POST /threads/{thread_id}/runs/stream": Case("run.start", ON_THREAD, THREAD_RUN),
    "POST /threads/{thread_id}/commands": Case(
        "run.start",
        ON_THREAD,
        {"id": 1, "method": "run.start", "params": RUN | {"multitask_strategy": "interrupt"}},
        also=["threads.read"],
    ),
    "GET /threads/{thread_id}/runs/{run_id}": Case("run.read"),
    "GET /threads/{thread_id}/runs/{run_id}/join": Case(
        "run.follow", ["the run is cancelled on disconnect"], query={"cancel_on_disconnect": True}
    ),
    "GET /threads/{thread_id}/runs/{run_id}/stream": Case(
        "run.follow", ["the run is cancelled on disconnect"], query={"cancel_on_disconnect": True}
    ),
    "POST /threads/{thread_id}/runs/{run_id}/cancel": Case("run.cancel"),
    "POST /runs/cancel": Case("run.cancel", body={"status": "all"}),
    "DELETE /threads/{thread_id}/runs/{run_id}": Case("run.delete"),
    "POST /runs/crons": Case("cron.create", STOPPING, CRON),
    "POST /threads/{thread_id}/runs/crons": Case("cron.create", STOPPING, CRON),
    "PATCH /runs/crons/{cron_id}": Case("cron.update", STOPPING, {"enabled": False}),
    "DELETE /assistants/{assistant_id}": Case(
        "assistant.delete", ["the threads are deleted too"], query={"delete_threads": True}
    ),
}


def test_every_operation_that_a_service_authorizes_is_walked() -> None:
    """Ours: a new line of the table of routes can't be forgotten here."""
    by_service = {operation.name for operation in TABLE if operation.authorized_by == "service"}
    touching_several = {operation.name for operation in TABLE if operation.event in {"crons.create", "crons.update"}}

    assert by_service | touching_several <= CASES.keys()


@pytest.fixture
async def ids(ada: httpx.AsyncClient) -> dict[str, str]:
    """A thread, an assistant and a cron of Ada's."""
    assistant = (await ada.post("/assistants", json={"graph_id": "chain"})).json()["assistant_id"]
    thread = (await ada.post("/threads", json={})).json()["thread_id"]
    cron = CRON | {"assistant_id": assistant}
    return {
        "assistant_id": assistant,
        "thread_id": thread,
        "cron_id": (await ada.post(f"/threads/{thread}/runs/crons", json=cron)).json()["cron_id"],
        "run_id": str(uuid4()),
    }


@pytest.mark.parametrize("route", CASES)
async def test_each_permission_is_needed_and_all_of_them_are_enough(
    keyed_url: str, make_key: MakeKey, ids: dict[str, str], route: str
) -> None:
    """Issue: 403 with all scopes but one, and with any scope alone if several are needed."""
    case = CASES[route]
    without = {event: await make_key("ada", *sorted(ALL_EVENTS - {event})) for event in case.events}
    alone = {event: await make_key("ada", event) for event in case.events}
    exact = await make_key("ada", *case.events)
    async with httpx.AsyncClient(base_url=keyed_url, timeout=10) as http:
        refused = {event: await _status(http, route, ids, key) for event, key in without.items()}
        single = {event: await _status(http, route, ids, key) for event, key in alone.items()}
        allowed = await _status(http, route, ids, exact)

    assert refused == dict.fromkeys(case.events, 403)
    assert single == dict.fromkeys(case.events, 403) or len(case.events) == 1
    assert allowed != 403
    assert allowed < 500


async def test_a_run_of_a_graphs_own_assistant_needs_one_permission(keyed_url: str, make_key: MakeKey) -> None:
    """Ours: a key for runs alone stays enough for a client that names a graph."""
    key = await make_key("ada", "threads.create_run")
    async with httpx.AsyncClient(base_url=keyed_url, timeout=10, headers={"x-api-key": key}) as http:
        answer = await http.post("/runs/wait", json={"assistant_id": "chain", "input": {"items": []}})

    assert (answer.status_code, answer.json()) == (200, {"items": ["first", "second"]})


async def _status(http: httpx.AsyncClient, route: str, ids: Mapping[str, str], key: str) -> int:
    case = CASES[route]
    method, path = route.split(" ")
    body = _filled(case.body, ids)
    answer = await http.request(
        method, path.format(**ids), json=body, params=dict(case.query), headers={"x-api-key": key}
    )
    return answer.status_code


def _filled(template: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(template, str):
        return ids["assistant_id"] if template == "{assistant_id}" else template
    if isinstance(template, dict):
        return {name: _filled(value, ids) for name, value in template.items()}
    return [_filled(each, ids) for each in template] if isinstance(template, list) else template
