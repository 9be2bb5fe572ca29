"""Access: each surface keeps pages, host names and tokens out as every other route does."""

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import jwt
import pytest

from a2a_api.conftest import said
from agui.conftest import LOADED
from conftest import WAIT_S, serving
from threadkeep.settings import Settings

JWT = {
    "auth_type": "jwt",
    "jwt_issuer": "https://issuer.example",
    "jwt_audience": "threadkeep",
    "jwt_secret": "a secret of more than thirty-two bytes, shared",
}
NAME = "the name of a conversation"
PAGE = {
    "threadId": NAME,
    "runId": "first",
    "messages": [{"id": "1", "role": "user", "content": "hello"}],
    "state": {},
    "tools": [],
    "context": [],
    "forwardedProps": {},
}
REQUESTS: Mapping[str, Any] = {
    "/mcp": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "echo", "arguments": {"messages": "hello"}},
    },
    "/a2a/echo": {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": said(contextId=NAME)},
    "/ag-ui/echo": PAGE,
}


@pytest.fixture(scope="module")
async def open_http(module_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server without authentication."""
    async with (
        serving(module_settings, LOADED) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http,
    ):
        yield http


@pytest.fixture(scope="module")
async def jwt_http(module_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose callers show a JWT."""
    settings = Settings.model_validate({**module_settings.model_dump(exclude_unset=True), **JWT})
    async with serving(settings, LOADED) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http:
        yield http


@pytest.mark.parametrize("path", REQUESTS)
async def test_pages_and_names_of_others_are_refused(open_http: httpx.AsyncClient, path: str) -> None:
    """Promise: a page of another origin, or a rebound host name, can neither change nor read anything."""
    headers = [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "evil.example"},
        {"content-type": "text/plain"},
        {"content-encoding": "gzip"},
    ]
    answers = [await open_http.post(path, json=REQUESTS[path], headers=each) for each in headers]
    others = [await open_http.request(method, path) for method in ("GET", "PUT", "DELETE")]

    assert [answer.status_code for answer in answers] == [403, 403, 421, 415, 415]
    assert {(answer.status_code, answer.headers["allow"]) for answer in others} == {(405, "POST")}


def _token(subject: str, **claims: Any) -> dict[str, str]:
    known = {"sub": subject, "iss": JWT["jwt_issuer"], "aud": JWT["jwt_audience"], "exp": int(time.time()) + 60}
    return {"authorization": "Bearer " + jwt.encode(known | claims, JWT["jwt_secret"], "HS256")}


@pytest.mark.parametrize("path", REQUESTS)
async def test_tokens_decide_on_each_surface(jwt_http: httpx.AsyncClient, path: str) -> None:
    """Contract, Who, with JWT: a conversation of its own for each subject, scopes, and an expired token."""
    callers = [_token("ada"), _token("bob"), {}, _token("ada", exp=1), _token("ada", scope="threads.read")]
    answers = [await jwt_http.post(path, json=REQUESTS[path], headers=headers) for headers in callers]
    counts = [
        len((await jwt_http.post("/threads/search", json={}, headers=_token(subject))).json())
        for subject in ("ada", "bob", "eve")
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 401, 401, 403]
    assert answers[2].headers["www-authenticate"]
    assert counts[0] == counts[1] > counts[2] == 0
