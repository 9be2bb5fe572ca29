"""A caller's own view: their identity and their API keys."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from auth.conftest import MakeKey
from conftest import WAIT_S, serving
from threadkeep.auth import api_keys
from threadkeep.auth.scopes import ALL_EVENTS
from threadkeep.settings import Settings


@asynccontextmanager
async def caller(url: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers={"x-api-key": key}) as http:
        yield http


async def test_a_caller_can_read_their_identity(keyed_url: str, make_key: MakeKey) -> None:
    """Issue 17: a key without scopes may do everything; others say what they may do, event by event."""
    keys = [await make_key("ada"), await make_key("ada", "threads.*"), await make_key("ada", "store.get")]
    said: list[object] = []
    for key in keys:
        async with caller(keyed_url, key) as http:
            said.append((await http.get("/me")).json())

    ada = {"identity": "ada", "display_name": "ada"}
    threads = sorted(event for event in ALL_EVENTS if event.startswith("threads."))
    assert said == [
        {**ada, "scopes": None, "permissions": []},
        {**ada, "scopes": threads, "permissions": ["threads.*"]},
        {**ada, "scopes": ["store.get"], "permissions": ["store.get"]},
    ]


async def test_caller_sees_their_own_keys_and_never_a_secret(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient, make_key: MakeKey
) -> None:
    """Issue 17: two principals. What identifies a key is its prefix."""
    other = await make_key("ada", "threads.read", lives_s=3600)
    listed = await ada.get("/api-keys")
    bobs = (await bob.get("/api-keys")).json()

    keys = listed.json()
    assert [key["prefix"] for key in keys] == [other[:11], ada.headers["x-api-key"][:11]]
    assert [key["is_current"] for key in keys] == [False, True]
    assert [key["scopes"] for key in keys] == [["threads.read"], []]
    assert set(keys[0]) == {
        "key_id", "prefix", "name", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at", "is_current",
    }  # fmt: skip
    assert other not in listed.text
    assert "sha256" not in listed.text
    assert [key["prefix"] for key in bobs] == [bob.headers["x-api-key"][:11]]


async def test_pages_of_keys(ada: httpx.AsyncClient, make_key: MakeKey) -> None:
    """Ours: a listing has a limit."""
    for _ in range(2):
        await make_key("ada")
    newest = (await ada.get("/api-keys", params={"limit": 2})).json()
    oldest = (await ada.get("/api-keys", params={"limit": 2, "offset": 2})).json()
    wrong = [(await ada.get("/api-keys", params={"limit": each})).status_code for each in ("0", "1001", "x")]

    assert ([key["is_current"] for key in newest + oldest], wrong) == ([False, False, True], [422] * 3)


async def test_revoked_key_opens_nothing_on_another_process(
    settings: Settings, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 17: revoked here, refused there."""
    monkeypatch.setattr(api_keys, "CACHE_TTL_S", 0.0)
    monkeypatch.setattr(api_keys, "STALE_IF_ERROR_S", 0.0)
    keyed = settings.model_copy(update={"auth_type": "api_key"})
    mine, lost = await make_key("ada"), await make_key("ada")
    async with (
        serving(keyed) as here,
        serving(keyed) as there,
        caller(here, mine) as http,
        caller(there, lost) as thief,
    ):
        before = (await thief.get("/me")).status_code
        [key] = [each for each in (await http.get("/api-keys")).json() if each["prefix"] == lost[:11]]
        done = await http.delete(f"/api-keys/{key['key_id']}")
        again = await http.delete(f"/api-keys/{key['key_id']}")
        after = (await thief.get("/me")).status_code
        [shown] = [each for each in (await http.get("/api-keys")).json() if each["prefix"] == lost[:11]]

    assert (before, done.status_code, again.status_code, after) == (200, 204, 404, 401)
    assert shown["revoked_at"] is not None


async def test_a_caller_cannot_revoke_the_key_of_another(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    """Issue 17: another identity's key is not there."""
    [key] = (await ada.get("/api-keys")).json()
    answers = [await bob.delete(f"/api-keys/{each}") for each in (key["key_id"], "0" * 32, "x")]

    assert [answer.status_code for answer in answers] == [404, 404, 422]
    assert (await ada.get("/me")).status_code == 200


async def test_limited_key_reaches_itself_alone(keyed_url: str, ada: httpx.AsyncClient, make_key: MakeKey) -> None:
    """Ours: a leaked key with one scope must not end the others of its identity."""
    async with caller(keyed_url, await make_key("ada", "threads.read")) as http:
        [own] = (await http.get("/api-keys")).json()
        others = [key for key in (await ada.get("/api-keys")).json() if key["key_id"] != own["key_id"]]
        refused = [(await http.delete(f"/api-keys/{key['key_id']}")).status_code for key in others]
        done = await http.delete(f"/api-keys/{own['key_id']}")

    assert (own["is_current"], refused, done.status_code) == (True, [404], 204)


async def test_server_without_keys_says_so(http: httpx.AsyncClient) -> None:
    """Ours: callers who are known by nothing, or by something else, have no keys."""
    answers = [await http.get("/api-keys"), await http.delete(f"/api-keys/{'0' * 32}")]
    info = (await http.get("/info")).json()["auth"]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].json()["detail"] == "this server does not authenticate by API keys"
    assert info == {"kind": "none"}
