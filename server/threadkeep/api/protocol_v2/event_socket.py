"""Event socket: commands and events of the protocol v2 on one WebSocket.

However many subscriptions there are, the thread is followed once and its events leave in order: a client may take the
end of a run for the end of all that it subscribed to. A new subscription begins with recent runs, of which the others
get nothing again.
"""

import logging
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from starlette.websockets import WebSocket, WebSocketDisconnect

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
"""Of one socket."""
SEND_TIMEOUT_S: Final = 30.0
"""How long a client may take to read one frame before it is cut."""
UNSUPPORTED_DATA: Final = 1003
SERVICE_RESTART: Final = 1012
TRY_AGAIN: Final = 1013
"""Close codes: come again, to another process or when there is time to read."""


async def serve(call: AuthorizedRequest[None, None], websocket: WebSocket) -> None:
    """WS /threads/{thread_id}/stream/events: commands in, their answers and the events subscribed to out."""
    await _SocketSession(call, websocket).run()


@dataclass(slots=True, eq=False)
class _ActiveSubscription:
    """A subscription, and the seq up to which it was served; None: from recent runs on."""

    subscription: Subscription
    delivered_seq: int | None

    def needs(self, event: ProtocolEvent) -> bool:
        """It was not served that far yet."""
        return self.delivered_seq is None or is_new(event.seq, self.delivered_seq)


