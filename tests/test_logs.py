"""Logs: the fields of a line, values that no line contains, and the audit log."""

import contextvars
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import psycopg
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from conftest import serving
from test_serve import serving_process
from threadkeep.api.audit import MAX_UNAUTHENTICATED, AuditLog
from threadkeep.auth.api_keys import PREFIX_LENGTH, generate_key
from threadkeep.base import ids
from threadkeep.base.logs import JsonFormatter, TextFormatter, bind
from threadkeep.commands import key_commands
from threadkeep.preparing import prepare
from threadkeep.settings import Settings
from threadkeep.tables import api_keys

SECRET = "hunter2-the-secret"
RUN = {"assistant_id": "chain", "input": {"items": [SECRET]}}


class _Kept(logging.Handler):
    """Keeps the lines as they would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
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
    assert {name: request[name] for name in ("request_id", "thread_id", "run_id", "method", "path", "status_code")} == {
        "request_id": "mine-1",
        "thread_id": thread,
        "run_id": run_id,
        "method": "POST",
        "path": path,
        "status_code": 200,
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
    """Ours: the audit log has the caller and the deleted row."""
    thread = (await http.post("/threads", json={"metadata": {"secret": SECRET}})).json()["thread_id"]

    await http.delete(f"/threads/{thread}")

    [line] = [line for line in kept.lines if line["logger"] == "threadkeep.audit"]
    assert {
        name: line[name]
        for name in ("message", "principal", "action", "route", "status_code", "thread_id", "client_address")
    } == {
        "message": "removed",
        "principal": None,
        "action": "threads.delete",
        "route": "DELETE /threads/{thread_id}",
        "status_code": 204,
        "thread_id": thread,
        "client_address": "127.0.0.1",
    }
    assert SECRET not in json.dumps(kept.lines)


async def test_callers_who_are_not_let_in_are_told_of(settings: Settings, kept: _Kept) -> None:
    """Ours: each failed authentication, but not all of a flood."""
    guarded = settings.model_copy(update={"auth_type": "api_key"})
    async with serving(guarded) as url, httpx.AsyncClient(base_url=url) as http:
        for _ in range(MAX_UNAUTHENTICATED + 5):
            answer = await http.post("/threads/search", json={}, headers={"x-api-key": SECRET})
            assert answer.status_code == 401

    lines = kept.of("authentication failed")
    assert len(lines) == MAX_UNAUTHENTICATED
    assert (lines[0]["principal"], lines[0]["action"], lines[0]["status_code"]) == (None, "threads.search", 401)
    assert SECRET not in json.dumps(kept.lines)


async def test_lines_name_the_caller(settings: Settings, kept: _Kept) -> None:
    """Ours: the audit log has deletions and refused deletions."""
    guarded = settings.model_copy(update={"auth_type": "api_key"})
    keys = {"ada": await _key(settings, "ada"), "bob": await _key(settings, "bob", "threads.read")}
    async with serving(guarded) as url, httpx.AsyncClient(base_url=url) as http:
        thread = (await http.post("/threads", json={}, headers={"x-api-key": keys["ada"]})).json()["thread_id"]
        assert (await http.post("/threads", json={}, headers={"x-api-key": keys["bob"]})).status_code == 403
        await http.delete(f"/threads/{thread}", headers={"x-api-key": keys["ada"]})

    audited = [line for line in kept.lines if line["logger"] == "threadkeep.audit"]
    assert [(line["message"], line["principal"], line["action"], line["status_code"]) for line in audited] == [
        ("forbidden", "bob", "threads.create", 403),
        ("removed", "ada", "threads.delete", 204),
    ]
    assert [line["principal"] for line in kept.of("request")] == ["ada", "bob", "ada"]
    assert not any(key in json.dumps(kept.lines) for key in keys.values())


SOCKET = "/threads/00000000-0000-4000-8000-000000000001/stream/events"


async def _socket(url: str, command: dict[str, Any] | None = None, **headers: str) -> None:
    """Open the socket, send a command if there is one, and wait until it is answered or closed."""
    with suppress(InvalidStatus, ConnectionClosed):
        async with connect(url.replace("http", "ws") + SOCKET, additional_headers=headers, proxy=None) as socket:
            if command is not None:
                await socket.send(json.dumps({"id": 1, **command}))
                await socket.recv()
                return
            async for _ in socket:
                pass


async def test_refusals_of_sockets_are_lines_of_the_audit(settings: Settings, kept: _Kept) -> None:
    """Issue: as of every other route: no key, a scope that is not enough, a command that needs another one, a page."""
    guarded = settings.model_copy(update={"auth_type": "api_key"})
    keys = [await _key(settings, "ada", "store.get"), await _key(settings, "bob", "threads.read")]
    async with serving(guarded) as url:
        await _socket(url)
        await _socket(url, **{"x-api-key": keys[0]})
        await _socket(url, {"method": "run.start", "params": RUN}, **{"x-api-key": keys[1]})
        await _socket(url, origin="https://evil.example", cookie=SECRET)
    async with serving(settings) as url:
        await _socket(url, host="evil.example")

    route = "WS /threads/{thread_id}/stream/events"
    audited = [line for line in kept.lines if line["logger"] == "threadkeep.audit"]
    names = ("message", "principal", "action", "route", "status_code", "command", "client_address")
    assert [tuple(line.get(name) for name in names) for line in audited] == [
        ("authentication failed", None, "threads.read", route, 401, None, "127.0.0.1"),
        ("forbidden", "ada", "threads.read", route, 403, None, "127.0.0.1"),
        ("forbidden", "bob", "threads.read", route, 403, "run.start", "127.0.0.1"),
        ("forbidden", None, None, None, 403, None, "127.0.0.1"),
        ("misdirected", None, None, None, 421, None, "127.0.0.1"),
    ]
    assert [(line["path"], line["status_code"], line.get("principal")) for line in kept.of("socket")] == [
        (SOCKET, 401, None),
        (SOCKET, 403, "ada"),
        (SOCKET, 101, "bob"),
        (SOCKET, 403, None),
        (SOCKET, 421, None),
    ]
    assert not any(secret in json.dumps(kept.lines) for secret in (*keys, SECRET))


async def test_a_page_that_floods_fills_no_disk(http: httpx.AsyncClient, kept: _Kept) -> None:
    """Ours: whoever is not known has a few lines in each window, whatever they are refused for."""
    for _ in range(MAX_UNAUTHENTICATED + 5):
        assert (await http.get("/info", headers={"origin": "https://evil.example"})).status_code == 403

    assert len(kept.of("forbidden")) == MAX_UNAUTHENTICATED


GRAPH = """
import logging
import httpx
from langgraph.graph import START, StateGraph
from typing import TypedDict

