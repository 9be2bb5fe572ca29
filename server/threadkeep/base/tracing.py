"""Tracing: OpenTelemetry spans of requests and runs, for who has the extra `otel` and names a receiver.

Ids and statuses only, never what a request or a run holds. The provider is the application's own; OpenTelemetry's
standard variables say where spans go, which are kept, and what the service is called.
"""

import importlib.util
import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from threadkeep import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span

log = logging.getLogger(__name__)

EXPORTER_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
MAX_LINKED_RUNS = 10_000
"""Queued runs whose request is known, for the link between both; the oldest are forgotten."""
ATTRIBUTES = {
    f"{noun}_id": f"threadkeep.{noun}.id"
    for noun in ("assistant", "checkpoint", "cron", "graph", "request", "run", "thread")
}
"""Names of span attributes, by the names of the fields in a log line."""
FLUSH_S = 5.0
"""How long the last spans may take at the end."""


def open_tracing(environment: Mapping[str, str]) -> "Tracing | None":
    """Tracing as the standard variables want it; None where they name no receiver, or the extra is not installed."""
    if not any(environment.get(name) for name in EXPORTER_VARIABLES) or _is_off(environment):
        return None
    if importlib.util.find_spec("opentelemetry") is None or importlib.util.find_spec("opentelemetry.sdk") is None:
        log.warning("no traces are sent: the extra otel is not installed")
        return None
    return Tracing(_provider(environment))


def _is_off(environment: Mapping[str, str]) -> bool:
    return (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    )


def _provider(environment: Mapping[str, str]) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(
        resource=Resource.create({} if named else {"service.name": "threadkeep"}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Tracing:
    """The spans of one application."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace  # noqa: PLC0415 - an extra
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415

        self._provider = provider
        self._tracer = provider.get_tracer("threadkeep", __version__)
        self._trace = trace
        self._propagator = tracecontext.TraceContextTextMapPropagator()
        self._asked: OrderedDict[str, Link] = OrderedDict()

    @contextmanager
    def request_span(self, method: str, headers: Mapping[str, str]) -> "Generator[Span]":
        """The span of a request; a part of the caller's trace where `traceparent` names one."""
        with self._tracer.start_as_current_span(
            method,
            context=self._propagator.extract(headers),
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": method},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span

    def end_request(self, span: "Span", route: str | None, status: int, ids: Mapping[str, str]) -> None:
        """What came of the request: the route that answered, and the ids that it was about."""
        span.set_attributes({"http.response.status_code": status, **_attributes(ids)})
        if route is not None:
            span.update_name(route)
            span.set_attribute("http.route", route.partition(" ")[2])
        if status >= 500 or status == 0:
            span.set_status(self._trace.StatusCode.ERROR)

    def link_run(self, run_id: str) -> None:
        """The request that is being answered asks for this run, which may be executed later."""
        asked = self._trace.get_current_span().get_span_context()
        if asked.is_valid:
            self._asked[run_id] = self._trace.Link(asked)
        while len(self._asked) > MAX_LINKED_RUNS:
            self._asked.popitem(last=False)

    @contextmanager
    def run_span(self, ids: Mapping[str, str], outcome: Callable[[], str]) -> Generator[None]:
        """The span of a run: below its request's where it was started there, else linked to it if it is known here."""
        asked = self._asked.pop(ids["run_id"], None)
        inside = self._trace.get_current_span().get_span_context().is_valid
        with self._tracer.start_as_current_span(
            f"run {ids['graph_id']}",
            attributes=_attributes(ids),
            links=[asked] if asked and not inside else [],
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            finally:
                span.set_attribute("threadkeep.run.outcome", outcome())
                if outcome() in {"error", "timeout", "lost"}:
                    span.set_status(self._trace.StatusCode.ERROR)

    async def close(self) -> None:
        """Send what is left."""
        with anyio.move_on_after(FLUSH_S, shield=True):
            await anyio.to_thread.run_sync(self._provider.shutdown, abandon_on_cancel=True)


def _attributes(ids: Mapping[str, str]) -> dict[str, str]:
    """Attributes named as OpenTelemetry names its own: `run_id` becomes `threadkeep.run.id`."""
    return {ATTRIBUTES.get(name) or f"threadkeep.{name}": value for name, value in ids.items()}