class _SocketSession:
    """One socket, its subscriptions, and the lock that keeps frames whole."""

    def __init__(self, call: AuthorizedRequest[None, None], websocket: WebSocket) -> None:
        self._call = call
        self._websocket = websocket
        self._sending = anyio.Lock()
        self._tasks = anyio.create_task_group()
        self._subscriptions: dict[str, _ActiveSubscription] = {}
        self._recent = 0
        """The queue position behind which runs are recent."""
        self._following = anyio.CancelScope()
        """Around who follows the thread; cancelled by a new subscription, for the thread is to be followed anew then."""
        self._turn = anyio.Lock()
        """Of him who follows."""
        self._methods: Methods = {
            **commands.served(call.state.project.http),
            "subscription.subscribe": self._subscribe,
            "subscription.unsubscribe": self._unsubscribe,
            "subscription.reconnect": self._reconnect,
        }

    async def run(self) -> None:
        """Carry out commands until the client leaves."""
        async with self._tasks:
            self._tasks.start_soon(self._end_with_the_process)
            self._tasks.start_soon(self._end_with_the_access)
            try:
                while (text := await self._receive_text()) is not None:
                    await self._command(text)
                await self._websocket.close(UNSUPPORTED_DATA, "commands are text frames")
            except WebSocketDisconnect:
                pass
            self._tasks.cancel_scope.cancel()

    async def _receive_text(self) -> str | None:
        """The next frame, or None if it is a binary frame, which the protocol does not have."""
        try:
            return await self._websocket.receive_text()
        except KeyError:
            return None

    async def _command(self, text: str) -> None:
        raw = text.encode()
        if len(raw) > self._call.state.settings.max_body_bytes:
            await self._close(ContentTooLarge("the command is too large"))
            return
        try:
            sent = read_command(raw)
        except InvalidRequest as problem:
            await self._send(json.dumps(error_frame(problem)))
            return
        if not await self._is_still_let_in(sent):
            return
        await self._send(json.dumps(await self._performed(sent)))
        if self._following.cancel_called:
            self._following = anyio.CancelScope()
            self._tasks.start_soon(self._follow, self._following)

    async def _is_still_let_in(self, sent: CommandBody) -> bool:
        """A command is asked for like a request. The socket of a caller who is no longer let in is closed."""
        try:
            await self._call.caller.check()
        except (ServiceUnavailable, *DATABASE):  # nobody can say
            await self._send(json.dumps(error_frame(ServiceUnavailable()) | {"id": sent.id}))
            return False
        except Problem as problem:
            await self._close(problem)
            return False
        return True

    async def _performed(self, sent: CommandBody) -> dict[str, Any]:
        try:
            self._count()
            return await execute_command(self._call, sent, self._methods)
        except Problem as problem:
            scope = self._websocket.scope
            refused_command(scope, scope["endpoint"], problem.status, sent.method)
            return error_frame(problem) | {"id": sent.id}
        except CONFLICTS:
            return error_frame(TransactionConflict()) | {"id": sent.id}
        except DATABASE:
            return error_frame(ServiceUnavailable()) | {"id": sent.id}

    def _count(self) -> None:
        """A command is one request of its principal's, as it is over HTTP."""
        if (identity := self._call.caller.identity) is not None:
            self._call.state.quotas.count_request(identity)

    async def _subscribe(self, call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
        """Events of some channels, from recent runs or from `since` on."""
        try:
            wanted, since = subscription.parse_subscription(params), subscription.parse_since(params)
        except InvalidRequest as problem:
            raise CommandError("invalid_argument", problem.detail) from None
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise CommandError("invalid_argument", f"a socket has at most {MAX_SUBSCRIPTIONS} subscriptions")
        self._recent = await record_thread_events(call.state.runs.follower, call.filters, call.thread_id)
        subscription_id = str(ids.uuid7())
        self._subscriptions[subscription_id] = _ActiveSubscription(wanted, since)
        self._following.cancel()
        return CommandResult({"subscription_id": subscription_id, "replayed_events": 0})

    async def _unsubscribe(self, call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
        del call
        if self._subscriptions.pop(str(params.get("subscription_id")), None) is None:
            raise CommandError("no_such_subscription", "There is no such subscription on this connection.")
        return CommandResult({})

    async def _reconnect(self, call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
        """Subscriptions end with their socket; those that are asked for are there or are not."""
        del call
        asked = params.get("subscriptions")
        wanted = cast("list[object]", asked) if isinstance(asked, list) else []
        return CommandResult({"restored": bool(wanted) and all(str(one) in self._subscriptions for one in wanted)})

    async def _follow(self, scope: anyio.CancelScope) -> None:
        """Serve all subscriptions, until there is one more."""
        async with self._turn:
            with scope:
                await self._serve()
            if not scope.cancel_called:
                await self._leave()

    async def _serve(self) -> None:
        several = list(self._subscriptions.values())
        places = [one.delivered_seq for one in several if one.delivered_seq is not None]
        told = follow_protocol(
            self._call.state.runs.follower,
            self._call.filters,
            self._call.thread_id,
            recent=self._recent,
            since=min(places) if len(places) == len(several) and places else None,
            channels=frozenset[str]().union(*(one.subscription.families for one in several)),
        )
        with suppress(NotFound, *DATABASE):
            async with aclosing(told) as items:
                async for item in items:
                    await checkpoint_if_cancelled()  # nothing else here is sure to notice
                    with anyio.CancelScope(shield=True):
                        await self._tell(item, several)

    async def _tell(self, item: ProtocolItem, several: list[_ActiveSubscription]) -> None:
        """What those are to get that were there when the following began; who came since begins anew."""
        if isinstance(item, Gap):
            await self._send(gap_frame(item))
            return
        lacking = [one for one in several if one.needs(item) and one in self._subscriptions.values()]
        if any(one.subscription.wants(item) for one in lacking):
            await self._send(item.encode())
        for one in lacking:
            one.delivered_seq = item.seq

    async def _leave(self) -> None:
        """The thread can't be followed any longer: the process stops, Postgres is away, or the thread is gone."""
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
        """Also where nothing is followed; what is being followed ends by itself."""
        await self._call.state.signals.leaving.wait()
        await anyio.sleep(SHUTDOWN_WRITE_S)
        await self._end(SERVICE_RESTART)

    async def _end_with_the_access(self) -> None:
        """Close the socket of a caller who is no longer let in."""
        problem = await self._call.caller.until_refused()
        log.info("a socket was closed: its caller is no longer let in")
        await self._close(problem)

    async def _send(self, frame: bytes) -> None:
        """One frame; a client that does not read is cut."""
        with anyio.move_on_after(SEND_TIMEOUT_S) as limit:
            async with self._sending:
                await self._websocket.send_text(frame.decode())
        if limit.cancelled_caught:
            await self._end(TRY_AGAIN)

    async def _close(self, problem: Problem) -> None:
        with anyio.move_on_after(SEND_TIMEOUT_S):
            async with self._sending:
                await close_with_problem(self._websocket, problem)
        self._tasks.cancel_scope.cancel()

    async def _end(self, code: int) -> None:
        with anyio.move_on_after(1):
            await self._websocket.close(code)
        self._tasks.cancel_scope.cancel()
