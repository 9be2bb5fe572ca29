"""Tracing: OpenTelemetry spans of requests and runs, if the extra `otel` is installed and a receiver is configured.

Spans contain only ids and statuses, never data of a request or a run. The application has its own provider.
OpenTelemetry's standard variables configure the receiver, sampling and the name of the service.
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
"""Largest number of queued runs with a link to their request. The oldest links are dropped."""
ATTRIBUTES = {
    f"{noun}_id": f"threadkeep.{noun}.id"
    for noun in ("assistant", "checkpoint", "cron", "graph", "request", "run", "thread")
}
"""Field of a log line -> name of the span attribute."""
FLUSH_S = 5.0
"""Seconds that sending the last spans may take at the end."""


def open_tracing(environment: Mapping[str, str]) -> "Tracing | None":
    """Return tracing as the standard variables configure it, or None without a receiver or without the extra."""
    if not any(environment.get(name) for name in EXPORTER_VARIABLES) or _is_off(environment):
        return None
    # Libraries may install only OpenTelemetry's API. `find_spec` raises for the SDK if its parent package is missing.
    if importlib.util.find_spec("opentelemetry") is None or importlib.util.find_spec("opentelemetry.sdk") is None:
        log.warning("traces are not sent: the extra otel is not installed")
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

    has_name = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(
        resource=Resource.create({} if has_name else {"service.name": "threadkeep"}),
        # No hook at exit, because it would wait for the receiver without a limit. `close` has one.
        shutdown_on_exit=False,
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
        self._links: OrderedDict[str, Link] = OrderedDict()

    @contextmanager
    def request_span(self, method: str, headers: Mapping[str, str]) -> "Generator[Span]":
        """Open the span of a request. It belongs to the caller's trace if there is a `traceparent` header."""
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
        """Set the attributes of a finished request: its route, status and ids."""
        span.set_attributes({"http.response.status_code": status, **_attributes(ids)})
        if route is not None:
            span.update_name(route)
            span.set_attribute("http.route", route.partition(" ")[2])
        if status >= 500 or status == 0:
            span.set_status(self._trace.StatusCode.ERROR)

    def link_run(self, run_id: str) -> None:
        """Link a run to the current request, because another task may execute it later."""
        request = self._trace.get_current_span().get_span_context()
        if request.is_valid:
            self._links[run_id] = self._trace.Link(request)
        while len(self._links) > MAX_LINKED_RUNS:
            self._links.popitem(last=False)

    @contextmanager
    def run_span(self, ids: Mapping[str, str], outcome: Callable[[], str]) -> Generator[None]:
        """Open the span of a run: a child of its request's span, or else linked to it if the request was in this process."""
        link = self._links.pop(ids["run_id"], None)
        inside = self._trace.get_current_span().get_span_context().is_valid
        with self._tracer.start_as_current_span(
            f"run {ids['graph_id']}",
            attributes=_attributes(ids),
            links=[link] if link and not inside else [],
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
        """Send the remaining spans."""
        with anyio.move_on_after(FLUSH_S, shield=True):
            # A thread can't be cancelled, so after the limit it is left behind.
            await anyio.to_thread.run_sync(self._provider.shutdown, abandon_on_cancel=True)


def _attributes(ids: Mapping[str, str]) -> dict[str, str]:
    """Return attributes with names in OpenTelemetry's form: `run_id` becomes `threadkeep.run.id`."""
    return {ATTRIBUTES.get(name) or f"threadkeep.{name}": value for name, value in ids.items()}
