"""An operation asks for each resource that it touches, whichever route or socket it comes by, and whoever calls."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import pytest

import seen
from auth.conftest import MakeKey
from auth.route_cases import (
    CASES,
    COMMANDS,
    DELETE_THREADS,
    ROUTES,
    SOCKET,
    SOCKET_CASES,
    create_rows,
    documented_permissions,
    events_of,
    names_of,
    status_of,
)
from conftest import WAIT_S, key_maker, serving
from threadkeep.api.protocol_v2.commands import METHODS
from threadkeep.api.routes import SOCKETS
from threadkeep.auth.scopes import ALL_EVENTS, SCOPES
from threadkeep.project import Auth, GraphTarget, Project
from threadkeep.settings import Settings

# psycopg's generator of a pipeline's end is collected if an endless stream is left during a statement.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <generator object BasePipeline._exit_gen:pytest.PytestUnraisableExceptionWarning"
)

WALKED: Final = [*CASES, *SOCKET_CASES]
SHARES: Final = 12
"""Parts of the walk."""
SECRET: Final = "a secret of more than thirty-two bytes, shared"
CUSTOM: Final = """
from langgraph_sdk import Auth

import seen

auth = Auth()


@auth.authenticate
async def authenticate(headers):
    return headers[b"x-api-key"].decode()

"""
RECORD: Final = """
@auth.on
async def record(ctx, value):
    seen.CALLS.append((f"{ctx.resource}.{ctx.action}", value))
"""
DENY: Final = """
@auth.on.{resource}
async def deny(ctx, value):
    return ctx.user.identity == "ada"
"""
OWN: Final = """
@auth.on.{resource}
async def own(ctx, value):
    value.setdefault("metadata", {{}})["owner"] = ctx.user.identity
    return {{"owner": ctx.user.identity}}
"""
HIDDEN: Final = {"assistants": {"assistant_id"}, "threads": {"thread_id"}, "crons": {"cron_id"}}
RESOURCES: Final = sorted({event.split(".")[0] for event in ALL_EVENTS})


@pytest.fixture(scope="module")
async def keyed_url(module_settings: Settings) -> AsyncIterator[str]:
    """The URL of a server that asks for API keys: one for the file, because its tests make their own rows."""
    async with serving(module_settings.model_copy(update={"auth_type": "api_key"})) as url:
        yield url


@pytest.fixture
def make_key(module_settings: Settings) -> MakeKey:
    """Makes the key of an identity."""
    return key_maker(str(module_settings.database_uri))


@pytest.fixture(scope="module")
async def token_url(module_settings: Settings) -> AsyncIterator[str]:
    """The URL of a server that asks for tokens: one for the file."""
    changes = {"auth_type": "jwt", "jwt_issuer": "https://i.example", "jwt_audience": "us", "jwt_secret": SECRET}
    async with serving(Settings(**{**module_settings.model_dump(), **changes})) as url:
        yield url


def test_every_route_and_command_is_walked() -> None:
    """Ours: a new line of the table of routes, or a new command, can't be forgotten here."""
    assert CASES.keys() == ROUTES.keys()
    assert [socket.path for socket in SOCKETS] == [SOCKET]
    assert METHODS.keys() | {"subscription.subscribe", "subscription.unsubscribe", "subscription.reconnect"} == (
        COMMANDS.keys()
    )


def test_the_guide_lists_what_every_route_needs() -> None:
    """Issue 15: one documented table. The rows that a route should have are in the message."""
    guide = Path("docs/how-to/authentication.md").read_text()
    rows = [line for line in guide.splitlines() if line.startswith(("| `GET ", "| `P", "| `DELETE ", "| command "))]

    assert rows == [f"| {request} | {needed} |" for request, needed in sorted(documented_permissions().items())]


