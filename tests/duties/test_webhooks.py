"""Webhooks: the address that a run names gets one request after its end."""

import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.to_thread
import httpx
import psycopg
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import UnprocessableEntityError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typing_extensions import TypedDict

from conftest import WAIT_S, serving
from graphs import GRAPHS, Gate
from threadkeep.api.operation import STATE, AppState
from threadkeep.app import create_app
from threadkeep.base.json import RawJson
from threadkeep.base.problems import ValidationFailed
from threadkeep.duties import webhooks
from threadkeep.duties.webhooks import WebhookSender
from threadkeep.graphs import as_loaded_graph
from threadkeep.project import Project, Webhooks, builtin_project
from threadkeep.runs.webhook_policy import WebhookPolicy
from threadkeep.settings import Settings
from threadkeep.tables import webhook_deliveries
from threadkeep.tables.assistants import system_id
from threadkeep.tables.webhook_deliveries import Delivery


class Receiver:
    """An HTTP server that records its requests."""

    def __init__(self, listener: socket.socket, scheme: str = "http") -> None:
        self.listener = listener
        self.url = f"{scheme}://localhost:{listener.getsockname()[1]}"
        self.got: list[tuple[str, dict[str, str], Any]] = []
        """Path, headers, body."""
        self.status = 200
        self.hold = anyio.Event()
        self.hold.set()
        self._changed = anyio.Event()

    async def answer(self, request: Request) -> Response:
        self.got.append((request.url.path, dict(request.headers), await request.json()))
        self._changed.set()
        await self.hold.wait()
        return Response(status_code=self.status, headers={"location": "/elsewhere"})

    async def has(self, number: int) -> list[Any]:
        """The bodies, when there are `number` of them."""
        with anyio.fail_after(WAIT_S):
            while len(self.got) < number:
                self._changed = anyio.Event()
                await self._changed.wait()
        return [body for _, _, body in self.got]


