"""The console: its files, its headers, and the session of a browser."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from conftest import WAIT_S, MakeKey, serving
from threadkeep.api import console_files
from threadkeep.auth import api_keys
from threadkeep.auth.api_keys import PREFIX_LENGTH
from threadkeep.project import Auth, GraphTarget, Project
from threadkeep.settings import Settings
from threadkeep.tables.api_keys import revoke

INDEX = "<!doctype html><script type=module src=app.0a1b2c3d.js></script>"
SCRIPT = "export const answer = 42;\n" * 100
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify threadkeep"
)
SECRET = "a secret of more than thirty-two bytes, shared"
OWN = {"sec-fetch-site": "same-origin"}
"""The headers of a browser for a request of our own page."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small page."""
    folder = tmp_path / "console"
    folder.mkdir()
    (folder / "index.html").write_text(INDEX)
    (folder / "app.0a1b2c3d.js").write_text(SCRIPT)
    (folder / "graph-0A1B2C3D.js").write_text("export {};")
    (folder / "LICENSES.txt").write_text("MIT")
    monkeypatch.setattr(console_files, "FOLDER", folder)
    return folder


@asynccontextmanager
async def browser(
    settings: Settings, project: Project | None = None, **changes: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client that keeps cookies, of a server with these settings."""
    changed = Settings.model_validate(settings.model_dump(exclude_unset=True) | changes)
    async with (
        serving(changed, project=project) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers={"accept-encoding": "identity"}) as http,
    ):
        yield http


@pytest.mark.parametrize("path", ["/console/", "/console/threads/0a1b", "/console/session"])
async def test_every_path_that_is_no_file_is_the_page(http: httpx.AsyncClient, path: str) -> None:
    """Issue 17: every view can be reloaded, and the page is in no frame, runs no inline script and loads nothing foreign."""
    answer = await http.get(path)

    assert (answer.status_code, answer.text) == (200, INDEX)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "camera=()" in answer.headers["permissions-policy"]
    assert "=*" not in answer.headers["permissions-policy"]


async def test_page_that_has_not_changed_is_not_sent_again(http: httpx.AsyncClient) -> None:
    """Issue 17: an ETag on the index."""
    first = await http.get("/console/")
    second = await http.get("/console/", headers={"if-none-match": first.headers["etag"]})
    other = await http.get("/console/", headers={"if-none-match": '"other"'})

    assert (second.status_code, second.content, second.headers["etag"]) == (304, b"", first.headers["etag"])
    assert other.status_code == 200


@pytest.mark.parametrize("path", ["/console/app.0a1b2c3d.js", "/console/threads/0a1b/app.0a1b2c3d.js"])
async def test_file_is_found_by_the_last_segment_and_kept_for_ever(http: httpx.AsyncClient, path: str) -> None:
    """Issue 17: relative addresses work at each depth, without rewriting."""
    answer = await http.get(path, headers={"accept-encoding": "identity"})

    assert (answer.status_code, answer.text) == (200, SCRIPT)
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-security-policy"] == POLICY


async def test_files_are_compressed_for_clients_that_accept_it(http: httpx.AsyncClient) -> None:
    """Issue 17: gzip, made once."""
    path = "/console/app.0a1b2c3d.js"
    async with http.stream("GET", path, headers={"accept-encoding": "br, gzip;q=0.5"}) as answer:
        sent = b"".join([part async for part in answer.aiter_raw()])
    plain = await http.get(path, headers={"accept-encoding": "gzip;q=0, br"})

    assert (answer.headers["content-encoding"], gzip.decompress(sent).decode()) == ("gzip", SCRIPT)
    assert len(sent) < len(SCRIPT) / 10
    assert (plain.headers.get("content-encoding"), plain.text) == (None, SCRIPT)
    assert plain.headers["vary"].startswith("Accept-Encoding")


@pytest.mark.parametrize(
    "path",
    [
        "/console/app.ffffffff.js",
        "/console/../pyproject.toml",
        "/console/%2e%2e/serving.py",
        "/console/..%2fserving.py",
    ],
)
async def test_other_files_are_not_found(http: httpx.AsyncClient, path: str) -> None:
    """Ours: a file that is missing is no page, and no path leads out of the folder."""
    assert (await http.get(path)).status_code == 404


async def test_head_of_the_page_has_no_body(http: httpx.AsyncClient) -> None:
    """Protocol: HEAD is GET without a body."""
    answer = await http.head("/console/")

    assert (answer.status_code, answer.content) == (200, b"")


async def test_browsers_are_sent_to_the_console_and_programs_are_not(http: httpx.AsyncClient) -> None:
    """Issue 17: `GET /` is unchanged for programs."""
    person = await http.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    program = await http.get("/")
    slash = await http.get("/console", params={"a": "b"})

    assert (person.status_code, person.headers["location"]) == (307, "console/")
    assert (program.status_code, program.json()) == (200, {"ok": True})
    assert (slash.status_code, slash.headers["location"]) == (307, "console/?a=b")


async def test_console_is_below_the_prefix(settings: Settings) -> None:
    """Issue 17: below `http.mount_prefix`, without rewriting."""
    project = Project.model_validate({"root": ".", "graphs": {"g": "g.py:g"}, "http": {"mount_prefix": "/agents"}})
    async with browser(settings, project, host="127.0.0.1") as http:
        person = {"accept": "text/html"}
        roots = [(await http.get(path, headers=person)).headers["location"] for path in ("/", "/agents/")]
        pages = [(await http.get(path)).status_code for path in ("/agents/console/x", "/console/x")]

    assert (roots, pages) == (["agents/console/", "console/"], [200, 404])


@pytest.mark.parametrize("taken", ["switch", "file"])
async def test_console_can_be_taken_away(settings: Settings, folder: Path, taken: str) -> None:
    """Issue 17: `http.disable_ui`. Without a built page there is none, and `GET /` answers everybody alike."""
    if taken == "file":
        (folder / "index.html").unlink()
    http_section = {"disable_ui": taken == "switch"}
    project = Project.model_validate({"root": ".", "graphs": {"g": "g.py:g"}, "http": http_section})
    async with browser(settings, project) as http:
        statuses = [(await http.get(path)).status_code for path in ("/console", "/console/x")]
        session = (await http.post("/console/session", json={"credential": "x"})).status_code
        root = await http.get("/", headers={"accept": "text/html"})

    assert (statuses, session, root.json()) == ([404, 404], 404, {"ok": True})


async def test_the_page_costs_no_query(settings: Settings, database: str) -> None:
    """Issue 17: neither the page nor a file asks the database who is calling."""
    async with browser(settings, auth_type="api_key") as http:
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
            await conn.execute("DROP TABLE api_keys")  # any look at who is calling would fail
        statuses = [
            (await http.get(path)).status_code for path in ("/console/", "/console/LICENSES.txt", "/console/threads")
        ]

    assert statuses == [200, 200, 200]


async def _sign_in(http: httpx.AsyncClient, credential: str, **headers: str) -> httpx.Response:
    return await http.post("/console/session", json={"credential": credential}, headers=headers)


async def test_signed_in_browser_is_its_keys_identity(settings: Settings, make_key: MakeKey) -> None:
    """Issue 17: the cookie stands for the key, in requests of our own page alone."""
    key = await make_key("ada")
    async with browser(settings, auth_type="api_key") as http:
        signed = await _sign_in(http, key)
        origin = str(http.base_url)
        me = await http.get("/me", headers=OWN)
        write = await http.post("/threads", json={}, headers={**OWN, "origin": origin})
        others = [
            await http.get("/me"),
            await http.get("/me", headers={"sec-fetch-site": "none"}),
            await http.get("/me", headers={"sec-fetch-site": "same-site"}),
            await http.post("/threads", json={}, headers={**OWN, "origin": "http://127.0.0.1:1"}),
            await http.post("/threads", json={}, headers={"origin": origin}),
        ]
        foreign = await http.get("/me", headers={"sec-fetch-site": "cross-site"})
        shown = await http.get("/me", headers={**OWN, "x-api-key": "tk_wrong"})

    assert signed.status_code == 204
    assert signed.headers["set-cookie"] == f"threadkeep={key}; Path=/; HttpOnly; SameSite=Strict"
    assert (me.status_code, me.json()["identity"]) == (200, "ada")
    assert write.json()["metadata"] == {"owner": "ada"}
    assert [answer.status_code for answer in others] == [401] * 5
    assert (foreign.status_code, shown.status_code) == (403, 401)


async def test_cookie_over_tls_is_for_this_host_alone(settings: Settings, make_key: MakeKey) -> None:
    """Issue 17: `Secure` and `__Host-`, also if a proxy ends TLS."""
    key = await make_key("ada")
    async with browser(settings, auth_type="api_key") as http:
        secure = {"origin": str(http.base_url).replace("http:", "https:"), **OWN}
        signed = await _sign_in(http, key, **secure)
        me = await http.get("/me", headers={**OWN, "cookie": f"__Host-threadkeep={key}"})

    assert signed.headers["set-cookie"] == f"__Host-threadkeep={key}; Path=/; HttpOnly; SameSite=Strict; Secure"
    assert me.json()["identity"] == "ada"


async def test_sign_out_forgets_everything(settings: Settings, make_key: MakeKey) -> None:
    """Issue 17: the cookies and the stored data of the page are deleted."""
    async with browser(settings, auth_type="api_key") as http:
        await _sign_in(http, await make_key("ada"))
        out = await http.delete("/console/session")
        me = await http.get("/me", headers=OWN)

    assert (out.status_code, me.status_code) == (204, 401)
    assert out.headers["clear-site-data"] == '"cookies", "storage"'
    assert out.headers.get_list("set-cookie") == [
        "threadkeep=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0",
        "__Host-threadkeep=; Path=/; HttpOnly; SameSite=Strict; Secure; Max-Age=0",
    ]


async def test_cookie_that_is_no_credential_is_ignored(settings: Settings, make_key: MakeKey) -> None:
    """Ours: a cookie whose bytes were not UTF-8 was answered with 500. The other cookie still counts."""
    key = await make_key("ada")
    values = ["%ff", "%c3%28", "a%00b", "a%0d%0ax%3a%20y", "%D0%BA", ""]
    async with browser(settings, auth_type="api_key") as http:
        answers = [await http.get("/me", headers={**OWN, "cookie": f"threadkeep={value}"}) for value in values]
        beside = await http.get("/me", headers={**OWN, "cookie": f"__Host-threadkeep=%ff; threadkeep={key}"})

    assert [answer.status_code for answer in answers] == [401] * len(values)
    assert (beside.status_code, beside.json()["identity"]) == (200, "ada")


async def test_session_ends_with_its_key(
    settings: Settings, make_key: MakeKey, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 17: a revoked key opens nothing, by whatever it is shown."""
    monkeypatch.setattr(api_keys, "CACHE_TTL_S", 0.0)
    monkeypatch.setattr(api_keys, "STALE_IF_ERROR_S", 0.0)
    key = await make_key("ada")
    async with browser(settings, auth_type="api_key") as http:
        await _sign_in(http, key)
        before = await http.get("/me", headers=OWN)
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
            await revoke(conn, key[:PREFIX_LENGTH])  # pyright: ignore[reportArgumentType]
        after = await http.get("/me", headers=OWN)

    assert (before.status_code, after.status_code) == (200, 401)


@pytest.mark.parametrize(
    ("credential", "status"),
    [("tk_" + "A" * 43, 401), ("", 422), ("x" * 16_385, 422), ("x" * 4_000, 413), ("a\r\nx: y", 422), ("ключ", 422)],
    ids=["unknown", "empty", "long", "too large for a cookie", "two lines", "no ASCII"],
)
async def test_an_invalid_key_is_not_stored(settings: Settings, credential: str, status: int) -> None:
    """Issue 17: sign-in refuses what would not open anything, and sets no cookie."""
    async with browser(settings, auth_type="api_key") as http:
        answer = await _sign_in(http, credential)

    assert (answer.status_code, answer.headers.get("set-cookie")) == (status, None)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:3000"},
        {"sec-fetch-site": "same-site", "origin": "http://localhost:3000"},
    ],
    ids=str,
)
async def test_a_foreign_page_cannot_sign_in_or_out(
    settings: Settings, make_key: MakeKey, headers: dict[str, str]
) -> None:
    """Issue 17: a foreign page can neither start a session in its visitor's browser nor end one."""
    key = await make_key("mallory")
    async with browser(settings, auth_type="api_key") as http:
        answers = [await _sign_in(http, key, **headers), await http.delete("/console/session", headers=headers)]
        form = await http.post("/console/session", data={"credential": key})

    assert [(answer.status_code, answer.headers.get("set-cookie")) for answer in answers] == [(403, None)] * 2
    assert form.status_code == 415


