"""Webhooks: sends a POST to the URL of a run after the run has ended.

A run never waits for its webhook, and a failed webhook does not change the run. Deliveries are rows in Postgres, so
another process continues after a crash. A delivery may be sent twice, but a crash never loses one.
"""

import ipaddress
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, TypeAlias

import anyio
import httpx
from anyio.abc import TaskGroup

from threadkeep import __version__
from threadkeep.base import json
from threadkeep.base.fair_limiter import BACKGROUND, FairLimiter, Place, quarter
from threadkeep.base.problems import ValidationFailed
from threadkeep.postgres.listen import NotificationHub
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.retry import retry_conflicts
from threadkeep.runs.webhook_policy import WebhookPolicy
from threadkeep.tables import webhook_deliveries
from threadkeep.tables.webhook_deliveries import WEBHOOK_DUE, Delivery

log = logging.getLogger(__name__)

MAX_CONCURRENT = 8
"""The most webhooks that are sent at once. Principals share them by the rules of `base/fair_limiter.py`."""
MAX_ATTEMPTS = 3
TIMEOUT_S = 5.0
"""Seconds for one attempt, from the DNS lookup to the response status."""
BACKOFF_S = (1.0, 10.0)
"""Seconds before the second attempt, and before the third."""
LEASE_S = 30.0
"""Seconds after a claim when another process may claim the webhook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """The body of a request, and the headers that it has beside those of all webhooks."""

    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


TaskRenderer: TypeAlias = Callable[[Delivery], Awaitable[Notification | None]]
"""Makes the notification of a task. None: the notification is no longer needed."""
DeliveryOutcome: TypeAlias = Literal["sent", "again", "never"]


class WebhookSender:
    """Duty: send webhooks as they come due."""

    topic: ClassVar[str | None] = WEBHOOK_DUE
    interval_s: float = 5.0

    def __init__(
        self, pool: Pool, wakeups: NotificationHub, policy: WebhookPolicy, client: httpx.AsyncClient, senders: "Senders"
    ) -> None:
        self._pool = pool
        self._wakeups = wakeups
        self._policy = policy
        self._client = client
        self._tasks = senders.tasks
        self._limiter = senders.limiter
        self.task_renderer: TaskRenderer | None = None
        """Set by the surface that has tasks."""
        self._last_principal: str | None = None
        """The principal of the last claimed delivery."""

    async def run_once(self) -> float | None:
        """Start to send all due webhooks. Returns the seconds until the next one is due."""
        while claimed := await self._claim():
            place, delivery = claimed
            self._tasks.start_soon(self._send, place, delivery, name=f"webhook {delivery.run_id}")
        async with self._pool.connection() as conn:
            # The end of a webhook wakes the sender, so that principals that are held back get their turn.
            return await webhook_deliveries.seconds_to_next(conn, self._limiter.held_back())

    async def _claim(self) -> tuple[Place, Delivery] | None:
        """A place in the limiter, and the delivery of the next principal. None if nothing may be sent now."""
        # Before the claim, because the lease of a claimed delivery runs while it waits.
        place = await self._limiter.acquire(BACKGROUND)
        delivery = None
        try:
            held_back = self._limiter.held_back()
            async with self._pool.connection() as conn:
                delivery = await webhook_deliveries.claim(
                    conn, lease_s=LEASE_S, after_principal=self._last_principal, held_back=held_back
                )
        finally:
            if delivery is None:
                place.release()
        if delivery is None:
            return None
        self._last_principal = delivery.principal
        place.assign(delivery.principal)
        return place, delivery

    async def _send(self, place: Place, delivery: Delivery) -> None:
        try:
            await self.send(delivery)
        except Exception:
            log.exception("webhook not sent", extra={"run_id": str(delivery.run_id)})
        finally:
            place.release()
            self._wakeups.publish(WEBHOOK_DUE)

    async def send(self, delivery: Delivery) -> None:
        """Make one attempt. Then delete or reschedule the delivery."""
        verdict: DeliveryOutcome = "never"
        # A process that died during an attempt did not delete the delivery, so the number is checked here too.
        if delivery.attempt <= MAX_ATTEMPTS and self._policy.enabled:
            notification = await self._notification(delivery)
            verdict = "never" if notification is None else await self._post(delivery, notification)
        await retry_conflicts(lambda: self._settle(delivery, verdict))
        level = logging.INFO if verdict == "sent" else logging.WARNING
        fields = {"run_id": str(delivery.run_id), "verdict": verdict, "attempt": delivery.attempt}
        log.log(level, "webhook tried", extra=fields)

    async def _notification(self, delivery: Delivery) -> Notification | None:
        if not delivery.config_id:
            return Notification(content=webhook_payload(self._policy, delivery.body.load()))
        return None if self.task_renderer is None else await self.task_renderer(delivery)

    async def _post(self, delivery: Delivery, notification: Notification) -> DeliveryOutcome:
        """Resolve the host, check each of its addresses, and send to exactly these addresses."""
        policy = self._policy
        with anyio.move_on_after(TIMEOUT_S):
            try:
                url = policy.resolve_url(delivery.url)
                addresses = await _addresses(policy, url)
                return _verdict(await _status(policy, self._client, url, addresses, notification))
            except ValidationFailed as refused:
                log.warning("webhook refused", extra={"run_id": str(delivery.run_id), "reason": refused.detail})
                return "never"
            except UnicodeError:  # a label of the name is too long
                return "never"
            except (httpx.TransportError, OSError):
                return "again"
        return "again"

    async def _settle(self, delivery: Delivery, verdict: DeliveryOutcome) -> None:
        async with self._pool.connection() as conn:
            if verdict == "again" and delivery.attempt < MAX_ATTEMPTS:
                await webhook_deliveries.reschedule(conn, delivery, after_s=BACKOFF_S[delivery.attempt - 1])
            else:
                await webhook_deliveries.delete(conn, delivery)


@dataclass(frozen=True, slots=True)
class Senders:
    """The tasks that send, and the limit of their number."""

    tasks: TaskGroup
    limiter: FairLimiter


@asynccontextmanager
async def webhook_sender(
    pool: Pool, wakeups: NotificationHub, policy: WebhookPolicy, is_alone: Callable[[str], bool] = lambda _: False
) -> AsyncGenerator[WebhookSender]:
    """Yield a sender. The end of the block cancels its requests, and another process sends them again."""
    async with open_client() as client, anyio.create_task_group() as tasks:
        limiter = FairLimiter(MAX_CONCURRENT, reserve=quarter(MAX_CONCURRENT), is_alone=is_alone)
        yield WebhookSender(pool, wakeups, policy, client, Senders(tasks, limiter))
        tasks.cancel_scope.cancel()


def open_client() -> httpx.AsyncClient:
    """Create a client that follows no redirects and uses no proxy.

    It reuses no connection, because requests go to an IP address and a reused connection may have another host's
    certificate.
    """
    return httpx.AsyncClient(
        timeout=TIMEOUT_S,
        trust_env=False,
        verify=httpx.create_ssl_context(),
        limits=httpx.Limits(max_keepalive_connections=0),
        headers={"user-agent": f"threadkeep/{__version__}", "content-type": "application/json"},
    )


async def _addresses(policy: WebhookPolicy, url: httpx.URL) -> list[str]:
    """The addresses of the URL's host. ValidationFailed if one of them must not be called."""
    entries = await anyio.getaddrinfo(url.raw_host.decode("ascii"), url.port)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    for address in addresses:
        policy.check_address(ipaddress.ip_address(address))
    return addresses