@asynccontextmanager
async def listening(receiver: Receiver, **options: Any) -> AsyncIterator[None]:
    """Answer until the block ends."""
    app = Starlette(routes=[Route("/{path:path}", receiver.answer, methods=["GET", "POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1, **options))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [receiver.listener])
        with anyio.fail_after(WAIT_S):
            while not server.started:
                await anyio.sleep(0.01)
        try:
            yield
        finally:
            receiver.hold.set()
            server.should_exit = True


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
async def receiver(listener: socket.socket) -> AsyncIterator[Receiver]:
    receiver = Receiver(listener)
    async with listening(receiver):
        yield receiver


BUILTIN = builtin_project()


def project(url: dict[str, Any] | None = None, **section: Any) -> Project:
    """A project that allows loopback."""
    opened = {"disable_loopback": False, "require_https": False} | (url or {})
    return BUILTIN.model_copy(update={"webhooks": Webhooks.model_validate({"url": opened, **section})})


@asynccontextmanager
async def connected(settings: Settings, project: Project) -> AsyncIterator[LangGraphClient]:
    """The official client of a server of `project`."""
    async with serving(settings, project=project) as url, get_client(url=url, api_key=None) as client:
        yield client


@pytest.fixture
async def telling(settings: Settings) -> AsyncIterator[LangGraphClient]:
    """A client of a server that may call loopback."""
    async with connected(settings, project()) as client:
        yield client


@pytest.fixture
async def process(settings: Settings) -> AsyncIterator[AppState]:
    """A process that may call loopback."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in GRAPHS.items()}
    app = await anyio.to_thread.run_sync(create_app, settings, str(settings.database_uri), loaded, project())
    async with app.router.lifespan_context(app) as state:
        assert state is not None
        yield state[STATE]


def _sender(process: AppState) -> AbstractAsyncContextManager[WebhookSender]:
    """A sender beside the process's own."""
    return webhooks.webhook_sender(process.pool, process.wakeups, process.runs.webhooks)


async def _none_left(uri: str) -> None:
    """Wait until nothing is to be sent any more."""
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as conn:
        with anyio.fail_after(WAIT_S):
            while await (await conn.execute("SELECT FROM webhook_deliveries")).fetchone():
                await anyio.sleep(0.01)


async def test_a_webhook_has_the_row_and_the_values_of_the_run(
    telling: LangGraphClient, receiver: Receiver, database: str
) -> None:
    """Protocol: the run, its times and its values. Ours: nothing about its user."""
    thread = await telling.threads.create(metadata={"topic": "x"})
    url = f"{receiver.url}/done?token=1"
    await telling.runs.wait(
        thread["thread_id"],
        "chain",
        input={"items": ["in"]},
        metadata={"n": 1},
        config={"tags": ["t"], "configurable": {"api_key": "secret"}},
        webhook=url,
    )

    [body] = await receiver.has(1)
    [run] = await telling.runs.list(thread["thread_id"])
    times = [datetime.fromisoformat(body.pop(name)) for name in ("run_started_at", "run_ended_at", "webhook_sent_at")]
    assert times == sorted(times)
    assert body == {
        "run_id": run["run_id"],
        "thread_id": thread["thread_id"],
        "assistant_id": str(system_id("chain")),
        "metadata": run["metadata"],
        "status": "success",
        "kwargs": dict(run["kwargs"]) | {"config": {"tags": ["t"]}},  # pyright: ignore[reportGeneralTypeIssues, reportTypedDictNotRequiredAccess] - the SDK's Run has no kwargs
        "multitask_strategy": "enqueue",
        "created_at": body["created_at"],
        "updated_at": body["updated_at"],
        "values": {"items": ["in", "first", "second"]},
    }
    path, headers, _ = receiver.got[0]
    assert (path, headers["host"], headers["content-type"]) == ("/done", receiver.url[7:], "application/json")
    await _none_left(database)
    assert len(receiver.got) == 1


async def test_the_webhook_of_a_failed_run_has_its_error(telling: LangGraphClient, receiver: Receiver) -> None:
    """Protocol: `error` stands in the body of a run that failed."""
    thread = await telling.threads.create()
    await telling.runs.wait(thread["thread_id"], "failing", input={}, webhook=receiver.url, raise_error=False)

    [body] = await receiver.has(1)

    assert body["status"] == "error"
    assert body["error"] == {"error": "ValueError", "message": "the node failed"}
    assert body["values"] == {"items": ["first"]}


class Told(TypedDict):
    """The output of the graph `narrow`."""

    answer: str


class Held(Told):
    """What it holds."""

    private: str


async def _answer(state: Held) -> dict[str, Any]:
    if state["private"] == "fail":
        raise ValueError("no answer")
    return {"answer": "yes"}


async def test_a_webhook_has_only_the_output_of_the_graph(settings: Settings, receiver: Receiver) -> None:
    """A webhook has the same values as a wait, not the whole state. So has the webhook of a failed run."""
    graph = StateGraph(Held, output_schema=Told)
    graph.add_node("answer", _answer)
    graph.add_edge(START, "answer")
    graphs = {"narrow": as_loaded_graph("narrow", graph, where="tests")}
    async with serving(settings, graphs, project()) as url, get_client(url=url, api_key=None) as client:
        thread_id = (await client.threads.create())["thread_id"]
        for private in ("no business of yours", "fail"):
            given: Any = {"private": private}
            await client.runs.wait(thread_id, "narrow", input=given, webhook=receiver.url, raise_error=False)
        told = await receiver.has(2)

        assert [body["values"] for body in told] == [{"answer": "yes"}, {"answer": "yes"}]
        assert (await client.threads.get(thread_id))["values"] == {"answer": "yes", "private": "fail"}


async def test_every_kind_of_run_sends_one_webhook(telling: LangGraphClient, receiver: Receiver, database: str) -> None:
    """Protocol: wait, stream and background, with and without a thread, and a queued run that is cancelled."""
    thread_id = (await telling.threads.create())["thread_id"]

    async def streamed(where: str | None, webhook: str) -> None:
        async for _ in telling.runs.stream(where, "chain", input={}, webhook=webhook):
            pass

    for where, name in ((thread_id, "on"), (None, "without")):
        await telling.runs.wait(where, "chain", input={}, webhook=f"{receiver.url}/wait-{name}")
        await streamed(where, f"{receiver.url}/stream-{name}")
        run = await telling.runs.create(where, "chain", input={}, webhook=f"{receiver.url}/create-{name}")
        if where:
            await telling.runs.join(where, run["run_id"])
    late = await telling.runs.create(
        thread_id, "chain", input={}, webhook=f"{receiver.url}/cancelled", after_seconds=1000
    )
    await telling.runs.cancel(thread_id, late["run_id"])

    bodies = await receiver.has(7)
    await _none_left(database)
    kinds = [f"/{kind}-{name}" for kind in ("wait", "stream", "create") for name in ("on", "without")]
    assert sorted(path for path, _, _ in receiver.got) == sorted([*kinds, "/cancelled"])
    assert sorted(body["status"] for body in bodies) == ["interrupted"] + ["success"] * 6
    assert await telling.threads.count() == 1


async def test_run_does_not_wait_for_its_webhook(telling: LangGraphClient, receiver: Receiver) -> None:
    """Ours: an address that does not answer costs a run nothing."""
    receiver.hold = anyio.Event()
    thread = await telling.threads.create()
    first = await telling.runs.wait(thread["thread_id"], "counter", input=1, webhook=receiver.url)
    await receiver.has(1)

    with anyio.fail_after(WAIT_S):
        second = await telling.runs.wait(thread["thread_id"], "counter", input=1, webhook=receiver.url)
        await receiver.has(2)

    assert (first, second) == (1, 2)


async def test_webhook_outlives_the_process_that_ran_its_run(
    settings: Settings, listener: socket.socket, database: str
) -> None:
    """Ours: it lies in Postgres until it is sent."""
    address = listener.getsockname()
    listener.close()
    async with connected(settings, project()) as client:
        await client.runs.wait(None, "chain", input={}, webhook=f"http://localhost:{address[1]}/late")

    with socket.create_server(address) as again:
        receiver = Receiver(again)
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
            await conn.execute("UPDATE webhook_deliveries SET send_after = now()")
        async with listening(receiver), connected(settings, project()):
            [body] = await receiver.has(1)

    assert body["status"] == "success"


async def test_a_claimed_webhook_is_due_again_after_its_sender_died(process: AppState) -> None:
    """Ours: no other process sends it meanwhile."""
    async with process.pool.connection() as conn, conn.transaction():  # so that the process does not see it
        await _put(conn, "http://localhost/")
        first = await webhook_deliveries.claim(conn, lease_s=60)
        held = await webhook_deliveries.claim(conn, lease_s=60)
        await conn.execute("UPDATE webhook_deliveries SET send_after = now()")
        second = await webhook_deliveries.claim(conn, lease_s=60)
        assert first is not None
        await webhook_deliveries.delete(conn, first)

    assert second is not None
    assert (first.attempt, held, second.attempt) == (1, None, 2)


async def _put(conn: Any, url: str, *, delayed: bool = False) -> Delivery:
    """A webhook to send. `delayed`: the process's own sender does not send it."""
    run_id, body = uuid4(), {"kwargs": {}, "values": {}}
    await conn.execute(
        """
        INSERT INTO webhook_deliveries (run_id, thread_id, project_id, url, body, send_after)
        VALUES (%s, gen_random_uuid(), 'threadkeep', %s, %s::jsonb, CASE WHEN %s THEN now() + interval '1 h' ELSE now() END)
        """,
        (run_id, url, json.dumps(body), delayed),
    )
    return Delivery(run_id=run_id, url=url, body=RawJson(json.dumps(body)), attempt=1)


async def _rest(process: AppState, run_id: UUID) -> timedelta | None:
    """The seconds until the next try. None: there is no further try."""
    async with process.pool.connection() as conn:
        cursor = await conn.execute("SELECT send_after - now() FROM webhook_deliveries WHERE run_id = %s", (run_id,))
        row = await cursor.fetchone()
    return row[0] if row else None


@pytest.mark.parametrize(
    ("status", "attempt", "again"),
    [
        (200, 1, False),
        (204, 1, False),
        (302, 1, False),
        (400, 1, False),
        (404, 1, False),
        (429, 1, True),
        (500, 1, True),
        (503, 2, True),
        (503, 3, False),
    ],
)
async def test_an_overloaded_address_is_tried_three_times(
    process: AppState, receiver: Receiver, status: int, attempt: int, again: bool
) -> None:
    """Protocol: again on 429 and 5xx. Ours: a redirect is not followed."""
    receiver.status = status
    async with process.pool.connection() as conn:
        put = await _put(conn, receiver.url, delayed=True)
    delivery = Delivery(run_id=put.run_id, url=put.url, body=put.body, attempt=attempt)

    async with _sender(process) as sender:
        await sender.send(delivery)

    rest = await _rest(process, put.run_id)
    assert (rest is not None) == again
    assert rest is None or rest <= timedelta(seconds=webhooks.BACKOFF_S[attempt - 1])
    assert [path for path, _, _ in receiver.got] == ["/"]


async def test_an_address_that_does_not_answer_is_given_up_in_time(
    process: AppState, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: a try has five seconds in all, and a tenth of a second here."""
    assert webhooks.TIMEOUT_S == 5
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.1)
    receiver.hold = anyio.Event()
    async with process.pool.connection() as conn:
        delivery = await _put(conn, receiver.url, delayed=True)

    with anyio.fail_after(WAIT_S):
        async with _sender(process) as sender:
            await sender.send(delivery)

    assert (await _rest(process, delivery.run_id) or timedelta.max) <= timedelta(seconds=1)


async def test_the_policy_checks_the_addresses_of_a_name(process: AppState) -> None:
    """Ours: the address of a name is checked at the call, and the checked address is called."""
    assert await webhooks._addresses(process.runs.webhooks, httpx.URL("http://localhost:1")) != []
    with pytest.raises(ValidationFailed, match="loopback"):
        await webhooks._addresses(WebhookPolicy(), httpx.URL("http://localhost:1"))


async def test_a_name_that_changes_its_address_reaches_only_the_checked_one(
    process: AppState, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: a name is resolved once, and the address that was judged is called: DNS rebinding comes too late."""
    answers = ["127.0.0.1", "169.254.169.254"]
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[len(asked) - 1], port))]

    monkeypatch.setattr(anyio, "getaddrinfo", rebinding)
    async with process.pool.connection() as conn:
        delivery = await _put(conn, receiver.url.replace("localhost", "rebinds.example"), delayed=True)

    async with _sender(process) as sender:
        await sender.send(delivery)
        assert [path for path, _, _ in receiver.got] == ["/"]
        with pytest.raises(ValidationFailed, match="blocked IP range"):
            await webhooks._addresses(process.runs.webhooks, httpx.URL("http://rebinds.example"))
    assert asked == ["rebinds.example", "rebinds.example"]


async def test_certificate_is_that_of_the_name_though_an_address_is_called(
    process: AppState, listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: a pinned address changes nothing about whom TLS trusts."""
    certificate, key = _certificate(tmp_path, "localhost")
    receiver = Receiver(listener, "https")
    async with process.pool.connection() as conn:
        by_name = await _put(conn, receiver.url, delayed=True)
        by_address = await _put(conn, receiver.url.replace("localhost", "127.0.0.1"), delayed=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async with listening(receiver, ssl_certfile=certificate, ssl_keyfile=key), _sender(process) as sender:
        await sender.send(by_name)
        await sender.send(by_address)

    assert [headers["host"] for _, headers, _ in receiver.got] == [receiver.url.removeprefix("https://")]


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for `name` without an address, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files[1].write_bytes(pem)
    ssl.create_default_context().load_verify_locations(files[0])
    return files


async def test_a_run_with_a_refused_address_is_refused(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Protocol: 422 with the reference's words. No run of a batch is started."""
    with pytest.raises(UnprocessableEntityError) as refused:
        await client.runs.create(None, "chain", input={}, webhook="http://127.0.0.1/")
    batch = [{"assistant_id": "chain"}, {"assistant_id": "chain", "webhook": "http://127.0.0.1/"}]
    answer = await http.post("/runs/batch", json=batch)

    assert refused.value.response.json()["detail"] == "Webhook host blocked: loopback IP range"
    assert (answer.status_code, await client.threads.count()) == (422, 0)


async def test_headers_and_fields_are_the_projects(
    settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol: `webhooks.headers` with templates, `allowed_fields`."""
    monkeypatch.setenv("LG_WEBHOOK_TOKEN", "abc")
    chosen = project(headers={"authorization": "Bearer ${{ env.LG_WEBHOOK_TOKEN }}"}, allowed_fields=["status"])

    async with connected(settings, chosen) as client:
        await client.runs.wait(None, "chain", input={}, webhook=receiver.url)
        bodies = await receiver.has(1)

    assert bodies == [{"status": "success"}]
    assert receiver.got[0][1]["authorization"] == "Bearer abc"


async def test_header_of_the_project_is_sent_once_in_any_case(settings: Settings, receiver: Receiver) -> None:
    """Ours: a request with two `Host` headers would not be sent at all."""
    chosen = project(headers={"Host": "elsewhere.example", "Content-Type": "application/vnd.run+json"})

    async with connected(settings, chosen) as client:
        await client.runs.wait(None, "chain", input={}, webhook=receiver.url)
        await receiver.has(1)

    [(_, headers, _)] = receiver.got
    assert headers["host"] == receiver.url.removeprefix("http://")
    assert headers["content-type"] == "application/vnd.run+json"


async def test_project_may_turn_webhooks_off(settings: Settings, receiver: Receiver, database: str) -> None:
    """Protocol: `http.disable_webhooks`: the run is executed, and nothing is sent."""
    off = project()
    off = off.model_copy(update={"http": off.http.model_copy(update={"disable_webhooks": True})})

    async with connected(settings, off) as client:
        assert await client.runs.wait(None, "counter", input=1, webhook="http://10.0.0.1/") == 1
        await _none_left(database)

    assert receiver.got == []


async def test_webhook_of_a_rolled_back_run_is_sent_too(
    telling: LangGraphClient, receiver: Receiver, gate: Gate
) -> None:
    """Ours: its row is deleted, and its webhook is sent."""
    thread = await telling.threads.create()
    run = await telling.runs.create(thread["thread_id"], "gated", input={}, webhook=receiver.url)
    await gate.entered()

    await telling.runs.cancel(thread["thread_id"], run["run_id"], action="rollback", wait=True)

    [body] = await receiver.has(1)
    assert (body["run_id"], body["status"]) == (run["run_id"], "interrupted")
    assert await telling.runs.list(thread["thread_id"]) == []


async def test_webhooks_are_served_round_robin_over_principals(process: AppState) -> None:
    """Issue: the webhooks of a principal with many runs were sent before those of all others."""
    order: list[str] = []
    async with process.pool.connection() as conn, conn.transaction():  # so that the process does not see them
        for principal in ["a", "a", "a", "b", "b", "c"]:
            put = await _put(conn, "http://localhost/")
            await conn.execute(
                "UPDATE webhook_deliveries SET principal = %s WHERE run_id = %s", (principal, put.run_id)
            )
        last = None
        while claimed := await webhook_deliveries.claim(conn, lease_s=60, after_principal=last, held_back=["d"]):
            last = claimed.principal
            order.append(last)
        await conn.execute("DELETE FROM webhook_deliveries")

    assert order == ["a", "b", "c", "a", "b", "a"]


async def test_slow_address_of_one_principal_leaves_senders_for_another(
    settings: Settings, make_key: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue: eight webhooks to an address that does not answer kept all senders."""
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 600)
    receiver.hold = anyio.Event()
    chosen = settings.model_copy(update={"auth_type": "api_key"})
    async with serving(chosen, project=project()) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        keys = {name: await make_key(name) for name in ("ada", "bob")}
        for name, number in (("ada", 10), ("bob", 1)):
            headers = {"x-api-key": keys[name]}
            body = {"assistant_id": "chain", "input": {"items": []}, "webhook": f"{receiver.url}/{name}"}
            for _ in range(number):
                assert (await http.post("/runs/wait", json=body, headers=headers)).status_code == 200
            await receiver.has(6 + (name == "bob"))
        paths = [path for path, _, _ in receiver.got]
        receiver.hold.set()
        await receiver.has(11)

    assert (paths.count("/ada"), paths.count("/bob")) == (6, 1)
