"""Ownership: no principal reaches the rows of another, on any route, with any kind of authentication."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import WAIT_S, serving
from threadkeep.api.routes import TABLE
from threadkeep.auth.ownership import store_prefix_of
from threadkeep.postgres.tenancy import Filters, TenantPool
from threadkeep.project import Auth, GraphTarget, Project
from threadkeep.settings import Settings
from threadkeep.tables import TENANT_TABLES

MakeKey = Callable[..., Awaitable[str]]

JWT_SECRET = "a secret of more than thirty-two bytes, shared"
JWT = {
    "jwt_issuer": "https://issuer.example",
    "jwt_audience": "threadkeep",
    "jwt_secret": JWT_SECRET,
}
SECRET = "nobody but ada knows this"
CUSTOM = """
from langgraph_sdk import Auth

auth = Auth()


@auth.authenticate
async def authenticate(headers):
    name = headers.get(b"x-api-key", b"").decode()
    if not name:
        raise Auth.exceptions.HTTPException(status_code=401, detail="who?")
    return name


@auth.on
async def own(ctx, value):
    value.setdefault("metadata", {})["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}


@auth.on.store
async def own_namespace(ctx, value):
    value["namespace"] = (ctx.user.identity, *(value.get("namespace") or ()))
"""


@dataclass(frozen=True, kw_only=True)
class World:
    """A server, Ada with a row of every kind, and Bob with a thread."""

    ada: httpx.AsyncClient
    bob: httpx.AsyncClient
    ids: Mapping[str, str]


@pytest.fixture(params=["api_key", "jwt", "custom"])
async def world(
    request: pytest.FixtureRequest, settings: Settings, make_key: MakeKey, tmp_path: Path
) -> AsyncIterator[World]:
    """The world, with each kind of authentication."""
    kind: str = request.param
    project = None
    if kind == "custom":
        (tmp_path / "auth.py").write_text(CUSTOM)
        project = Project(root=tmp_path, graphs={"chain": GraphTarget(path="x:y")}, auth=Auth(path="./auth.py:auth"))
    changes = {"auth_type": kind, **(JWT if kind == "jwt" else {})}
    doored = Settings.model_validate(settings.model_dump(exclude_unset=True) | changes)
    async with serving(doored, project=project) as url:
        headers = {name: await _headers(kind, name, make_key) for name in ("ada", "bob")}
        async with (
            httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers=headers["ada"]) as ada,
            httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers=headers["bob"]) as bob,
        ):
            yield World(ada=ada, bob=bob, ids=await _furnished(ada, bob))


async def _headers(kind: str, name: str, make_key: MakeKey) -> dict[str, str]:
    if kind == "jwt":
        claims = {"iss": JWT["jwt_issuer"], "aud": "threadkeep", "sub": name, "exp": 4_000_000_000}
        return {"authorization": "Bearer " + jwt.encode(claims, JWT_SECRET, "HS256")}
    return {"x-api-key": name if kind == "custom" else await make_key(name)}


async def _made(http: httpx.AsyncClient, method: str, path: str, body: object) -> Any:
    answer = await http.request(method, path, json=body)
    assert answer.is_success, (method, path, answer.text)
    return answer.json() if answer.content else None


async def _furnished(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> dict[str, str]:
    """Create the rows of the cases, and return their ids by name."""
    told = {"metadata": {"note": SECRET}}
    assistant = await _made(ada, "POST", "/assistants", {"graph_id": "chain", "context": {"note": SECRET}, **told})
    thread = (await _made(ada, "POST", "/threads", told))["thread_id"]
    run = {"assistant_id": "chain", "input": {"items": [SECRET]}, **told}
    await _made(ada, "POST", f"/threads/{thread}/runs/wait", run)
    waiting = (await _made(ada, "POST", "/threads", told))["thread_id"]
    pending = await _made(ada, "POST", f"/threads/{waiting}/runs", run | {"after_seconds": 3600})
    cron = await _made(ada, "POST", f"/threads/{thread}/runs/crons", run | {"schedule": "0 0 1 1 *"})
    item = {"namespace": ["memories"], "key": "note", "value": {"note": SECRET}}
    await _made(ada, "PUT", "/store/items", item)
    state = await _made(ada, "GET", f"/threads/{thread}/state", None)
    (done,) = await _made(ada, "GET", f"/threads/{thread}/runs", None)
    response = await _made(ada, "POST", "/v1/responses", {"model": "speaking", "input": SECRET})
    said = [{"role": "user", "content": SECRET}]
    conversation = (await _made(ada, "POST", "/v1/conversations", {"items": said}))["id"]
    items = await _made(ada, "GET", f"/v1/conversations/{conversation}/items", None)
    keys = await ada.get("/api-keys")  # 404 if callers are known by something else
    own = await _made(bob, "POST", "/threads", {})
    await _made(
        bob, "POST", f"/threads/{own['thread_id']}/runs/wait", {"assistant_id": "chain", "input": {"items": []}}
    )
    return {
        "assistant_id": assistant["assistant_id"],
        "thread_id": thread,
        "run_id": done["run_id"],
        "waiting_id": waiting,
        "pending_id": pending["run_id"],
        "cron_id": cron["cron_id"],
        "checkpoint_id": state["checkpoint"]["checkpoint_id"],
        "own_id": own["thread_id"],
        "response_id": response["id"],
        "conversation_id": conversation,
        "item_id": items["data"][0]["id"],
        "model": assistant["assistant_id"],
        "namespace": "child",
        "key_id": keys.json()[0]["key_id"] if keys.is_success else str(uuid4()),
    }


@dataclass(frozen=True, kw_only=True)
class Case:
    """Bob's request, with `{names}` of ids in path and body, and the response that he may get."""

    path: str | None = None
    """None: that of the route, all of whose ids are Ada's."""
    body: Any = None
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    status: int | None = 404
    """None: whatever there is of Bob's own."""
    answer: Any = ...
    """The whole answer; `...`: any that has nothing of Ada's."""


RUN = {"assistant_id": "chain", "input": {"items": ["bob"]}}
USER = {"role": "user", "content": "hello"}
REACHING = {"checkpoint": {"thread_id": "{thread_id}", "checkpoint_id": "{checkpoint_id}", "checkpoint_ns": ""}}
CONFIGURED = {
    "config": {
        "configurable": {
            "thread_id": "{thread_id}",
            "checkpoint_id": "{checkpoint_id}",
            "checkpoint_ns": "",
            "checkpoint_map": {"": "{checkpoint_id}"},
            "langgraph_auth_user_id": "ada",
            "langgraph_auth_user": {"identity": "ada"},
        },
        "metadata": {"owner": "ada"},
    },
    "metadata": {"owner": "ada"},
}


def _rpc(method: str, **params: object) -> dict[str, Any]:
    """A request of A2A."""
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def _sent(**more: str) -> dict[str, Any]:
    """A message of A2A."""
    return _rpc("SendMessage", message={"messageId": "1", "role": "ROLE_USER", "parts": [{"data": {}}], **more})


PAGE = {"threadId": "{thread_id}", "runId": "one", "messages": []}
SEND = _sent()
FOREIGN_ASSISTANT = RUN | {"assistant_id": "{assistant_id}"}
ON_THREAD = [
    Case(body=RUN),
    Case(body=RUN | {"if_not_exists": "create"}),
    Case(body=RUN | {"multitask_strategy": "rollback"}),
    Case(path="/threads/{waiting_id}", body=RUN | {"multitask_strategy": "interrupt"}),
    Case(path="/threads/{own_id}", body=FOREIGN_ASSISTANT),
    Case(path="/threads/{own_id}", body=RUN | CONFIGURED, status=200),
]
STATELESS = [
    Case(body=FOREIGN_ASSISTANT),
    Case(body=RUN | CONFIGURED, status=200),
    Case(body=RUN | {"on_completion": "keep"} | CONFIGURED, status=200),
]
IN_OWN = "/threads/{own_id}/runs/{run_id}"
SEARCHES = [
    Case(body={"metadata": {"note": SECRET}}, status=200, answer=[]),
    Case(body={"metadata": {"owner": "ada"}}, status=200),  # the custom handler makes it a search for Bob's
]
COUNTS = [Case(body={"metadata": {"note": SECRET}}, status=200, answer=0)]
LABEL = store_prefix_of("ada")
NAMESPACES = (["memories"], [LABEL, "memories"], ["ada", "memories"])

NO_THREAD_OR_ASSISTANT = {
    "type": "error",
    "id": 1,
    "error": "unknown_error",
    "message": "Thread or assistant not found.",
}
CASES: dict[str, list[Case]] = {
    "POST /assistants": [
        Case(body={"graph_id": "chain", "assistant_id": "{assistant_id}"}, status=409),
        Case(body={"graph_id": "chain", "assistant_id": "{assistant_id}", "if_exists": "do_nothing"}, status=409),
    ],
    "POST /assistants/search": SEARCHES,
    "POST /assistants/count": COUNTS,
    "GET /assistants/{assistant_id}": [Case()],
    "PATCH /assistants/{assistant_id}": [Case(body={"name": "bob's", "metadata": {"owner": "bob"}})],
    "DELETE /assistants/{assistant_id}": [Case(), Case(query={"delete_threads": "true"})],
    "POST /assistants/{assistant_id}/versions": [Case(body={})],
    "POST /assistants/{assistant_id}/latest": [Case(body={"version": 1})],
    "GET /assistants/{assistant_id}/graph": [Case()],
    "GET /assistants/{assistant_id}/schemas": [Case()],
    "GET /assistants/{assistant_id}/subgraphs": [Case()],
    "GET /assistants/{assistant_id}/subgraphs/{namespace}": [Case()],
    "POST /threads": [
        Case(body={"thread_id": "{thread_id}"}, status=409),
        Case(body={"thread_id": "{thread_id}", "if_exists": "do_nothing"}, status=409),
        Case(body={"thread_id": "{thread_id}", "metadata": {"owner": "ada"}}, status=409),
        Case(
            body={
                "thread_id": "{thread_id}",
                "metadata": {"graph_id": "chain"},
                "supersteps": [{"updates": [{"values": {"items": ["bob"]}, "as_node": "first"}]}],
            },
            status=409,
        ),
    ],
    "POST /threads/search": [
        *SEARCHES,
        Case(body={"ids": ["{thread_id}", "{waiting_id}"]}, status=200, answer=[]),
        Case(body={"values": {"items": [SECRET]}}, status=200, answer=[]),
        Case(body={"ids": ["{thread_id}"], "extract": {"x": "values.items[0]"}}, status=200, answer=[]),
        Case(body={"status": "busy"}, status=200, answer=[]),
    ],
    "POST /threads/count": [*COUNTS, Case(body={"status": "busy"}, status=200, answer=0)],
    "POST /threads/prune": [
        Case(body={"thread_ids": ["{thread_id}", "{waiting_id}"]}, status=200, answer={"pruned_count": 0}),
        Case(body={"thread_ids": ["{thread_id}"], "strategy": "keep_latest"}, status=200, answer={"pruned_count": 0}),
    ],
    "GET /threads/{thread_id}": [Case(), Case(query={"include": "ttl"})],
    "PATCH /threads/{thread_id}": [Case(body={"metadata": {"owner": "bob"}, "ttl": 1})],
    "DELETE /threads/{thread_id}": [Case(), Case(path="/threads/{waiting_id}")],
    "POST /threads/{thread_id}/copy": [Case()],
    "GET /threads/{thread_id}/storage": [Case()],
    "GET /threads/{thread_id}/state": [Case(), Case(query={"subgraphs": "true"})],
    "POST /threads/{thread_id}/state": [
        Case(body={"values": {"items": ["bob"]}, "as_node": "first"}),
        Case(path="/threads/{own_id}/state", body={"values": {"items": []}, **REACHING}),
    ],
    "POST /threads/{thread_id}/state/checkpoint": [
        Case(body=REACHING),
        Case(path="/threads/{own_id}/state/checkpoint", body=REACHING, status=200),
    ],
    "GET /threads/{thread_id}/state/{checkpoint_id}": [
        Case(),
        Case(path="/threads/{own_id}/state/{checkpoint_id}", status=200),
    ],
    "GET /threads/{thread_id}/history": [
        Case(),
        Case(path="/threads/{own_id}/history", query={"before": "{checkpoint_id}", "limit": "100"}, status=200),
    ],
    "POST /threads/{thread_id}/history": [
        Case(body={"limit": 100}),
        Case(path="/threads/{own_id}/history", body={"limit": 100, **REACHING}, status=200),
    ],
    "GET /threads/{thread_id}/stream": [Case()],
    "POST /threads/{thread_id}/commands": [
        Case(body={"id": 1, "method": "run.start", "params": RUN}, status=200, answer=NO_THREAD_OR_ASSISTANT),
        Case(body={"id": 1, "method": "agent.getTree", "params": {"run_id": "{run_id}"}}),
        Case(
            body={"id": 1, "method": "input.respond", "params": {"namespace": [], "interrupt_id": "x", "response": 1}}
        ),
        Case(
            path="/threads/{own_id}/commands",
            body={"id": 1, "method": "run.start", "params": FOREIGN_ASSISTANT},
            status=200,
            answer=NO_THREAD_OR_ASSISTANT,
        ),
    ],
    "POST /threads/{thread_id}/stream/events": [Case(body={"channels": ["values", "lifecycle"]})],
    "POST /threads/{thread_id}/runs": ON_THREAD,
    "POST /threads/{thread_id}/runs/stream": ON_THREAD,
    "POST /threads/{thread_id}/runs/wait": ON_THREAD,
    "GET /threads/{thread_id}/runs": [Case(), Case(path="/threads/{waiting_id}/runs")],
    "GET /threads/{thread_id}/runs/{run_id}": [Case(), Case(path=IN_OWN)],
    "DELETE /threads/{thread_id}/runs/{run_id}": [
        Case(),
        Case(path=IN_OWN),
        Case(path="/threads/{own_id}/runs/{pending_id}"),
        Case(path="/threads/{waiting_id}/runs/{pending_id}"),
    ],
    "GET /threads/{thread_id}/runs/{run_id}/join": [Case(), Case(path=IN_OWN + "/join")],
    "GET /threads/{thread_id}/runs/{run_id}/stream": [Case(), Case(path=IN_OWN + "/stream")],
    "POST /threads/{thread_id}/runs/{run_id}/cancel": [
        Case(path="/threads/{waiting_id}/runs/{pending_id}/cancel", query={"action": "rollback"}),
        Case(path="/threads/{own_id}/runs/{pending_id}/cancel"),
    ],
    "POST /runs": STATELESS,
    "POST /runs/stream": STATELESS,
    "POST /runs/wait": STATELESS,
    "POST /runs/batch": [
        Case(body=[RUN, FOREIGN_ASSISTANT]),
        Case(body=[RUN | CONFIGURED, RUN | CONFIGURED], status=200),
    ],
    "POST /runs/cancel": [
        Case(body={"thread_id": "{waiting_id}", "run_ids": ["{pending_id}"]}),
        Case(body={"thread_id": "{own_id}", "run_ids": ["{pending_id}"]}, query={"action": "rollback"}),
        Case(body={"status": "all"}, query={"action": "rollback"}, status=None),
    ],
    "POST /runs/crons": [Case(body=FOREIGN_ASSISTANT | {"schedule": "0 0 1 1 *"})],
    "POST /threads/{thread_id}/runs/crons": [
        Case(body=RUN | {"schedule": "0 0 1 1 *"}),
        Case(path="/threads/{own_id}/runs/crons", body=FOREIGN_ASSISTANT | {"schedule": "0 0 1 1 *"}),
    ],
    "POST /runs/crons/search": [
        *SEARCHES,
        Case(body={"thread_id": "{thread_id}"}, status=200, answer=[]),
        Case(body={}, status=200, answer=[]),
    ],
    "POST /runs/crons/count": [*COUNTS, Case(body={"thread_id": "{thread_id}"}, status=200, answer=0)],
    "GET /runs/crons/{cron_id}": [Case()],
    "PATCH /runs/crons/{cron_id}": [Case(body={"enabled": False, "metadata": {"owner": "bob"}})],
    "DELETE /runs/crons/{cron_id}": [Case()],
    "PUT /store/items": [
        Case(body={"namespace": each, "key": "note", "value": {"note": "bob's"}}, status=204) for each in NAMESPACES
    ],
    "GET /store/items": [
        Case(query={"namespace": ".".join(each), "key": "note"}, status=200, answer=None) for each in NAMESPACES
    ],
    "DELETE /store/items": [Case(body={"namespace": each, "key": "note"}, status=204) for each in NAMESPACES],
    "POST /store/items/search": [
        Case(body={"namespace_prefix": each}, status=200, answer={"items": []}) for each in ([], *NAMESPACES, ["%"])
    ],
    "POST /store/namespaces": [
        Case(body=each, status=200, answer={"namespaces": []})
        for each in ({}, {"prefix": ["*"]}, {"suffix": ["memories"]}, {"prefix": [LABEL]}, {"max_depth": 1})
    ],
    "POST /runs/search": [
        Case(body={"metadata": {"note": SECRET}}, status=200, answer=[]),
        Case(body={}, status=200),
        Case(body={"thread_id": "{thread_id}"}, status=200, answer=[]),
        Case(body={"assistant_id": "{assistant_id}"}, status=200, answer=[]),
        Case(body={"status": "pending"}, status=200, answer=[]),
    ],
    "POST /a2a/{assistant_id}": [
        Case(body=SEND),
        Case(path="/a2a/chain", body=_rpc("GetTask", id="{run_id}"), status=200),
        Case(path="/a2a/chain", body=_rpc("CancelTask", id="{pending_id}"), status=200),
        Case(path="/a2a/chain", body=_sent(contextId="{thread_id}"), status=200),
        Case(path="/a2a/chain", body=_sent(taskId="{run_id}"), status=200),
    ],
    "POST /mcp": [
        Case(body=_rpc("tools/list"), status=200),
        Case(body=_rpc("tools/call", name="chain", arguments={"items": [], "thread_id": "{thread_id}"}), status=200),
        Case(body=_rpc("tools/call", name="chain", arguments={"resume": 1, "thread_id": "{thread_id}"}), status=200),
    ],
    "POST /ag-ui/{assistant_id}": [
        Case(body=PAGE | {"threadId": "notes"}),
        Case(path="/ag-ui/chain", body=PAGE),
        Case(path="/ag-ui/chain", body=PAGE | {"runId": "{run_id}"}),
    ],
    "GET /v1/models": [Case(status=200)],
    "GET /v1/models/{model}": [Case()],
    "POST /v1/chat/completions": [
        Case(body={"model": "{assistant_id}", "messages": [USER]}),
        Case(body={"model": "speaking", "messages": [USER], "metadata": {"thread_id": "{thread_id}"}}),
    ],
    "POST /v1/responses": [
        Case(body={"model": "{assistant_id}", "input": "hello"}),
        Case(body={"model": "speaking", "input": "hello", "conversation": "{conversation_id}"}),
        Case(body={"model": "speaking", "input": "hello", "conversation": "{thread_id}"}),
        Case(body={"model": "speaking", "input": "hello", "previous_response_id": "{response_id}"}, status=400),
        Case(
            body={"model": "speaking", "input": [USER, {"type": "item_reference", "id": "{item_id}"}]},
            status=400,
        ),
    ],
    "GET /v1/responses/{response_id}": [Case(), Case(query={"stream": "true"})],
    "GET /v1/responses/{response_id}/input_items": [Case()],
    "POST /v1/responses/{response_id}/cancel": [Case()],
    "DELETE /v1/responses/{response_id}": [Case()],
    "POST /v1/conversations": [Case(body={"metadata": {"owner": "ada"}}, status=200)],
    "GET /v1/conversations/{conversation_id}": [Case()],
    "POST /v1/conversations/{conversation_id}": [Case(body={"metadata": {"topic": "bob's"}})],
    "DELETE /v1/conversations/{conversation_id}": [Case()],
    "GET /v1/conversations/{conversation_id}/items": [Case()],
    "POST /v1/conversations/{conversation_id}/items": [Case(body={"items": [USER]})],
    "GET /v1/conversations/{conversation_id}/items/{item_id}": [Case()],
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": [Case()],
    "GET /workers": [Case(status=200)],
    "GET /events": [Case(status=200)],
    "GET /me": [Case(status=200)],
    "GET /api-keys": [Case(status=None), Case(query={"limit": "1000"}, status=None)],
    "DELETE /api-keys/{key_id}": [Case()],
    "POST /query": [Case(body={"query": "what does ada know?", "thread_id": "{thread_id}"})],
}
LAST = ("PUT /store/items",)
"""After these Bob has items himself."""


def test_every_route_has_a_case() -> None:
    """Issue: no endpoint is left out, a new one neither."""
    wanted = {f"{one.method} {one.path}" for one in TABLE if one.event != "public"}

    assert wanted == CASES.keys()


async def test_rows_of_another_user_are_not_found_and_not_changed(world: World, database: str) -> None:
    """Issue: every route x a foreign id in path, query and body: 404 or nothing at all, and nothing changed."""
    assert await _leaks(world, database) == []


@pytest.mark.parametrize("world", ["api_key"], indirect=True)
async def test_row_level_security_holds_without_any_filter(
    world: World, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue: row-level security hides the rows if a statement lacks its filter."""
    assert (await world.bob.get("/info")).json()["row_level_security"] is True
    monkeypatch.setattr(Filters, "jsonb", property(lambda _: Jsonb({})))

    assert await _leaks(world, database) == []


@pytest.mark.parametrize("world", ["api_key"], indirect=True)
async def test_filters_hold_without_row_level_security(
    world: World, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: where the database's role allows no row-level security, everything stays whose it is all the same."""
    monkeypatch.setattr(TenantPool, "row_security", property(lambda _: False, lambda *_: None))

    assert await _leaks(world, database) == []


async def _leaks(world: World, database: str) -> list[object]:
    """What Bob learns or changes by all the cases."""
    leaks: list[object] = []
    before = await _rows(database)
    for route in sorted(CASES, key=lambda each: each in LAST):
        method, path = route.split(" ")
        for case in CASES[route]:
            told = await _asked(world, method, path, case)
            if told is not None:
                leaks.append((route, case, told))
            now = await _rows(database)
            if lost := before - now:
                leaks.append((route, case, "changed", [row[:300] for row in lost]))
            if grown := [row for row in now - before if _is_of(world, row)]:
                leaks.append((route, case, "grown", [row[:300] for row in grown]))
            before = (before & now) | set(grown)
    return leaks


def _filled(template: Any, ids: Mapping[str, str]) -> Any:
    text = json.dumps(template)
    for name, value in ids.items():
        text = text.replace("{" + name + "}", value)
    return json.loads(text)


async def _asked(world: World, method: str, path: str, case: Case) -> object:
    """The fault of the answer. None: there is none."""
    asked = _filled(_path(path, case), world.ids)
    body, query = _filled(case.body, world.ids), _filled(dict(case.query), world.ids)
    content = {"json": body} if body is not None else {}
    if path == "/events":  # it has no end
        async with world.bob.stream(method, asked) as stream:
            first = await anext(stream.aiter_text())
        return None if first.startswith("event: gap") else first
    try:
        answer = await world.bob.request(method, asked, params=query, **content)
    except httpx.ReadTimeout:
        return "it goes on and on"
    if answer.status_code != (case.status or answer.status_code):
        return answer.status_code, answer.text[:300]
    if SECRET in answer.text or (answer.status_code >= 400 and not answer.json().get("detail", "x")):
        return answer.text[:300]
    if case.answer is not ... and answer.json() != case.answer:
        return answer.text[:300]
    return None


def _path(path: str, case: Case) -> str:
    """The case's own; of a run, with what stands behind the thread in the route."""
    if case.path is None:
        return path
    if path.startswith("/threads/{thread_id}/runs") and case.path.count("/") == 2:
        return case.path + path.removeprefix("/threads/{thread_id}")
    return case.path


async def _rows(database: str) -> set[str]:
    """Every row of every tenant's table, as text."""
    async with await psycopg.AsyncConnection.connect(database) as conn:
        found: set[str] = set()
        for table in TENANT_TABLES:
            cursor = await conn.execute(
                psycopg.sql.SQL("SELECT {name} || row(t.*)::text FROM {table} AS t").format(
                    name=psycopg.sql.Literal(table), table=psycopg.sql.Identifier(table)
                )
            )
            found |= {row[0] for row in await cursor.fetchall() if not _is_bobs(row[0])}
        return found


def _is_bobs(row: str) -> bool:
    """A row that says that it is Bob's: his runs go on while the walk does."""
    return '""owner"": ""bob""' in row


def _is_of(world: World, row: str) -> bool:
    """A row on something of Ada's."""
    hers = {world.ids[name] for name in ("thread_id", "waiting_id", "assistant_id", "cron_id")}
    return any(each in row for each in hers) or SECRET in row