class State(TypedDict, total=False):
    text: str
    url: str

async def tell(state):
    logging.getLogger(__name__).debug("a line of the project's own")
    for name in ("openai._base_client", "anthropic", "urllib3.connectionpool", "websockets.client", "mcp", "psycopg"):
        logging.getLogger(name).debug("sent %s", state["text"])
    async with httpx.AsyncClient(trust_env=False) as http:
        await http.get(state["url"] + "/livez", params={"token": state["text"]}, headers={"x-api-key": state["text"]})
    return {"text": "done"}

builder = StateGraph(State)
builder.add_node("tell", tell)
builder.add_edge(START, "tell")
graph = builder.compile()
"""


async def test_no_logger_tells_a_secret_at_any_level(settings: Settings, tmp_path: Path) -> None:
    """Issue: at LOG_LEVEL=debug neither a key, a token, a cookie nor a payload, of uvicorn and every library too."""
    (tmp_path / "mine.py").write_text(GRAPH)
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": {"mine": "./mine.py:graph"}}))
    key = await _key(settings, "ada")
    sent = {"x-api-key": key, "cookie": f"session={SECRET}", "x-token": SECRET}
    started = {"DATABASE_URI": str(settings.database_uri), "AUTH_TYPE": "api_key", "LOG_LEVEL": "debug"}
    async with serving_process(tmp_path, **started) as (_, http):
        url = str(http.base_url)
        run = {"assistant_id": "mine", "input": {"text": SECRET, "url": url}}
        thread = (await http.post("/threads", json={"metadata": {"note": SECRET}}, headers=sent)).json()["thread_id"]
        for path in (f"/threads/{thread}/runs/wait", f"/threads/{thread}/runs/stream"):
            answer = await http.post(path, params={"token": SECRET}, json=run, headers=sent)
            assert answer.status_code == 200, answer.text
        await http.post("/threads", content=SECRET, headers={**sent, "authorization": f"Bearer {SECRET}"})
        address = f"{url.replace('http', 'ws')}/threads/{thread}/stream/events?token={SECRET}"
        async with connect(address, additional_headers=sent, proxy=None) as socket:
            await socket.send(json.dumps({"id": 1, "method": "run.start", "params": run}))
            await socket.recv()
        with suppress(InvalidStatus):
            async with connect(address, origin=Origin("https://evil.example"), proxy=None):
                pass
    log = await anyio.Path(tmp_path / "log").read_text()

    assert '"message":"a line of the project\'s own"' in log
    assert '"message":"socket"' in log
    assert '"level":"error"' not in log
    assert SECRET not in log
    assert key not in log


async def _key(settings: Settings, identity: str, *scopes: str) -> str:
    secret, row = generate_key(identity, "test", scopes, None)
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
        await api_keys.create(conn, row)
    return secret


async def test_keys_that_are_made_and_revoked_are_lines_of_the_audit(
    settings: Settings, kept: _Kept, root_logger: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: who may come in changed; the key itself is told once, and not here."""
    monkeypatch.setenv("DATABASE_URI", str(settings.database_uri))
    monkeypatch.chdir(tmp_path)
    prepared = await anyio.to_thread.run_sync(prepare, None, {})
    secret = await anyio.to_thread.run_sync(key_commands.create_key, prepared, "ada", "test", (), None)
    await anyio.to_thread.run_sync(key_commands.revoke_key, prepared, secret[:PREFIX_LENGTH])

    audited = [line for line in kept.lines if line["logger"] == "threadkeep.audit"]
    assert [(line["message"], line["principal"]) for line in audited] == [
        ("key created", "ada"),
        ("key revoked", "ada"),
    ]
    assert secret not in json.dumps(kept.lines)