@pytest.mark.parametrize("scope", sorted(SCOPES))
async def test_a_key_of_one_scope_does_what_this_scope_grants_and_no_more(
    keyed_url: str, ada: httpx.AsyncClient, make_key: MakeKey, scope: str
) -> None:
    """Issue 15: API keys with each single scope, on every route and every command of the socket."""
    ids = await create_rows(ada)
    async with _client(keyed_url, {"x-api-key": await make_key("ada", scope)}) as http:
        statuses = {route: await status_of(http, route, ids) for route in WALKED}

    _assert_granted(statuses, scope)


@pytest.mark.parametrize("scope", sorted(SCOPES))
async def test_a_token_of_one_scope_does_what_this_scope_grants_and_no_more(token_url: str, scope: str) -> None:
    """Issue 15: JWT scopes limited nothing."""
    async with _client(token_url, _token()) as owner, _client(token_url, _token(scope=scope)) as http:
        ids = await create_rows(owner)
        statuses = {route: await status_of(http, route, ids) for route in _share(scope)}

    _assert_granted(statuses, scope)


def _share(scope: str) -> list[str]:
    """A third of all routes, another one for the next scope. Keys walk them all, and both ask the same table."""
    return WALKED[sorted(SCOPES).index(scope) % 3 :: 3]


def _assert_granted(statuses: dict[str, int], scope: str) -> None:
    granted = {event for event in ALL_EVENTS if scope in {event, f"{event.split('.')[0]}.*"}}
    assert {route for route, status in statuses.items() if status != 403} == {
        route for route in statuses if granted.issuperset(events_of(route))
    }
    assert {route: status for route, status in statuses.items() if status >= 500} == {}


@pytest.mark.parametrize("share", range(SHARES))
async def test_each_permission_is_needed_and_all_of_them_are_enough(
    keyed_url: str, ada: httpx.AsyncClient, make_key: MakeKey, share: int
) -> None:
    """Issue 15: 403 with all scopes but one."""
    wrong: dict[str, tuple[dict[str, int], int]] = {}
    for route in WALKED[share::SHARES]:
        ids, events = await create_rows(ada, names_of(route)), events_of(route)
        refused: dict[str, int] = {}
        for event in events:
            async with _client(keyed_url, {"x-api-key": await make_key("ada", *sorted(ALL_EVENTS - {event}))}) as http:
                refused[event] = await status_of(http, route, ids)
        async with _client(keyed_url, {"x-api-key": await make_key("ada", *events)}) as http:
            allowed = await status_of(http, route, ids)
        if refused != dict.fromkeys(events, 403) or not _is_answered(route, allowed):
            wrong[route] = (refused, allowed)

    assert wrong == {}


def _is_answered(route: str, status: int) -> bool:
    """Whether the caller was let in, and there was something to answer."""
    return status < 500 and (status not in {401, 403, 404, 405, 422} or _may_be_gone(route, status))


def _may_be_gone(route: str, status: int) -> bool:
    """The run has ended, the test graphs have no subgraph, there is no such key, and there is nothing to answer."""
    return (status == 404 and route.endswith(("cancel", "{namespace}", "{key_id}"))) or route == "WS input.respond"


async def test_a_projects_own_auth_is_asked_for_the_same_events(settings: Settings, tmp_path: Path) -> None:
    """Issue 15: one table for keys, tokens and custom `Auth`. Each event is asked for once."""
    asked: dict[str, list[str]] = {}
    async with _custom(settings, tmp_path, RECORD) as url, _client(url, {"x-api-key": "ada"}) as http:
        for route in WALKED:
            ids = await create_rows(http, names_of(route))
            seen.CALLS.clear()
            await status_of(http, route, ids)
            asked[route] = sorted(event for event, _ in seen.CALLS)

    assert asked == {route: sorted(events_of(route)) for route in WALKED}


@pytest.mark.parametrize("resource", RESOURCES)
async def test_handlers_of_one_resource_refuse_every_route_that_touches_it(
    settings: Settings, tmp_path: Path, resource: str
) -> None:
    """Issue 15: custom `Auth` with handlers for one resource only."""
    async with (
        _custom(settings, tmp_path, DENY.format(resource=resource)) as url,
        _client(url, {"x-api-key": "ada"}) as owner,
        _client(url, {"x-api-key": "bob"}) as http,
    ):
        ids = await create_rows(owner)
        statuses = {route: await status_of(http, route, ids) for route in WALKED}

    assert {route for route, status in statuses.items() if status == 403} == {
        route for route in WALKED if any(event.startswith(f"{resource}.") for event in events_of(route))
    }


