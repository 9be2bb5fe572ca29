"""Logs: what a line holds, what none ever holds, and the audit's own."""

import contextvars
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import psycopg
import pytest

from conftest import serving
from threadkeep import key_commands
from threadkeep.api.audit import STRANGERS, Audit
from threadkeep.auth.api_keys import SHOWN, new_key
from threadkeep.base import ids
from threadkeep.base.logs import JsonLines, Text, bind
from threadkeep.settings import Settings
from threadkeep.tables import api_keys

SECRET = "hunter2-the-secret"
RUN = {"assistant_id": "chain", "input": {"items": [SECRET]}}


class _Kept(logging.Handler):
    """Keeps the lines as they would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))

    def of(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == message]


@pytest.fixture
def kept() -> Iterator[_Kept]:
    handler, root = _Kept(), logging.getLogger("threadkeep")
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.setLevel(before)
    root.removeHandler(handler)


@pytest.fixture
def root_logger() -> Iterator[None]:
    """As before, once the test is over: a command of ours sets it up for its own process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_a_request_and_its_run_are_a_line_each(http: httpx.AsyncClient, kept: _Kept) -> None:
    """Ours: both carry the ids by which they are found, and nothing of what was sent."""
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    kept.lines.clear()

    answer = await http.post(f"/threads/{thread}/runs/wait?note={SECRET}", json=RUN, headers={"x-request-id": "mine-1"})

    assert answer.headers["x-request-id"] == "mine-1"
    [request], [run] = kept.of("request"), kept.of("run finished")
    run_id = answer.headers["content-location"].rpartition("/")[2]
    path = f"/threads/{thread}/runs/wait"
    assert {name: request[name] for name in ("request_id", "thread_id", "run_id", "method", "path", "status")} == {
        "request_id": "mine-1",
        "thread_id": thread,
        "run_id": run_id,
        "method": "POST",
        "path": path,
        "status": 200,
    }
    assert (run["request_id"], run["thread_id"], run["run_id"], run["status"]) == ("mine-1", thread, run_id, "success")
    assert SECRET not in json.dumps(kept.lines)


async def test_secrets_of_headers_are_in_no_line(http: httpx.AsyncClient, kept: _Kept) -> None:
    """Ours: tokens are shown in headers and in queries; neither is logged."""
    headers = {"authorization": f"Bearer {SECRET}", "x-api-key": SECRET, "cookie": SECRET}

    await http.post("/threads/search", params={"api_key": SECRET}, json={"metadata": {"k": SECRET}}, headers=headers)
    await http.post("/threads/search", content=SECRET, headers=headers)

    assert len(kept.of("request")) == 2
    assert SECRET not in json.dumps(kept.lines)


@pytest.mark.parametrize("sent", ["", "x" * 129, "two words", "line\tbreak", 'quo"te', "<b>"])
async def test_a_request_id_that_is_unsafe_is_replaced(http: httpx.AsyncClient, sent: str) -> None:
    """Ours: it goes into logs and headers, so its length and its characters are bounded."""
    answer = await http.get("/info", headers={"x-request-id": sent})

    assert answer.headers["x-request-id"] != sent
    assert len(answer.headers["x-request-id"]) == 36


async def test_a_removal_is_a_line_of_the_audit(http: httpx.AsyncClient, kept: _Kept) -> None:
    """Ours: who took what away."""
    thread = (await http.post("/threads", json={"metadata": {"secret": SECRET}})).json()["thread_id"]

    await http.delete(f"/threads/{thread}")

    [line] = [line for line in kept.lines if line["logger"] == "threadkeep.audit"]
    assert {name: line[name] for name in ("message", "who", "action", "route", "status", "thread_id", "from")} == {
        "message": "removed",
        "who": None,
        "action": "threads.delete",
        "route": "DELETE /threads/{thread_id}",
        "status": 204,
        "thread_id": thread,
        "from": "127.0.0.1",
    }
    assert SECRET not in json.dumps(kept.lines)


