"""No web page uses a server that its operator did not open to it: cross-site requests, DNS rebinding, simple writes.

The tests walk the table of routes and sockets, so that a new line of it is tried too.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from conftest import WAIT_S, serving
from threadkeep.api.routes import SOCKETS, TABLE
from threadkeep.project import Project
from threadkeep.settings import Settings


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


@pytest.fixture
def database(module_settings: Settings) -> str:
    """The database of the file's server."""
    return str(module_settings.database_uri)


EVIL = "https://evil.example"
HERE = "http://localhost:3000"
FOREIGN: tuple[Mapping[str, str], ...] = (
    {"origin": EVIL},
    {"origin": "null"},
    {"origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"origin": "http://localhost:3000.evil.example", "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
)
"""The headers that browsers add to requests of a foreign page."""
SIMPLE = (
    "text/plain",
    "text/plain;charset=UTF-8",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
)
"""The content types that a page can send without a preflight."""
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
RUN = b'{"assistant_id":"chain","input":{"items":[]}}'


def filled(path: str) -> str:
    """The path with an id in each place."""
    return re.sub(r"\{\w+\}", lambda _: str(uuid4()), path)


async def statuses(
    http: httpx.AsyncClient,
    requests: Iterable[tuple[str, str]],
    headers: Mapping[str, str],
    content: bytes | None = None,
) -> dict[str, int]:
    """The status of each request, by its name."""
    results: dict[str, int] = {}
    for method, path in requests:
        answer = await http.request(method, filled(path), headers=headers, content=content)
        results[f"{method} {path}"] = answer.status_code
    return results


ROUTES = [(one.method, one.path) for one in TABLE]
WRITES = [(method, path) for method, path in ROUTES if method != "GET"]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_no_route_answers_a_foreign_page(http: httpx.AsyncClient, headers: Mapping[str, str]) -> None:
    """Issue: 403 on every line of the table, reads too, and a preflight allows nothing."""
    results = await statuses(http, ROUTES, {"content-type": "application/json", **headers}, b"{}")

    assert results == dict.fromkeys(results, 403)
    assert len(results) == len(TABLE)


@pytest.mark.parametrize("origin", [EVIL, "null"])
async def test_no_preflight_of_a_foreign_page_is_answered(http: httpx.AsyncClient, origin: str) -> None:
    """Issue: neither the request itself nor the way into the private network."""
    asked = {"origin": origin, "access-control-request-private-network": "true"}
    for method, path in ROUTES:
        answer = await http.options(filled(path), headers={**asked, "access-control-request-method": method})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-private-network" not in answer.headers


@pytest.mark.parametrize("media", SIMPLE)
@pytest.mark.parametrize("content", [b"{}", b""], ids=["body", "empty"])
async def test_no_route_takes_a_write_that_needs_no_preflight(
    http: httpx.AsyncClient, media: str, content: bytes
) -> None:
    """Issue: 415, whoever sends it, with and without a body."""
    results = await statuses(http, WRITES, {"content-type": media}, content)

    assert results == dict.fromkeys(results, 415)
    assert len(results) == len(WRITES)


async def test_a_page_must_name_the_type_of_its_body(http: httpx.AsyncClient) -> None:
    """Issue: `fetch` can send a body without a type."""
    results = await statuses(http, WRITES, {"origin": HERE}, b"{}")

    assert results == dict.fromkeys(results, 415)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:2024", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1"]
)
async def test_no_route_answers_for_a_name_that_is_not_this_machines(http: httpx.AsyncClient, host: str) -> None:
    """Issue: 421 without authentication, so that a rebound name reads nothing."""
    headers = {
        "host": host,
        "origin": f"http://{host}",
        "sec-fetch-site": "same-origin",
        "content-type": "application/json",
    }
    results = await statuses(http, ROUTES, headers, b"{}")

    assert results == dict.fromkeys(results, 421)
    assert len(results) == len(TABLE)


async def handshake(url: str, path: str, headers: Mapping[str, str]) -> int:
    """The status of a WebSocket's handshake; 101: it is open."""
    address = url.replace("http", "ws") + filled(path)
    try:
        async with connect(address, additional_headers=headers, open_timeout=WAIT_S):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


PATHS = [one.path for one in SOCKETS]


@pytest.mark.parametrize("path", PATHS)
async def test_no_socket_opens_for_a_foreign_page(url: str, path: str) -> None:
    """Issue: the rule of every other route, before the handshake is done."""
    foreign = [await handshake(url, path, headers) for headers in FOREIGN]
    known = [await handshake(url, path, headers) for headers in ({}, {"origin": HERE}, {"origin": url})]

    assert foreign == [403] * len(FOREIGN)
    assert known == [101, 101, 101]


