"""Event socket: commands and events of the protocol v2 on one WebSocket.

All subscriptions of a socket share one reader of the thread, and events are sent in order. A client may therefore treat
the end of a run as the end of all its subscriptions to it. A new subscription starts with recent runs. The other
subscriptions do not get their events again.
"""

import logging
from collections.abc import Generator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from threadkeep.api.audit import refused_command
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.protocol_v2 import commands, subscription
from threadkeep.api.protocol_v2.commands import (
    CommandBody,
    CommandError,
    CommandResult,
    Methods,
    Params,
    execute_command,
    read_command,
)
from threadkeep.api.protocol_v2.event_stream import gap_frame
from threadkeep.api.protocol_v2.events import ProtocolEvent, is_new
from threadkeep.api.protocol_v2.follow import ProtocolItem, follow_protocol, record_thread_events
from threadkeep.api.protocol_v2.subscription import Subscription
from threadkeep.api.socket import DATABASE, close_with_problem, error_frame
from threadkeep.api.streaming import SHUTDOWN_WRITE_S
from threadkeep.base import ids, json
from threadkeep.base.problems import (
    ContentTooLarge,
    InvalidRequest,
    NotFound,
    Problem,
    ServiceUnavailable,
    TransactionConflict,
)
from threadkeep.postgres.retry import CONFLICTS
from threadkeep.runs.event_log import Gap

log = logging.getLogger(__name__)

MAX_SUBSCRIPTIONS: Final = 32
"""Largest number of subscriptions on one socket."""
SEND_TIMEOUT_S: Final = 30.0
"""Seconds that a client may take to read one frame before the socket is closed."""
UNSUPPORTED_DATA: Final = 1003
SERVICE_RESTART: Final = 1012
TRY_AGAIN: Final = 1013
"""Close codes that ask the client to reconnect: the process stops, or the client reads too slowly."""


async def serve(call: AuthorizedRequest[None, None], websocket: WebSocket) -> None:
    """WS /threads/{thread_id}/stream/events: receive commands, send their results and the subscribed events."""
    await _SocketSession(call, websocket).run()


@dataclass(slots=True, eq=False)
class _ActiveSubscription:
    """A subscription and the seq of its last event. None: it starts with recent runs."""

    subscription: Subscription
    delivered_seq: int | None

    def needs(self, event: ProtocolEvent) -> bool:
        """Whether the subscription has not had this event."""
        return self.delivered_seq is None or is_new(event.seq, self.delivered_seq)