async def test_without_authentication_there_is_nothing_to_sign_in_with(settings: Settings) -> None:
    """Ours: an error, and no cookie that would do nothing."""
    async with browser(settings) as http:
        answer = await _sign_in(http, "anything")
        me = await http.get("/me")

    assert (answer.status_code, answer.headers.get("set-cookie")) == (400, None)
    assert me.json() == {"identity": None, "display_name": None, "scopes": None, "permissions": []}


async def test_token_is_handed_on_as_a_bearer_token(settings: Settings) -> None:
    """Issue 17: sign-in by JWT, and no look at an expired one."""
    claims = {"iss": "https://i.example", "aud": "us", "sub": "ada", "exp": 4_000_000_000, "scope": "threads.read"}
    token = jwt.encode(claims, SECRET, "HS256")
    about = {"jwt_issuer": "https://i.example", "jwt_audience": "us", "jwt_secret": SECRET}
    async with browser(settings, auth_type="jwt", **about) as http:
        signed = await _sign_in(http, token)
        expired = await _sign_in(http, jwt.encode({**claims, "exp": 1}, SECRET, "HS256"))
        me = await http.get("/me", headers=OWN)

    assert (signed.status_code, expired.status_code) == (204, 401)
    assert (me.json()["identity"], me.json()["scopes"]) == ("ada", ["threads.read"])


@pytest.mark.parametrize(
    ("parameter", "returned"),
    [("authorization", "authorization"), ("headers", "headers[b'x-api-key'].decode()")],
)
async def test_custom_auth_gets_the_cookie_as_the_header_that_it_asks_for(
    settings: Settings, tmp_path: Path, parameter: str, returned: str
) -> None:
    """Issue 17: `authorization` if `authenticate` asks for it by name, else `x-api-key`."""
    (tmp_path / "auth.py").write_text(
        "from langgraph_sdk import Auth\n\nauth = Auth()\n\n\n@auth.authenticate\n"
        f"async def authenticate({parameter}):\n    return {returned}\n"
    )
    project = Project(root=tmp_path, graphs={"chain": GraphTarget(path="x:y")}, auth=Auth(path="./auth.py:auth"))
    async with browser(settings, project) as http:
        signed = await _sign_in(http, "ada lovelace" if parameter == "headers" else "ada")
        me = await http.get("/me", headers=OWN)

    assert signed.status_code == 204
    assert me.json()["identity"] == ("Bearer ada" if parameter == "authorization" else "ada lovelace")