def test_what_the_audit_left_out_is_told_later(kept: _Kept) -> None:
    """Ours: a flood can't hide how large it was."""
    audit = AuditLog()
    for _ in range(MAX_UNAUTHENTICATED + 7):
        audit.record({"client": ("192.0.2.1", 1)}, None, 401, {})
    audit._window = float("-inf")

    audit.record({"client": ("192.0.2.1", 1)}, None, 401, {})

    assert [line.get("suppressed") for line in kept.lines] == [None] * MAX_UNAUTHENTICATED + [7]


@pytest.mark.parametrize(
    "value", ["\ud800", 2**70, float("nan"), {1: object()}], ids=["surrogate", "huge", "nan", "object"]
)
def test_every_line_is_written_whatever_it_holds(value: object) -> None:
    """Ours: what can't be JSON is not a reason for silence."""
    record = logging.makeLogRecord({"msg": "said", "levelname": "INFO", "value": value})

    assert json.loads(JsonFormatter().format(record))["message"] == "said"


def _formatted_in_a_request(record: logging.LogRecord) -> str:
    bind(request_id=str(ids.uuid7()))
    return TextFormatter().format(record)


def test_a_line_for_people_is_one_line() -> None:
    """Ours: no request can forge a second line."""
    record = logging.makeLogRecord(
        {"msg": "request", "levelname": "INFO", "path": "/a\r\n00:00:00 error forged\x1b[2J"}
    )

    line = contextvars.copy_context().run(_formatted_in_a_request, record)

    assert line.isprintable()