@pytest.mark.parametrize("path", PATHS)
async def test_no_socket_opens_for_a_name_that_is_not_this_machines(url: str, path: str) -> None:
    """Issue: 421, HTTP and WebSocket alike."""
    _, _, port = url.rpartition(":")
    rebound = f"evil.example:{port}"
    address = f"ws://{rebound}{filled(path)}"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(
            address, host="127.0.0.1", port=int(port), additional_headers={"origin": f"http://{rebound}"}
        ):
            pass

    assert refused.value.response.status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": HERE},
        {"origin": HERE, "sec-fetch-site": "same-site"},
        {"origin": "http://[::1]"},
        {"host": "LOCALHOST"},
        {"host": "[::1]:1"},
        {"host": "127.9.9.9"},
        {"host": "app.localhost"},
        {"host": "localhost."},
    ],
    ids=str,
)
async def test_this_machines_own_pages_and_names_may_call(http: httpx.AsyncClient, headers: Mapping[str, str]) -> None:
    """Ours: a development server on another port, and every spelling of this machine."""
    answer = await http.post("/threads", json={}, headers=headers)

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://app.example", "host": "app.example"},
        {"origin": "https://app.example", "host": "app.example:443"},
        {"origin": "http://app.example:8080", "host": "app.example:8080"},
        {"origin": "https://app.example", "host": "upstream:2024", "sec-fetch-site": "same-origin"},
    ],
    ids=str,
)
async def test_a_page_of_the_servers_own_origin_may_call(settings: Settings, headers: Mapping[str, str]) -> None:
    """Ours: behind a proxy that ends TLS, and behind one that changes the host."""
    chosen = settings.model_copy(update={"hosts": "app.example,upstream"})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/threads", json={}, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [("/docs", 200), ("/info", 200), ("/threads/{thread_id}", 403), ("/assistants/{assistant_id}/graph", 403)],
)
async def test_a_link_opens_public_paths_only(http: httpx.AsyncClient, path: str, status: int) -> None:
    """Ours: a person may follow a link from another site to the docs."""
    assert (await http.get(filled(path), headers=LINK)).status_code == status


async def test_origins_that_cors_names_may_call_and_no_others(settings: Settings, tmp_path: Path) -> None:
    """Issue: the rule is `http.cors`, for requests, sockets and the private network."""
    cors = {"allow_origins": ["https://app.example"], "allow_origin_regex": r"https://\w+\.preview\.example"}
    project = Project.model_validate({"root": tmp_path, "graphs": {"g": "g.py:g"}, "http": {"cors": cors}})
    private = {"access-control-request-method": "POST", "access-control-request-private-network": "true"}
    results: dict[str, tuple[int, int, str | None]] = {}
    async with serving(settings, project=project) as url, httpx.AsyncClient(base_url=url) as http:
        for origin in ("https://app.example", "https://a.preview.example", HERE, "https://x.preview.example.evil"):
            answer = await http.post("/threads", json={}, headers={"origin": origin, "sec-fetch-site": "cross-site"})
            preflight = await http.options("/threads", headers={"origin": origin, **private})
            opened = await handshake(url, PATHS[0], {"origin": origin})
            results[origin] = answer.status_code, opened, preflight.headers.get("access-control-allow-private-network")
            if answer.status_code == 200:
                assert "retry-after" in answer.headers["access-control-expose-headers"]

    assert results == {
        "https://app.example": (200, 101, "true"),
        "https://a.preview.example": (200, 101, "true"),
        HERE: (403, 403, None),
        "https://x.preview.example.evil": (403, 403, None),
    }


@pytest.mark.parametrize(
    ("host", "hosts", "asked", "status"),
    [
        ("127.0.0.1", "agents.internal", "agents.internal:2024", 200),
        ("127.0.0.1", "agents.internal", "other.internal", 421),
        ("127.0.0.1", "*.example.com, 192.0.2.7", "a.b.example.com", 200),
        ("127.0.0.1", "*.example.com, 192.0.2.7", "192.0.2.7:80", 200),
        ("127.0.0.1", "*.example.com", "example.com", 421),
        ("127.0.0.1", "*", "anything.example", 200),
        ("192.0.2.1", None, "192.0.2.1:2024", 200),
        ("192.0.2.1", None, "192.0.2.2", 421),
        ("0.0.0.0", None, "10.1.2.3:2024", 200),  # noqa: S104 - nothing is bound to it
        ("::", None, "[2001:db8::1]:2024", 200),
        ("::", None, "agents.internal", 421),
        ("agents.internal", None, "agents.internal", 200),
    ],
)
async def test_the_operator_sets_the_names_of_the_server(
    settings: Settings, host: str, hosts: str | None, asked: str, status: int
) -> None:
    """Issue: THREADKEEP_HOSTS. Ours: an address is no name, so a server on every address answers for all of them."""
    chosen = settings.model_copy(update={"host": host, "hosts": hosts, "allow_unauthenticated": True})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/info", headers={"host": asked})).status_code == status