async def test_callers_who_are_not_let_in_are_told_of(settings: Settings, kept: _Kept) -> None:
    """Ours: each failed authentication, but not all of a flood."""
    guarded = settings.model_copy(update={"auth_type": "api_key"})
    async with serving(guarded) as url, httpx.AsyncClient(base_url=url) as http:
        for _ in range(STRANGERS + 5):
            answer = await http.post("/threads/search", json={}, headers={"x-api-key": SECRET})
            assert answer.status_code == 401

    lines = kept.of("authentication failed")
    assert len(lines) == STRANGERS
    assert (lines[0]["who"], lines[0]["action"], lines[0]["status"]) == (None, "threads.search", 401)
    assert SECRET not in json.dumps(kept.lines)


async def test_lines_name_the_caller(settings: Settings, kept: _Kept) -> None:
    """Ours: who removed what, and whom a scope kept from it."""
    guarded = settings.model_copy(update={"auth_type": "api_key"})
    keys = {"ada": await _key(settings, "ada"), "bob": await _key(settings, "bob", "threads.read")}
    async with serving(guarded) as url, httpx.AsyncClient(base_url=url) as http:
        thread = (await http.post("/threads", json={}, headers={"x-api-key": keys["ada"]})).json()["thread_id"]
        assert (await http.post("/threads", json={}, headers={"x-api-key": keys["bob"]})).status_code == 403
        await http.delete(f"/threads/{thread}", headers={"x-api-key": keys["ada"]})

    audited = [line for line in kept.lines if line["logger"] == "threadkeep.audit"]
    assert [(line["message"], line["who"], line["action"], line["status"]) for line in audited] == [
        ("forbidden", "bob", "threads.create", 403),
        ("removed", "ada", "threads.delete", 204),
    ]
    assert [line["who"] for line in kept.of("request")] == ["ada", "bob", "ada"]
    assert not any(key in json.dumps(kept.lines) for key in keys.values())


async def _key(settings: Settings, identity: str, *scopes: str) -> str:
    secret, row = new_key(identity, "test", scopes, None)
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
        await api_keys.create(conn, row)
    return secret


async def test_keys_that_are_made_and_revoked_are_lines_of_the_audit(
    settings: Settings, kept: _Kept, root_logger: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: who may come in changed; the key itself is told once, and not here."""
    monkeypatch.setenv("DATABASE_URI", str(settings.database_uri))
    monkeypatch.chdir(tmp_path)
    secret = await anyio.to_thread.run_sync(key_commands.create, None, "ada", "test", (), None)
    await anyio.to_thread.run_sync(key_commands.revoke, None, secret[:SHOWN])

    audited = [line for line in kept.lines if line["logger"] == "threadkeep.audit"]
    assert [(line["message"], line["of"]) for line in audited] == [("key created", "ada"), ("key revoked", "ada")]
    assert secret not in json.dumps(kept.lines)


def test_what_the_audit_left_out_is_told_later(kept: _Kept) -> None:
    """Ours: a flood can't hide how large it was."""
    audit = Audit()
    for _ in range(STRANGERS + 7):
        audit.answered({"client": ("192.0.2.1", 1)}, None, 401, {})
    audit._window = float("-inf")

    audit.answered({"client": ("192.0.2.1", 1)}, None, 401, {})

    assert [line.get("untold_before") for line in kept.lines] == [None] * STRANGERS + [7]


@pytest.mark.parametrize(
    "value", ["\ud800", 2**70, float("nan"), {1: object()}], ids=["surrogate", "huge", "nan", "object"]
)
def test_every_line_is_written_whatever_it_holds(value: object) -> None:
    """Ours: what can't be JSON is not a reason for silence."""
    record = logging.makeLogRecord({"msg": "said", "levelname": "INFO", "value": value})

    assert json.loads(JsonLines().format(record))["message"] == "said"


def _formatted_in_a_request(record: logging.LogRecord) -> str:
    bind(request_id=str(ids.uuid7()))
    return Text().format(record)


def test_a_line_for_people_is_one_line() -> None:
    """Ours: nobody forges a second one by what they send."""
    record = logging.makeLogRecord(
        {"msg": "request", "levelname": "INFO", "path": "/a\r\n00:00:00 error forged\x1b[2J"}
    )

    line = contextvars.copy_context().run(_formatted_in_a_request, record)

    assert line.isprintable()