class _SocketSession:
    """One socket and its subscriptions. A lock lets one task send at a time."""

    def __init__(self, call: AuthorizedRequest[None, None], websocket: WebSocket) -> None:
        self._call = call
        self._websocket = websocket
        self._sending = anyio.Lock()
        self._tasks = anyio.create_task_group()
        self._subscriptions: dict[str, _ActiveSubscription] = {}
        self._recent = 0
        """The queue position after which runs are recent."""
        self._following = anyio.CancelScope()
        """Cancels the reader of the thread. A new subscription does so, because the thread must be read again for it."""
        self._turn = anyio.Lock()
        """Held by the one reader of the thread."""
        self._methods: Methods = {
            **commands.served(call.state.project.http),
            "subscription.subscribe": self._subscribe,
            "subscription.unsubscribe": self._unsubscribe,
            "subscription.reconnect": self._reconnect,
        }

    async def run(self) -> None:
        """Execute commands until the client disconnects."""
        async with self._tasks:
            self._tasks.start_soon(self._end_with_the_process)
            self._tasks.start_soon(self._end_with_the_access)
            try:
                while (text := await self._receive_text()) is not None:
                    await self._command(text)
                await self._end(UNSUPPORTED_DATA, "commands are text frames")
            except WebSocketDisconnect:
                pass
            self._tasks.cancel_scope.cancel()

    async def _receive_text(self) -> str | None:
        """The next frame, or None if it is a binary frame, which the protocol does not have."""
        try:
            return await self._websocket.receive_text()
        # Starlette reads the key `text`, which a binary frame does not have.
        except KeyError:
            return None

    async def _command(self, text: str) -> None:
        raw = text.encode()
        if len(raw) > self._call.state.settings.max_body_bytes:
            await self._close(ContentTooLarge("the command is too large"))
            return
        try:
            body = read_command(raw)
        except InvalidRequest as problem:
            await self._send(json.dumps(error_frame(problem)))
            return
        if not await self._has_access(body):
            return
        await self._send(json.dumps(await self._execute(body)))
        # The new reader starts after the response, so that the client knows its subscription before the first event.
        if self._following.cancel_called:
            self._following = anyio.CancelScope()
            self._tasks.start_soon(self._follow, self._following)

    async def _has_access(self, body: CommandBody) -> bool:
        """Check the caller again, as for a request. If access is revoked, close the socket and return False.

        If the authenticator cannot answer, only this command is refused.
        """
        try:
            await self._call.caller.check()
        except (ServiceUnavailable, *DATABASE):
            await self._send(json.dumps(error_frame(ServiceUnavailable()) | {"id": body.id}))
            return False
        except Problem as problem:
            await self._close(problem)
            return False
        return True

    async def _execute(self, body: CommandBody) -> dict[str, Any]:
        try:
            self._count()
            return await execute_command(self._call, body, self._methods)
        except Problem as problem:
            scope = self._websocket.scope
            refused_command(scope, scope["endpoint"], problem.status, body.method)
            return error_frame(problem) | {"id": body.id}
        except CONFLICTS:
            return error_frame(TransactionConflict()) | {"id": body.id}
        except DATABASE:
            return error_frame(ServiceUnavailable()) | {"id": body.id}

    def _count(self) -> None:
        """Count the command as one request of the principal, as over HTTP."""
        if (identity := self._call.caller.identity) is not None:
            self._call.state.quotas.count_request(identity)

    async def _subscribe(self, call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
        """Subscribe to channels, from recent runs or from the event after `since`."""
        try:
            new_subscription, since = subscription.parse_subscription(params), subscription.parse_since(params)
        except InvalidRequest as problem:
            raise CommandError("invalid_argument", problem.detail) from None
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise CommandError("invalid_argument", f"a socket has at most {MAX_SUBSCRIPTIONS} subscriptions")
        self._recent = await record_thread_events(call.state.runs.follower, call.filters, call.thread_id)
        subscription_id = str(ids.uuid7())
        self._subscriptions[subscription_id] = _ActiveSubscription(new_subscription, since)
        self._following.cancel()
        return CommandResult({"subscription_id": subscription_id, "replayed_events": 0})

    async def _unsubscribe(self, call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
        del call
        if self._subscriptions.pop(str(params.get("subscription_id")), None) is None:
            raise CommandError("no_such_subscription", "The subscription does not exist on this connection.")
        return CommandResult({})

    async def _reconnect(self, call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
        """Tell whether all named subscriptions exist. A subscription ends with its socket, so none can be restored."""
        del call
        names = params.get("subscriptions")
        subscription_ids = cast("list[object]", names) if isinstance(names, list) else []
        restored = bool(subscription_ids) and all(str(name) in self._subscriptions for name in subscription_ids)
        return CommandResult({"restored": restored})

    async def _follow(self, scope: anyio.CancelScope) -> None:
        """Serve all subscriptions until a new one is added."""
        # The previous reader may still be within its shield.
        async with self._turn:
            with scope:
                await self._serve()
            if not scope.cancel_called:
                await self._leave()

    async def _serve(self) -> None:
        subscriptions = list(self._subscriptions.values())
        places = [active.delivered_seq for active in subscriptions if active.delivered_seq is not None]
        events = follow_protocol(
            self._call.state.runs.follower,
            self._call.filters,
            self._call.thread_id,
            recent=self._recent,
            # One subscription without a position needs the recent runs, so the reader starts with them for all.
            since=min(places) if len(places) == len(subscriptions) and places else None,
            channels=frozenset[str]().union(*(active.subscription.families for active in subscriptions)),
        )
        # `_leave` finds the reason out, and tells the client.
        with suppress(NotFound, *DATABASE):
            async with aclosing(events) as items:
                async for item in items:
                    await checkpoint_if_cancelled()  # the rest of the loop may never await outside the shield
                    # A cancelled send would leave open whether the client has the event.
                    with anyio.CancelScope(shield=True):
                        await self._deliver(item, subscriptions)

    async def _deliver(self, item: ProtocolItem, subscriptions: list[_ActiveSubscription]) -> None:
        """Send an item once if any of these subscriptions needs it. Later subscriptions get a new reader."""
        if isinstance(item, Gap):
            await self._send(gap_frame(item))
            return
        lacking = [active for active in subscriptions if active.needs(item) and active in self._subscriptions.values()]
        if any(active.subscription.wants(item) for active in lacking):
            await self._send(item.encode())
        for active in lacking:
            # Also for an event that the filter drops, so that a new reader does not start before it.
            active.delivered_seq = item.seq

    async def _leave(self) -> None:
        """Close the socket after its reader ended: the process stops, Postgres is down, or the thread was deleted."""
        if self._call.state.signals.leaving.is_set():
            await self._end(SERVICE_RESTART)
            return
        try:
            await record_thread_events(self._call.state.runs.follower, self._call.filters, self._call.thread_id)
        except NotFound as problem:
            await self._close(problem)
            return
        except DATABASE:
            pass
        await self._close(ServiceUnavailable())

    async def _end_with_the_process(self) -> None:
        """Close the socket when the process stops, even if it has no subscription. A reader ends by itself."""
        await self._call.state.signals.leaving.wait()
        await anyio.sleep(SHUTDOWN_WRITE_S)
        await self._end(SERVICE_RESTART)

    async def _end_with_the_access(self) -> None:
        """Close the socket once the caller's access is revoked."""
        problem = await self._call.caller.until_refused()
        log.info("socket closed: its caller no longer has access")
        await self._close(problem)

    async def _send(self, frame: bytes) -> None:
        """Send one frame. If the client does not read it within SEND_TIMEOUT_S, close the socket."""
        with anyio.move_on_after(SEND_TIMEOUT_S) as limit:
            async with self._sending:
                if self._is_open:
                    with self._ending_if_gone():
                        await self._websocket.send_text(frame.decode())
        if limit.cancelled_caught:
            await self._end(TRY_AGAIN)

    async def _close(self, problem: Problem) -> None:
        with anyio.move_on_after(SEND_TIMEOUT_S):
            async with self._sending:
                if self._is_open:
                    with self._ending_if_gone():
                        await close_with_problem(self._websocket, problem)
        self._tasks.cancel_scope.cancel()

    async def _end(self, code: int, reason: str | None = None) -> None:
        # Without the lock, which a blocked frame may hold.
        with anyio.move_on_after(1), self._ending_if_gone():
            if self._is_open:
                await self._websocket.close(code, reason)
        self._tasks.cancel_scope.cancel()

    @property
    def _is_open(self) -> bool:
        """Whether a frame may still be sent. A task may wait for the lock while another one closes the socket."""
        return self._websocket.application_state is WebSocketState.CONNECTED

    @contextmanager
    def _ending_if_gone(self) -> Generator[None]:
        """End the session if the client leaves while a frame waits for it."""
        try:
            yield
        # In a task of the group, the exception would end the session as a fault of the server.
        except WebSocketDisconnect:
            self._tasks.cancel_scope.cancel()
