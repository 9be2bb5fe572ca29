"""The wire, as much of it as the report needs: a turn on a thread, timed, and what the server tells of itself.

A request that fails is a turn without an answer, with its reason; it never ends the measurement.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx
from pydantic import BaseModel, Field

REQUEST_S = 60.0
"""The longest wait for one answer; a server's own line (30 s by default) ends sooner."""
POOLS = 32
"""httpx looks at every connection of a pool for each request: with 200 in one, the client would be what is measured."""
FORGET_S = 10.0
"""The time given to deleting the threads that the report made."""


class Block(BaseModel):
    """One part of a message whose content is a list."""

    text: str = ""


class Message(BaseModel):
    """A message of a thread's values."""

    content: str | list[Block | str] = ""

    @property
    def text(self) -> str:
        """The content as plain text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part if isinstance(part, str) else part.text for part in self.content)


class Values(BaseModel):
    """What `/runs/wait` answers: the final values, or an error in their place."""

    messages: list[Message] = Field(default_factory=list[Message])
    error: dict[str, object] | None = Field(default=None, alias="__error__")


class Thread(BaseModel):
    """A new thread."""

    thread_id: str


class Limits(BaseModel):
    """The limits that a server tells; other servers of this API tell none."""

    run_slots: int | None = None


class Load(BaseModel):
    """The load that a server tells."""

    running: int | None = None


class Info(BaseModel):
    """`GET /info`."""

    version: str = "unknown"
    limits: Limits = Limits()
    load: Load = Load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A question put to a thread; times are this process's monotonic clock."""

    question: str
    sent_s: float
    answered_s: float
    conversation: tuple[str, ...] = ()
    """The text of every message of the thread after the turn, oldest first; empty where no answer came."""
    error: str | None = None

    @property
    def latency_s(self) -> float:
        """From sending to the whole answer."""
        return self.answered_s - self.sent_s

    @property
    def answered(self) -> bool:
        """An answer came and stands behind the question that was asked."""
        return self.question in self.conversation[:-1]


class NoAnswerError(Exception):
    """The server answered, and not with a run's values."""


class Client:
    """One server; `forget` deletes the threads made through it."""

    def __init__(self, pools: Sequence[httpx.AsyncClient]) -> None:
        self._pools = pools
        self._busy = [0] * len(pools)
        self.threads: list[str] = []

    async def info(self) -> Info:
        """What the server tells of itself; the fields of one that tells nothing are None."""
        answer = await self._send("GET", "/info")
        return Info.model_validate_json(answer.content) if answer.is_success else Info()

    async def thread(self) -> str:
        """Make a thread."""
        answer = await self._send("POST", "/threads", {})
        answer.raise_for_status()
        thread_id = Thread.model_validate_json(answer.content).thread_id
        self.threads.append(thread_id)
        return thread_id

    async def turn(self, question: str, latency_s: float, *, thread_id: str | None = None) -> Turn:
        """Ask, on a new thread unless one is named, and wait for the answer, which takes the model `latency_s`."""
        sent_s = time.perf_counter()
        conversation: tuple[str, ...] = ()
        error = None
        try:
            with anyio.fail_after(REQUEST_S):
                conversation = await self._run(thread_id or await self.thread(), question, latency_s)
        except (httpx.HTTPError, NoAnswerError, TimeoutError, ValueError) as reason:
            error = f"{type(reason).__name__}: {reason}"
        return Turn(
            question=question,
            sent_s=sent_s,
            answered_s=time.perf_counter(),
            conversation=conversation,
            error=error,
        )

    async def forget(self) -> None:
        """Delete the threads made so far, as far as the server lets us in `FORGET_S` seconds."""
        with anyio.move_on_after(FORGET_S):
            for thread_id in self.threads:
                try:
                    await self._send("DELETE", f"/threads/{thread_id}")
                except httpx.HTTPError:
                    return
        self.threads.clear()

    async def _run(self, thread_id: str, question: str, latency_s: float) -> tuple[str, ...]:
        answer = await self._send(
            "POST",
            f"/threads/{thread_id}/runs/wait",
            {
                "assistant_id": "agent",
                "input": {"messages": [{"role": "user", "content": question}]},
                "config": {"configurable": {"simulated_latency_s": latency_s}},
            },
        )
        answer.raise_for_status()
        values = Values.model_validate_json(answer.content)
        if values.error is not None or not values.messages:
            raise NoAnswerError(values.error or "the run's values hold no messages")
        return tuple(message.text for message in values.messages)

    async def _send(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Send by the least busy pool, the first of equals, whose connections are open already."""
        place = min(range(len(self._pools)), key=self._busy.__getitem__)
        self._busy[place] += 1
        try:
            return await self._pools[place].request(method, path, json=body)
        finally:
            self._busy[place] -= 1


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Client]:
    """A client of the server at `url`, and of nothing else: proxies named by the environment are not used."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    trust = httpx.create_ssl_context(trust_env=False)
    async with AsyncExitStack() as stack:
        pools = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, timeout=REQUEST_S, limits=limits, trust_env=False, verify=trust)
            )
            for _ in range(POOLS)
        ]
        yield Client(pools)
