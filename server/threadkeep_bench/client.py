"""The client of the report: sends timed turns on threads, and reads the server's limits and load.

A request that fails is a turn without an answer, with its reason. It never ends the measurement.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx
from pydantic import BaseModel, Field

REQUEST_S = 60.0
"""Seconds to wait for one answer. A server's own queue timeout (30 s by default) ends sooner."""
POOLS = 32
"""httpx looks at every connection of a pool for each request. With 200 in one pool, the client would be measured, not the server."""
FORGET_S = 10.0
"""Seconds for the deletion of the threads that the report made."""


class Block(BaseModel):
    """One part of a message whose content is a list."""

    text: str = ""


class Message(BaseModel):
    """A message of a thread's values."""

    content: str | list[Block | str] = ""

    @property
    def text(self) -> str:
        """Return the content as plain text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part if isinstance(part, str) else part.text for part in self.content)


class Values(BaseModel):
    """The answer of `/runs/wait`: the final values, or an error in their place."""

    messages: list[Message] = Field(default_factory=list[Message])
    error: dict[str, object] | None = Field(default=None, alias="__error__")


class Thread(BaseModel):
    """A new thread."""

    thread_id: str


class Limits(BaseModel):
    """The limits in a server's `/info`. Other servers of this API have none."""

    run_slots: int | None = None


class Load(BaseModel):
    """The load in a server's `/info`."""

    running: int | None = None


class Info(BaseModel):
    """`GET /info`."""

    version: str = "unknown"
    limits: Limits = Limits()
    load: Load = Load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A question to a thread. Times are from this process's monotonic clock."""

    question: str
    sent_s: float
    answered_s: float
    conversation: tuple[str, ...] = ()
    """The text of every message of the thread after the turn, oldest first. Empty if there was no answer."""
    error: str | None = None

    @property
    def latency_s(self) -> float:
        """Seconds from the request to the end of the response."""
        return self.answered_s - self.sent_s

    @property
    def answered(self) -> bool:
        """Return whether the thread has an answer after this question."""
        # Not the last message: that one must be the answer. The offline model quotes the question in it.
        return self.question in self.conversation[:-1]


class NoAnswerError(Exception):
    """The server's answer does not have the values of a run."""


class Client:
    """One server. `forget` deletes the threads that this client has made."""

    def __init__(self, pools: Sequence[httpx.AsyncClient]) -> None:
        self._pools = pools
        self._busy = [0] * len(pools)
        self.threads: list[str] = []

    async def info(self) -> Info:
        """Return the server's `/info`. Fields that it does not have are None."""
        answer = await self._send("GET", "/info")
        return Info.model_validate_json(answer.content) if answer.is_success else Info()

    async def thread(self) -> str:
        """Create a thread."""
        answer = await self._send("POST", "/threads", {})
        answer.raise_for_status()
        thread_id = Thread.model_validate_json(answer.content).thread_id
        self.threads.append(thread_id)
        return thread_id

    async def turn(self, question: str, latency_s: float, *, thread_id: str | None = None) -> Turn:
        """Ask on the named thread or on a new one, and wait for the answer. It takes the model `latency_s` seconds."""
        sent_s = time.perf_counter()
        conversation: tuple[str, ...] = ()
        error = None
        try:
            # The timeout of httpx is for each read, so a server that sends a byte now and then would never end.
            with anyio.fail_after(REQUEST_S):
                conversation = await self._run(thread_id or await self.thread(), question, latency_s)
        # ValueError is pydantic's, for an answer that is no JSON of this API.
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
        """Delete the threads made so far. Give up after `FORGET_S` seconds."""
        with anyio.move_on_after(FORGET_S):
            for thread_id in self.threads:
                try:
                    await self._send("DELETE", f"/threads/{thread_id}")
                # A server that does not answer would fail for each of the other threads too.
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
        """Send by the least busy pool. Among equals, the first pool has open connections."""
        place = min(range(len(self._pools)), key=self._busy.__getitem__)
        self._busy[place] += 1
        try:
            return await self._pools[place].request(method, path, json=body)
        finally:
            self._busy[place] -= 1


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Client]:
    """Yield a client of the server at `url`. Proxies that the environment names are not used."""
    # httpx's default of 100 connections would queue the burst in the client.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    # One for all pools: each context reads the certificates again, which takes some tens of milliseconds.
    trust = httpx.create_ssl_context(trust_env=False)
    async with AsyncExitStack() as stack:
        pools = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, timeout=REQUEST_S, limits=limits, trust_env=False, verify=trust)
            )
            for _ in range(POOLS)
        ]
        yield Client(pools)