async def _status(
    policy: WebhookPolicy,
    client: httpx.AsyncClient,
    url: httpx.URL,
    addresses: list[str],
    notification: Notification,
) -> int:
    """The response status of the first address that accepts a connection. The response body is not read."""
    certified = {"sni_hostname": url.raw_host.decode("ascii")}
    # `Headers` ignores case. With a dict, a `Host` of the project would be a second one, and the request would fail.
    headers = httpx.Headers(policy.headers)
    headers.update(notification.headers)
    headers["host"] = url.netloc.decode("ascii")
    failure: httpx.TransportError = httpx.ConnectError("the name has no address")
    for address in addresses:
        # The checked address itself: a second look-up of the name could return a private address.
        at = url.copy_with(host=address)
        content = notification.content
        request = client.build_request("POST", at, content=content, headers=headers, extensions=certified)
        try:
            answer = await client.send(request, stream=True)
        except httpx.ConnectError as refused:
            failure = refused
            continue
        # The receiver decides the size of its body, and only the status counts.
        await answer.aclose()
        return answer.status_code
    raise failure


def _verdict(status: int) -> DeliveryOutcome:
    if 200 <= status < 300:
        return "sent"
    return "again" if status == 429 or status >= 500 else "never"


def webhook_payload(policy: WebhookPolicy, run: Mapping[str, Any]) -> bytes:
    """The JSON body: the run's row, the thread's values, and the time of sending.

    It does not contain `configurable`, which may hold the headers and the identity of the run's principal.
    """
    kwargs: dict[str, Any] = run["kwargs"]
    config: dict[str, Any] = kwargs.get("config", {})
    public_config = {key: value for key, value in config.items() if key != "configurable"}
    full: dict[str, Any] = {**run, "kwargs": {**kwargs, "config": public_config}, "webhook_sent_at": datetime.now(UTC)}
    return json.dumps({key: value for key, value in full.items() if not policy.fields or key in policy.fields})
