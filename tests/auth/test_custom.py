"""A project's own `langgraph_sdk.Auth`: the arguments of its functions, the effect of their results, and their failures."""

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import seen
from auth.route_cases import CASES, events_of, filled
from conftest import WAIT_S, serving
from threadkeep.api.operation import Operation
from threadkeep.api.routes import TABLE
from threadkeep.auth import custom
from threadkeep.auth.custom_values import InvalidAuthResult, parse_filters, parse_principal
from threadkeep.base.problems import StartupError, Unauthenticated
from threadkeep.project import Project
from threadkeep.settings import Settings

HEAD = """
from langgraph_sdk import Auth
import copy
import seen

auth = Auth()
"""
BY_NAME = """
@auth.authenticate
async def authenticate(authorization):
    if not authorization:
        raise Auth.exceptions.HTTPException(401, "who are you?", headers={"WWW-Authenticate": "Test realm=x", "x-more": "1"})
    return {"identity": authorization.removeprefix("Bearer "), "permissions": ["read"], "team": "blue"}
"""
RECORDING = """
@auth.on
async def record(ctx, value):
    seen.CALLS.append((f"{ctx.resource}.{ctx.action}", copy.copy(value)))
"""
OWNING = """
@auth.on
async def own(ctx, value):
    value.setdefault("metadata", {})["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}

@auth.on.store
async def scope(ctx, value):
    namespace = tuple(value["namespace"]) if value.get("namespace") else ()
    if not namespace or namespace[0] != ctx.user.identity:
        namespace = (ctx.user.identity, *namespace)
    value["namespace"] = namespace
"""


@pytest.fixture(autouse=True)
def _forget() -> None:
    seen.CALLS.clear()
    seen.GIVEN.clear()


def project(folder: Path, *parts: str, **more: Any) -> Project:
    """A project whose auth file is made of `parts`."""
    (folder / "door.py").write_text(HEAD + "".join(parts))
    given = {"graphs": {"chain": "./none.py:graph"}, "auth": {"path": "./door.py:auth"}} | more
    return Project.model_validate({"root": folder, **given})


