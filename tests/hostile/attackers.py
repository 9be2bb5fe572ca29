"""Attackers: send requests that mean harm, and judge the answers."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import anyio
import httpx

from hostile.corpus import Attack

ATTACKERS = 8
"""Requests at once."""
ANSWER_S = 15.0
"""The longest that an answer to one request may take."""
T = TypeVar("T")


async def each_of(items: Iterable[T], act: Callable[[T], Awaitable[Any]]) -> None:
    """Do `act` with each, `ATTACKERS` of them at once."""
    queue = iter(items)

    async def work() -> None:
        for item in queue:
            await act(item)

    async with anyio.create_task_group() as tasks:
        for _ in range(ATTACKERS):
            tasks.start_soon(work)


class Attackers:
    """Send requests, and keep what is wrong with the answers."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    async def send_all(self, corpus: Iterable[Attack]) -> None:
        """Send all requests, several at once."""
        await each_of(corpus, self.send)

    async def send(self, attack: Attack, before: str = "") -> httpx.Response | None:
        """The answer to one request, judged; None if there was none. `before`: what led to it, for the report."""
        url = self._http.base_url.copy_with(raw_path=attack.path.encode())
        headers = [(name.encode(), value.encode("latin-1")) for name, value in attack.headers.items()]
        request = self._http.build_request(attack.method, url, content=attack.body, headers=headers)
        said = f"{before}{attack.method} {attack.path[:120]} {dict(attack.headers)} {(attack.body or b'')[:200]!r}"
        try:
            with anyio.fail_after(ANSWER_S):
                answer = await self._answer(request)
        except (TimeoutError, httpx.TransportError) as error:
            self.wrong.append(f"{type(error).__name__}: {said[:600]}")
            return None
        self._judge(said[:600], answer)
        return answer

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        """The answer; of a stream, which may have no end, its head."""
        answer = await self._http.send(request, stream=True)
        try:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                await answer.aread()
        finally:
            await answer.aclose()
        return answer

    def _judge(self, said: str, answer: httpx.Response) -> None:
        self.statuses[answer.status_code] += 1
        overloaded = answer.status_code == 503 and "retry-after" in answer.headers
        if answer.status_code >= 500 and not overloaded:
            self.wrong.append(f"{answer.status_code} {answer.text[:200]}: {said}")
        elif answer.status_code >= 400 and not _is_problem(answer):
            self.wrong.append(f"no problem {answer.status_code} {answer.text[:200]}: {said}")
        elif "x-injected" in answer.headers:
            self.wrong.append(f"a header was injected: {said}")


def _is_problem(answer: httpx.Response) -> bool:
    """Whether a refusal has the form of its API: that of OpenAI below `/v1/`, that of JSON-RPC at MCP and A2A."""
    body = answer.json() if answer.headers.get("content-type") == "application/json" else None
    if not isinstance(body, dict):
        return False
    if {"detail", "code"} <= body.keys():
        return True
    error = body.get("error")
    if not isinstance(error, dict):
        return False
    if answer.url.path.startswith(("/mcp", "/a2a/")):
        return body.get("jsonrpc") == "2.0" and {"message", "code"} <= error.keys()
    return answer.url.path.startswith("/v1/") and {"message", "type", "code"} <= error.keys()
