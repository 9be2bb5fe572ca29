"""Recording: requests of a case sent to one server, and what it answered."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

HEADERS = (
    "allow",
    "cache-control",
    "content-location",
    "content-type",
    "location",
    "x-accel-buffering",
    "x-pagination-next",
    "x-pagination-total",
)
"""What clients and proxies read."""
NOWHERE = "00000000-0000-4000-8000-000000000000"
"""An id that nothing has."""
WAIT_S = 20.0
"""The longest that a case waits for a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A request and its answer."""

    name: str
    """Unique: the case, and what is asked."""
    request: str
    """Method and path, as the case wrote it."""
    answer: Mapping[str, Any]
    """Status, headers, and the body or the events."""


@dataclass(slots=True)
class Server:
    """A server as one case sees it. A call sends a request, keeps its answer, and gives the body back."""

    case: str
    http: httpx.Client
    steps: list[Step] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    """Those made on the way, in their order."""

    def __call__(self, name: str, request: str, body: object = None, /, **options: Any) -> Any:
        """Send `request` ("POST /threads/{thread}", names in braces from `at`); the body, or the list of events.

        `at` gives the path's names, `query` and `headers` what they say, `content` a body as it is.
        """
        method, path = request.split(" ", 1)
        response = self.http.request(
            method,
            path.format(**options.get("at", {})),
            params=options.get("query"),
            headers=options.get("headers"),
            **({"content": options["content"]} if "content" in options else {} if body is None else {"json": body}),
        )
        answer = _answer(response)
        self.steps.append(Step(name=f"{self.case}: {name}", request=request, answer=answer))
        return answer["events"] if "events" in answer else answer["body"]

    def thread(self, **body: Any) -> str:
        """The id of a new thread; not recorded."""
        made = self.http.post("/threads", json=body)
        made.raise_for_status()
        self.threads.append(made.json()["thread_id"])
        return self.threads[-1]

    def start(self, thread: str, **body: Any) -> str:
        """The id of a new background run; not recorded."""
        made = self.http.post(f"/threads/{thread}/runs", json=body)
        made.raise_for_status()
        return str(made.json()["run_id"])

    def run(self, thread: str, **body: Any) -> None:
        """Run to the end; not recorded."""
        self.http.post(f"/threads/{thread}/runs/wait", json=body).raise_for_status()

    def until(self, path: str, *statuses: str, within_s: float = WAIT_S) -> None:
        """Wait until what stands at `path` has one of these statuses, or is gone."""
        end = time.monotonic() + within_s
        while (found := self.http.get(path)).is_success and found.json()["status"] not in statuses:
            if time.monotonic() > end:
                raise TimeoutError(f"{path} is still {found.json()['status']}")
            time.sleep(0.02)  # noqa: TID251 - a plain program, without an event loop

    def settled(self, thread: str) -> None:
        """Wait until nothing goes on on `thread`."""
        self.until(f"/threads/{thread}", "idle", "interrupted", "error")

    def ended(self, thread: str, run: str) -> None:
        """Wait until `run` has ended, and a while for its thread: the reference leaves some busy."""
        self.until(f"/threads/{thread}/runs/{run}", "success", "error", "interrupted", "timeout")
        with suppress(TimeoutError):
            self.until(f"/threads/{thread}", "idle", "interrupted", "error", within_s=3)

    def entered(self, thread: str, run: str) -> None:
        """Wait until the graph `slow` is in its slow node: the step before it is kept."""
        self.until(f"/threads/{thread}/runs/{run}", "running", "success", "error", "interrupted")
        end = time.monotonic() + WAIT_S
        while self.http.get(f"/threads/{thread}/state").json()["next"] != ["wait"]:
            if time.monotonic() > end:
                raise TimeoutError("the slow node was not entered")
            time.sleep(0.02)  # noqa: TID251 - as above


def _answer(response: httpx.Response) -> dict[str, Any]:
    headers = {name: response.headers[name] for name in HEADERS if name in response.headers}
    if "allow" in headers:
        headers["allow"] = ", ".join(sorted(headers["allow"].split(", ")))
    answer: dict[str, Any] = {"status": response.status_code, "headers": headers}
    if headers.get("content-type", "").startswith("text/event-stream"):
        return answer | {"events": list(_events(response.text))}
    try:
        body = response.json() if response.content else None
    except ValueError:
        body = response.text
    return answer | {"body": body}


def _events(text: str) -> Iterator[dict[str, Any]]:
    """The events of a stream, without its heartbeats."""
    for frame in text.replace("\r\n", "\n").split("\n\n"):
        lines = [line.partition(": ") for line in frame.split("\n") if line and not line.startswith(":")]
        if lines:
            yield {name: _field(name, value) for name, _, value in lines}


def _field(name: str, text: str) -> Any:
    """An event's field; ids, which say nothing but their order, are all alike."""
    if name != "data":
        return "(an id)" if name == "id" else text
    try:
        return httpx.Response(200, text=text).json()
    except ValueError:
        return text