@pytest.mark.parametrize("resource", HIDDEN)
async def test_rows_that_a_handler_of_one_resource_hides_are_not_changed_by_any_route(
    settings: Settings, tmp_path: Path, resource: str
) -> None:
    """Issue 15: a cron on a stranger's thread, the threads of a deleted assistant, a run of a private assistant.

    The crons of a thread go with it, so they are changed by all that may delete the thread.
    """
    async with (
        _custom(settings, tmp_path, OWN.format(resource=resource)) as url,
        _client(url, {"x-api-key": "ada"}) as owner,
        _client(url, {"x-api-key": "bob"}) as http,
    ):
        changed: list[str] = []
        for route in WALKED:
            ids = await create_rows(owner, names_of(route) | HIDDEN[resource])
            before = await _rows(owner, resource, ids)
            await status_of(http, route, ids)
            if await _rows(owner, resource, ids) != before and not (resource == "crons" and route in DELETE_THREADS):
                changed.append(route)

    assert changed == []


async def _rows(http: httpx.AsyncClient, resource: str, ids: dict[str, str]) -> list[Any]:
    """What there is of a resource, as its owner sees it."""
    paths = {
        "assistants": ["/assistants/{assistant_id}"],
        "threads": ["/threads/{thread_id}", "/threads/{thread_id}/runs", "/threads/{thread_id}/history"],
        "crons": ["/runs/crons/{cron_id}"],
    }
    answers = [await http.get(path.format(**ids)) for path in paths[resource]]
    return [(answer.status_code, answer.json()) for answer in answers]


async def test_a_run_of_a_graphs_own_assistant_needs_one_permission(keyed_url: str, make_key: MakeKey) -> None:
    """Ours: a key for runs alone stays enough for a client that names a graph."""
    async with _client(keyed_url, {"x-api-key": await make_key("ada", "threads.create_run")}) as http:
        answer = await http.post("/runs/wait", json={"assistant_id": "chain", "input": {"items": []}})

    assert (answer.status_code, answer.json()) == (200, {"items": ["first", "second"]})


@pytest.mark.parametrize("path", ["/runs", "/runs/wait", "/runs/stream", "/runs/crons", "/query"])
async def test_a_thread_that_stays_is_made_with_its_own_permission(
    keyed_url: str, make_key: MakeKey, path: str
) -> None:
    """Issue 15: `threads.create_run` alone made threads, by runs that keep theirs."""
    key = await make_key("ada", "threads.create_run", "crons.create")
    body = {"assistant_id": "chain", "input": {"items": []}, "on_completion": "keep"}
    cron = {"schedule": "0 0 1 1 *", "on_run_completed": "keep"}
    async with _client(keyed_url, {"x-api-key": key}) as http:
        answer = await http.post(path, json=body | cron | {"query": "hello"})

    assert (answer.status_code, answer.json()["detail"]) == (403, "the key's scopes do not include threads.create")


def _client(url: str, headers: dict[str, str]) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=WAIT_S * 4, headers=headers)


def _token(**claims: Any) -> dict[str, str]:
    said = {"iss": "https://i.example", "aud": "us", "sub": "ada", "exp": time.time() + 600}
    return {"authorization": f"Bearer {jwt.encode(said | claims, SECRET, 'HS256')}"}


@asynccontextmanager
async def _custom(settings: Settings, folder: Path, handler: str) -> AsyncIterator[str]:
    """A server with an `Auth` of a project, whose callers show their names."""
    (folder / "auth.py").write_text(CUSTOM + handler)
    project = Project(root=folder, graphs={"chain": GraphTarget(path="x:y")}, auth=Auth(path="./auth.py:auth"))
    async with serving(settings, project=project) as url:
        yield url