@asynccontextmanager
async def guarded(settings: Settings, folder: Path, *parts: str, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Ada, at a server with that auth file."""
    async with (
        serving(settings, project=project(folder, *parts, **more)) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers={"authorization": "Bearer ada"}) as http,
    ):
        yield http


BOB = {"authorization": "Bearer bob"}
ID = "00000000-0000-4000-8000-000000000000"
IDS = dict.fromkeys(("thread_id", "run_id", "cron_id", "checkpoint_id", "namespace"), ID) | {
    "model": "chain",
    "response_id": f"resp_{UUID(ID).hex}",
    "conversation_id": f"conv_{UUID(ID).hex}",
    "item_id": "msg_1",
    "chat_thread_id": ID,
}
RUN = {"assistant_id": "chain", "input": {}}
ITEM = {"namespace": ["n"], "key": "k", "value": {}}


def name(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


GUARDED = [operation for operation in TABLE if operation.event not in {"public", "caller"}]


async def test_each_event_fires_for_each_of_its_routes(settings: Settings, tmp_path: Path) -> None:
    """Issue: handlers run for every route that touches the resource; protocol: the value has the ids of the path."""
    fired: dict[str, list[str]] = {}
    async with guarded(settings, tmp_path, BY_NAME, RECORDING) as http:
        ids = IDS | {"assistant_id": (await http.get("/assistants/chain")).json()["assistant_id"]}
        for operation in GUARDED:
            seen.CALLS.clear()
            case, path = CASES[name(operation)], operation.path.format(**ids)
            body, query = filled(case.body, ids), dict(case.query)
            async with http.stream(operation.method, path, json=body, params=query) as answer:
                assert answer.status_code not in {401, 403, 500}, (name(operation), await answer.aread())
            fired[name(operation)] = [event for event, _ in seen.CALLS][:1]
            [(_, value), *_] = seen.CALLS
            for kind in ("thread_id", "run_id", "cron_id"):
                if f"{{{kind}}}" in operation.path:
                    assert value[kind] == UUID(ID), name(operation)

    assert fired == {name(operation): events_of(name(operation))[:1] for operation in GUARDED}


async def test_authenticate_gets_what_it_asks_for_by_name(settings: Settings, tmp_path: Path) -> None:
    """Protocol: LangGraph's names; the body is still there for the endpoint."""
    asks = """
@auth.authenticate
async def authenticate(request, body, path, method, path_params, query_params, headers, authorization, scopes, user, scope):
    seen.GIVEN.append({
        "body": body, "path": path, "method": method, "path_params": path_params, "query_params": query_params,
        "header": headers.get(b"x-own"), "by text": headers["X-Own"], "authorization": authorization,
        "scopes": scopes, "user": user, "same": request.url.path == scope["path"], "again": await request.json(),
    })
    return "ada"
"""
    thread_id = str(uuid4())
    async with guarded(settings, tmp_path, asks) as http:
        body = {"thread_id": thread_id, "metadata": {"a": 1}}
        made = await http.post("/threads", json=body, params={"q": "1"}, headers={"x-own": "o"})

    assert made.json()["metadata"] == {"a": 1}
    [given] = seen.GIVEN
    assert given == (
        {
            "body": body,
            "path": "/threads",
            "method": "POST",
            "path_params": {},
            "query_params": {"q": "1"},
            "header": b"o",
            "by text": b"o",
            "authorization": "Bearer ada",
            "scopes": [],
            "user": None,
            "same": True,
            "again": body,
        }
    )


async def test_body_that_authenticate_reads_is_bounded_too(settings: Settings, tmp_path: Path) -> None:
    """Promise: 413, counted while reading, also before anybody is known."""
    asks = "\n@auth.authenticate\nasync def authenticate(body):\n    return 'ada'\n"
    small = settings.model_copy(update={"max_body_bytes": 1024})
    async with guarded(small, tmp_path, asks) as http:
        assert (await http.post("/threads", content=b" " * 2000)).status_code == 413


async def test_a_refusal_has_the_text_of_the_project(settings: Settings, tmp_path: Path) -> None:
    """Protocol: 401 with its headers (the reference drops them)."""
    async with guarded(settings, tmp_path, BY_NAME) as http:
        answer = await http.post("/threads", json={}, headers={"authorization": ""})

    assert (answer.status_code, answer.json()) == (401, {"detail": "who are you?", "code": "unauthenticated"})
    assert (answer.headers["www-authenticate"], answer.headers["x-more"]) == ("Test realm=x", "1")


FAULTS = {
    "raises": "raise RuntimeError('the secret is 42')",
    "exits": "raise SystemExit(1)",
    "returns nothing": "return None",
    "returns a number": "return 7",
    "returns no identity": "return {'permissions': []}",
    "returns an empty identity": "return ''",
    "returns permissions that are none": "return {'identity': 'ada', 'permissions': 'all'}",
}


@pytest.mark.parametrize("code", FAULTS.values(), ids=FAULTS)
async def test_authenticate_that_fails_opens_nothing(settings: Settings, tmp_path: Path, code: str) -> None:
    """Issue: it fails closed, and shows no details."""
    door = f"\n@auth.authenticate\nasync def authenticate(authorization):\n    {code}\n"
    async with guarded(settings, tmp_path, door) as http:
        answer = await http.post("/threads", json={})

    assert answer.status_code == 500
    assert "the secret is" not in answer.text


async def test_user_that_says_it_is_not_authenticated_is_nobody(settings: Settings, tmp_path: Path) -> None:
    """Ours: `is_authenticated` is heeded."""
    door = "\n@auth.authenticate\ndef authenticate():\n    return {'identity': 'ada', 'is_authenticated': False}\n"
    async with guarded(settings, tmp_path, door) as http:
        assert (await http.post("/threads", json={})).status_code == 401


async def test_handlers_that_fail_or_refuse_do_nothing(settings: Settings, tmp_path: Path) -> None:
    """Protocol: False is 403 `Forbidden`, an HTTPException is told; ours: anything else is 500, never an entrance."""
    handlers = """
@auth.on.threads.create
async def create(ctx, value):
    return False

@auth.on.threads.search
async def search(ctx, value):
    raise Auth.exceptions.HTTPException(403, "not on a Sunday")

@auth.on.assistants.search
async def broken(ctx, value):
    raise KeyError("secret")

@auth.on.crons.search
async def unknown(ctx, value):
    return {"$or": [{"a": "b"}]}

@auth.on.assistants.create
async def odd(ctx, value):
    return {"owner": {"$ne": "ada"}}
"""
    async with guarded(settings, tmp_path, BY_NAME, handlers) as http:
        answers = [
            await http.post("/threads", json={}),
            await http.post("/threads/search", json={}),
            await http.post("/assistants/search", json={}),
            await http.post("/runs/crons/search", json={}),
            await http.post("/assistants", json={"graph_id": "chain"}),
        ]

    assert [answer.status_code for answer in answers] == [403, 403, 500, 500, 500]
    assert [answer.json()["detail"] for answer in answers[:2]] == ["Forbidden", "not on a Sunday"]
    assert "secret" not in answers[2].text


async def test_most_specific_handler_wins(settings: Settings, tmp_path: Path) -> None:
    """Protocol: the resource's action, the resource, the action of any, then the one for all."""
    handlers = """
def says(name):
    async def handler(ctx, value):
        seen.CALLS.append((name, {}))
    return handler

auth.on(says("all"))
auth.on(actions="search")(says("any search"))
auth.on.threads(says("threads"))
auth.on.threads.create(says("threads.create"))
"""
    async with guarded(settings, tmp_path, BY_NAME, handlers) as http:
        await http.post("/threads", json={})
        await http.post("/threads/count", json={})
        await http.post("/assistants/count", json={})
        await http.get("/store/items?namespace=n&key=k")

    assert [called for called, _ in seen.CALLS] == ["threads.create", "threads", "any search", "all"]


async def test_what_a_handler_writes_is_what_is_done(settings: Settings, tmp_path: Path) -> None:
    """Protocol: `value` may be changed: metadata, the namespace of an item, what a run gets."""
    handlers = """
@auth.on.threads.create
async def create(ctx, value):
    value["metadata"] = {**value["metadata"], "by": ctx.user.identity, "team": ctx.user.team, "may": ctx.permissions}

@auth.on.threads.create_run
async def run(ctx, value):
    value["metadata"]["by"] = ctx.user["identity"]
    value["kwargs"]["input"] = {"items": ["written"]}

@auth.on.store
async def scope(ctx, value):
    value["namespace"] = (ctx.user.identity, *value["namespace"])
"""
    async with guarded(settings, tmp_path, BY_NAME, handlers) as http:
        thread = (await http.post("/threads", json={"metadata": {"a": 1}})).json()
        run = (await http.post(f"/threads/{thread['thread_id']}/runs", json=RUN)).json()
        page = {"threadId": "page", "runId": "one", "messages": [], "state": {"items": ["sent"]}}
        events = (await http.post("/ag-ui/chain", json=page)).text
        sent = {"messageId": "one", "role": "ROLE_USER", "parts": [{"data": {"items": ["sent"]}}]}
        rpc = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": sent}}
        task = (await http.post("/a2a/chain", json=rpc)).json()["result"]["task"]
        await http.put("/store/items", json=ITEM)
        item = (await http.get("/store/items?namespace=n&key=k")).json()
        listed = (await http.post("/store/namespaces", json={})).json()
        found = (await http.post("/store/items/search", json={}, headers=BOB)).json()

    assert thread["metadata"] == {"a": 1, "by": "ada", "team": "blue", "may": ["read"]}
    assert (run["metadata"]["by"], run["kwargs"]["input"]) == ("ada", {"items": ["written"]})
    assert task["artifacts"][0]["parts"] == [{"data": {"items": ["written", "first", "second"]}}]
    assert '"written"' in events
    assert '"sent"' not in events
    assert item["namespace"] == ["ada", "n"]
    assert listed == {"namespaces": [["ada", "n"]]}
    assert found == {"items": []}


async def test_namespace_with_a_period_would_be_two_and_is_refused(settings: Settings, tmp_path: Path) -> None:
    """Ours: `ada@x` with `com` and `ada@x.com` would share their items."""
    async with guarded(settings, tmp_path, BY_NAME, OWNING) as http:
        answer = await http.put("/store/items", json=ITEM, headers={"authorization": "Bearer ada@x.com"})

    assert answer.status_code == 422


async def test_documented_handler_keeps_users_apart(settings: Settings, tmp_path: Path) -> None:
    """Issue: filters in every statement; a filter that does not fit reads as 404."""
    async with guarded(settings, tmp_path, BY_NAME, OWNING) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        await http.post(f"/threads/{thread_id}/runs/wait", json=RUN)
        foreign = [
            await http.get(f"/threads/{thread_id}", headers=BOB),
            await http.post(f"/threads/{thread_id}/runs/wait", json=RUN, headers=BOB),
            await http.post(f"/threads/{thread_id}/copy", headers=BOB),
            await http.post("/threads", json={"thread_id": thread_id, "if_exists": "do_nothing"}, headers=BOB),
        ]
        own = (await http.post(f"/threads/{thread_id}/copy")).json()

    assert [answer.status_code for answer in foreign] == [404, 404, 404, 409]
    assert own["metadata"]["owner"] == "ada"


async def test_what_a_handler_writes_for_every_event_hides_no_history(settings: Settings, tmp_path: Path) -> None:
    """Ours: the `metadata` of a history's body are those of checkpoints, not of a row."""
    async with guarded(settings, tmp_path, BY_NAME, OWNING) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        await http.post(f"/threads/{thread_id}/runs/wait", json=RUN)
        await http.post(f"/threads/{thread_id}/state", json={"values": {"items": ["by hand"]}})
        history = (await http.post(f"/threads/{thread_id}/history", json={"limit": 100})).json()
        versions = (await http.post("/assistants", json={"graph_id": "chain"})).json()
        listed = (await http.post(f"/assistants/{versions['assistant_id']}/versions", json={})).json()

    assert history[0]["values"]["items"][-1] == "by hand"
    assert [one["version"] for one in listed] == [1]


async def test_a_thread_that_may_only_be_made_is_not_read_by_the_way(settings: Settings, tmp_path: Path) -> None:
    """Ours: copying reads, and so does `if_exists: do_nothing`; the handler of `create` says nothing of that."""
    handlers = """
@auth.on.threads.create
async def create(ctx, value):
    value["metadata"]["owner"] = ctx.user.identity

@auth.on.threads.read
async def read(ctx, value):
    return {"owner": ctx.user.identity}
"""
    async with guarded(settings, tmp_path, BY_NAME, handlers) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        again = {"thread_id": thread_id, "if_exists": "do_nothing"}
        foreign = [
            await http.post(f"/threads/{thread_id}/copy", headers=BOB),
            await http.post("/threads", json=again, headers=BOB),
        ]
        own = [await http.post(f"/threads/{thread_id}/copy"), await http.post("/threads", json=again)]

    assert [answer.status_code for answer in foreign] == [404, 409]
    assert [answer.json()["metadata"] for answer in own] == [{"owner": "ada"}, {"owner": "ada"}]


async def test_stateless_run_of_a_filter_that_nobody_writes_is_answered(settings: Settings, tmp_path: Path) -> None:
    """Protocol, and better: the reference answers 200 with a body that ends too soon."""
    only_filter = """
@auth.on.threads.create_run
async def run(ctx, value):
    return {"owner": ctx.user.identity}
"""
    async with guarded(settings, tmp_path, BY_NAME, only_filter) as http:
        waited = await http.post("/runs/wait", json=RUN | {"on_completion": "keep"})
        queued = await http.post("/runs", json=RUN)

    assert (waited.status_code, queued.status_code) == (200, 200)
    assert "__error__" not in waited.json()


async def test_contains_lets_members_in(settings: Settings, tmp_path: Path) -> None:
    """Protocol: `$contains`, of one and of several."""
    members = """
@auth.on.threads
async def members(ctx, value):
    return {"members": {"$contains": ctx.user.identity}}
"""
    async with guarded(settings, tmp_path, BY_NAME, members) as http:
        both = (await http.post("/threads", json={"metadata": {"members": ["ada", "bob"]}})).json()
        mine = (await http.post("/threads", json={"metadata": {"members": ["ada"]}})).json()
        codes = [(await http.get(f"/threads/{one['thread_id']}", headers=BOB)).status_code for one in (both, mine)]
        patched = (await http.patch(f"/threads/{both['thread_id']}", json={"metadata": {"x": 1}})).json()

    assert codes == [200, 404]
    assert patched["metadata"] == {"members": ["ada", "bob"], "x": 1}


@pytest.mark.parametrize(
    ("returned", "match"),
    [
        (None, {}),
        (True, {}),
        ({"owner": "ada"}, {"owner": "ada"}),
        ({"owner": {"$eq": "ada"}}, {"owner": "ada"}),
        ({"m": {"$contains": "ada"}}, {"m": ["ada"]}),
        ({"m": {"$contains": ["ada", "bob"]}, "o": "x"}, {"m": ["ada", "bob"], "o": "x"}),
    ],
)
def test_filter_of(returned: Any, match: dict[str, Any]) -> None:
    """Protocol: `Auth.types.FilterType`."""
    assert parse_filters(returned).metadata_filter == match


@pytest.mark.parametrize(
    "returned",
    ["ada", 1, ["owner"], {"$or": []}, {"o": {"$in": ["a"]}}, {"o": {"a": 1}}, {"o": ["a"]}, {"o": {}}, {1: "a"}],
    ids=str,
)
def test_filter_that_is_not_understood_is_no_filter(returned: Any) -> None:
    """Ours: an unknown result refuses the request."""
    with pytest.raises(InvalidAuthResult):
        parse_filters(copy.deepcopy(returned))


def test_user_may_be_an_object() -> None:
    """Protocol: an object with an identity and permissions."""

    class Person:
        identity = "ada"
        permissions = ("read",)

        def __init__(self) -> None:
            self.team = "blue"
            self._secret = "x"

    found = parse_principal(Person())

    assert (found.identity, found.permissions) == ("ada", ("read",))
    assert found.user == {
        "team": "blue",
        "identity": "ada",
        "display_name": "ada",
        "is_authenticated": True,
        "permissions": ["read"],
    }
    with pytest.raises(Unauthenticated):
        parse_principal({"identity": "ada", "is_authenticated": False})


@pytest.mark.parametrize("identity", [7, UUID(int=7)])
def test_identity_may_be_the_key_of_a_row(identity: Any) -> None:
    """Ours: databases number their users, and the reference takes any identity."""
    found = parse_principal({"identity": identity, "role": "x"})

    assert found.identity == str(identity)
    assert found.user is not None
    assert found.user["identity"] == str(identity)


@pytest.mark.parametrize(
    "returned",
    [
        "['read'], 'ada'",
        "('read',), {'identity': 'ada'}",
        "AuthCredentials(['read']), SimpleUser('ada')",
        "['read'], Person(identity='ada')",
        "{'identity': 'ada', 'permissions': ['read']}",
    ],
)
async def test_authenticate_may_return_its_scopes_and_the_user(
    settings: Settings, tmp_path: Path, returned: str
) -> None:
    """Protocol: what older projects return, Starlette's own types included."""
    code = f"""
from dataclasses import dataclass
from starlette.authentication import AuthCredentials, SimpleUser

@dataclass
class Person:
    identity: str

@auth.authenticate
async def authenticate(authorization):
    return {returned}

@auth.on.threads
async def record(ctx, value):
    seen.CALLS.append((ctx.user.identity, ctx.permissions))
"""
    async with guarded(settings, tmp_path, code) as http:
        answer = await http.post("/threads", json={})

    assert (answer.status_code, seen.CALLS) == (200, [("ada", ["read"])])


@pytest.mark.parametrize("returned", [(), ("ada",), (["read"], "ada", 1), ("read", "ada"), (["read"], None)])
def test_other_tuples_are_not_authenticated(returned: object) -> None:
    """Ours: a text is no list of scopes."""
    with pytest.raises(InvalidAuthResult):
        parse_principal(returned)


BROKEN = {
    "is no Python": "def (",
    "raises": "raise RuntimeError('no')",
    "is no Auth": "auth = object()",
    "has no authenticate": "",
    "asks for what there is not": "\n@auth.authenticate\nasync def authenticate(password): return 'ada'\n",
    "guards what is never asked": BY_NAME + "\n@auth.on(resources='thread')\nasync def on(ctx, value): return False\n",
}


@pytest.mark.parametrize("code", BROKEN.values(), ids=BROKEN)
def test_auth_file_that(tmp_path: Path, code: str) -> None:
    """Issue: a broken auth file stops the start."""
    with pytest.raises(StartupError, match=r"auth.path: ./door.py:auth"):
        custom.load_custom_authenticator(project(tmp_path, code), 5)


@pytest.mark.parametrize("arguments", ["authorization", "authorization, body", "authorization, request"])
async def test_own_routes_use_the_same_authentication(settings: Settings, tmp_path: Path, arguments: str) -> None:
    """Protocol: `http.enable_custom_route_auth`. A route reads its body even if `authenticate` has read it."""
    door = BY_NAME.replace("(authorization)", f"({arguments})", 1)
    (tmp_path / "web.py").write_text(
        "from starlette.applications import Starlette\n"
        "from starlette.responses import PlainTextResponse\n"
        "from starlette.routing import Mount, Route, WebSocketRoute\n"
        "async def hello(request):\n"
        "    return PlainTextResponse(f'hello {request.user.identity} {(await request.body()).decode()}')\n"
        "async def socket(websocket):\n"
        "    await websocket.accept()\n"
        "    await websocket.send_text(websocket.user.identity)\n"
        "    await websocket.close()\n"
        "inner = Mount('/inner', routes=[Route('/hello', hello)])\n"
        "app = Starlette(routes=[Route('/hello', hello, methods=['POST']), inner, WebSocketRoute('/socket', socket)])\n"
    )
    http_key = {"app": "./web.py:app", "enable_custom_route_auth": True}
    async with guarded(settings, tmp_path, door, http=http_key) as http:
        known = await http.post("/hello", content=b"you")
        unknown = await http.post("/hello", headers={"authorization": ""})
        inner = await http.get("/inner/hello", headers={"authorization": ""})
        ours = await http.get("/ok", headers={"authorization": ""})
        threads = await http.post("/threads", json={})
        address = str(http.base_url).replace("http:", "ws:").rstrip("/") + "/socket"
        async with connect(address, additional_headers={"authorization": "Bearer ada"}) as websocket:
            told = await websocket.recv()
        with pytest.raises(InvalidStatus) as closed:
            await connect(address)

    assert (told, closed.value.response.status_code) == ("ada", 403)
    assert known.text == "hello ada you"
    assert (unknown.status_code, unknown.json()["detail"], inner.status_code) == (401, "who are you?", 401)
    assert (ours.status_code, threads.status_code) == (200, 200)


async def test_preflight_and_spec_need_no_authentication(settings: Settings, tmp_path: Path) -> None:
    """Protocol: a browser's preflight has no token; the spec says how to bring one."""
    says = {"path": "./door.py:auth", "openapi": {"securitySchemes": {"mine": {"type": "http", "scheme": "bearer"}}}}
    async with guarded(settings, tmp_path, BY_NAME, auth=says) as http:
        preflight = await http.options(
            "/threads",
            headers={
                "authorization": "",
                "origin": "http://localhost:3000",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization",
            },
        )
        spec = (await http.get("/openapi.json", headers={"authorization": ""})).json()

    assert preflight.status_code == 200
    assert spec["components"]["securitySchemes"] == {"mine": {"type": "http", "scheme": "bearer"}}
    assert spec["paths"]["/threads"]["post"]["security"] == [{"mine": []}]
    assert "401" in spec["paths"]["/threads"]["post"]["responses"]
    assert "security" not in spec["paths"]["/ok"]["get"]