async def test_probes_ask_by_any_name_where_other_machines_reach_the_server(settings: Settings) -> None:
    """Ours: a load balancer's health check must not depend on a name, and its answer tells nothing."""
    chosen = settings.model_copy(update={"host": "0.0.0.0", "allow_unauthenticated": True})  # noqa: S104
    asked = {"host": "backend-7"}
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url) as http:
        results = {
            path: (await http.get(path, headers=asked)).status_code for path in ("/ok", "/livez", "/readyz", "/info")
        }

    assert results == {"/ok": 200, "/livez": 200, "/readyz": 200, "/info": 421}


async def test_callers_that_are_authenticated_may_use_any_name(settings: Settings) -> None:
    """Issue: with authentication a rebound name is no way in, and probes by address or name must not break."""
    chosen = settings.model_copy(update={"auth_type": "api_key"})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url) as http:
        for host in ("10.1.2.3:2024", "backend-7", "evil.example"):
            health = [
                (await http.get(path, headers={"host": host})).status_code for path in ("/ok", "/livez", "/readyz")
            ]
            other = (await http.post("/threads", json={}, headers={"host": host})).status_code
            assert (health, other) == ([200, 200, 200], 401)
        assert (await http.get("/info", headers={"origin": EVIL})).status_code == 403


async def test_clients_that_are_not_browsers_notice_nothing(http: httpx.AsyncClient) -> None:
    """Issue: neither those that send no body, nor those that name another JSON type, nor those that name none."""
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    query = "/query?query=hello"
    results = [
        await http.post(query),
        await http.post(query, headers={"content-type": "application/json"}),
        await http.post(query, headers={"content-type": "application/octet-stream", "content-length": "0"}),
        await http.post("/runs/wait", content=RUN),
        await http.post("/runs/wait", content=RUN, headers={"content-type": "Application/JSON; charset=UTF-8"}),
        await http.post("/runs/wait", content=RUN, headers={"content-type": "application/vnd.api+json"}),
        await http.post(f"/threads/{thread}/copy"),
        await http.request("DELETE", f"/threads/{thread}"),
    ]

    assert [answer.status_code for answer in results] == [200] * 7 + [204]


@pytest.mark.parametrize("headers", [{"origin": EVIL}, {"sec-fetch-site": "cross-site"}, {}], ids=str)
async def test_a_form_cannot_start_a_run(http: httpx.AsyncClient, database: str, headers: Mapping[str, str]) -> None:
    """Issue: `/query` takes its question from the address, and a form can have any address."""
    form = {"content-type": "application/x-www-form-urlencoded", **headers}
    answers = [
        await http.post("/query?query=hello", headers=form),
        await http.post("/query", data={"query": "x"}, headers=headers),
    ]
    async with await psycopg.AsyncConnection.connect(database) as conn:
        runs = await (await conn.execute("SELECT count(*) FROM runs")).fetchone()

    assert [answer.status_code for answer in answers] == [403 if headers else 415] * 2
    assert runs == (0,)


CUSTOM = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute


async def hello(request):
    return PlainTextResponse(f"hello {len(await request.body())}")


async def echo(websocket):
    await websocket.accept()
    await websocket.close()


app = Starlette(routes=[Route("/hello", hello, methods=["GET", "POST"]), WebSocketRoute("/echo", echo)])
"""


async def test_the_users_own_routes_are_guarded_too(settings: Settings, tmp_path: Path) -> None:
    """Ours: but they may take forms, and a link may open them, as a login does that sends the person back."""
    (tmp_path / "custom.py").write_text(CUSTOM)
    project = Project.model_validate(
        {"root": tmp_path, "graphs": {"g": "g.py:g"}, "http": {"app": "./custom.py:app", "mount_prefix": "/pre"}}
    )
    async with serving(settings, project=project) as url, httpx.AsyncClient(base_url=url + "/pre") as http:
        foreign = [(await http.post("/hello", headers=headers, content=b"x")).status_code for headers in FOREIGN]
        sockets = [await handshake(url, "/pre/echo", headers) for headers in ({}, FOREIGN[0])]
        rebound = (await http.get("/hello", headers={"host": "evil.example"})).status_code
        form = await http.post("/hello", data={"a": "1"})
        link = await http.get("/hello", headers=LINK)
        closed = (await http.get(filled("/threads/{thread_id}"), headers=LINK)).status_code

    assert foreign == [403] * len(FOREIGN)
    assert sockets == [101, 403]
    assert rebound == 421
    assert (form.text, link.text, closed) == ("hello 3", "hello 0", 403)


@pytest.mark.parametrize("hosts", ["http://a.example", "a.example:80", "a b", "a/b", "*.*"])
def test_a_host_that_is_no_name_stops_the_start(hosts: str) -> None:
    """Ours: a name that would never match is not in force."""
    with pytest.raises(ValueError, match="not a host name"):
        Settings(hosts=hosts)
