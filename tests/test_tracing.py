"""Tracing: spans arrive at a receiver of OpenTelemetry's own protocol, and tell ids only."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anyio
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from conftest import serving
from threadkeep.base import tracing
from threadkeep.settings import Settings

SECRET = "hunter2-the-secret"
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RUN = {"assistant_id": "chain", "input": {"items": [SECRET]}}


@dataclass
class Receiver:
    """Takes spans by HTTP, as a collector does."""

    url: str = ""
    raw: bytes = b""
    services: set[str] = field(default_factory=set)
    spans: dict[str, Any] = field(default_factory=dict)

    def take(self, body: bytes) -> None:
        self.raw += body
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            self.services |= {
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            }
            self.spans |= {span.name: span for scope in resource.scope_spans for span in scope.spans}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Listens on loopback, and the standard variable names it."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        found.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found
        server.shutdown()
        thread.join()


def _attributes(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


async def test_a_request_and_its_run_are_spans_of_the_callers_trace(settings: Settings, receiver: Receiver) -> None:
    """W3C Trace Context: `traceparent` is gone on with; ours: nothing of what was sent is told."""
    async with serving(settings) as url, httpx.AsyncClient(base_url=url) as http:
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        answer = await http.post(
            f"/threads/{thread}/runs/wait", json=RUN, headers={"traceparent": CALLER, "x-request-id": "mine-1"}
        )

    run_id = answer.headers["content-location"].rpartition("/")[2]
    request, run = receiver.spans["POST /threads/{thread_id}/runs/wait"], receiver.spans["run chain"]
    assert receiver.services == {"threadkeep"}
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (CALLER[3:35], CALLER[36:52])
    assert (run.trace_id, run.parent_span_id) == (request.trace_id, request.span_id)
    assert _attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/threads/{thread_id}/runs/wait",
        "http.response.status_code": 200,
        "threadkeep.request.id": "mine-1",
        "threadkeep.thread.id": thread,
        "threadkeep.run.id": run_id,
    }
    told = _attributes(run)
    assert told.pop("threadkeep.assistant.id")
    assert told == {
        "threadkeep.run.id": run_id,
        "threadkeep.thread.id": thread,
        "threadkeep.graph.id": "chain",
        "threadkeep.run.outcome": "success",
    }
    assert SECRET.encode() not in receiver.raw


async def test_a_queued_run_is_linked_to_the_request_that_asked_for_it(settings: Settings, receiver: Receiver) -> None:
    """Ours: it is executed later, in a trace of its own."""
    async with serving(settings) as url, httpx.AsyncClient(base_url=url) as http:
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        run = (await http.post(f"/threads/{thread}/runs", json=RUN)).json()["run_id"]
        await http.get(f"/threads/{thread}/runs/{run}/join")

    asked, done = receiver.spans["POST /threads/{thread_id}/runs"], receiver.spans["run chain"]
    [link] = done.links
    assert (link.trace_id, link.span_id) == (asked.trace_id, asked.span_id)
    assert done.parent_span_id == b""
    assert done.trace_id != asked.trace_id


async def test_a_failure_is_marked_and_its_text_is_not_told(settings: Settings, receiver: Receiver) -> None:
    """Ours: the text of an exception may hold what a client sent."""
    async with serving(settings) as url, httpx.AsyncClient(base_url=url) as http:
        await http.post("/runs/wait", json=RUN | {"assistant_id": "failing"})
        await http.get("/livez")

    failed = receiver.spans["run failing"]
    assert _attributes(failed)["threadkeep.run.outcome"] == "error"
    assert (failed.status.code, failed.status.message, list(failed.events)) == (2, "", [])
    assert "GET /livez" not in receiver.spans


async def test_a_receiver_that_is_away_harms_nobody(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: spans are lost, requests are not, and the server stops in time."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with anyio.fail_after(15):
        async with serving(settings) as url, httpx.AsyncClient(base_url=url) as http:
            assert (await http.post("/runs/wait", json=RUN)).status_code == 200


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "mine"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=str,
)
def test_tracing_is_off_unless_a_receiver_is_named(environment: dict[str, str]) -> None:
    """OpenTelemetry: the standard variables; ours: nothing is sent anywhere by default."""
    assert tracing.open_tracing(environment) is None
