"""Caller: a principal with the authenticator that authorizes it. Every API surface passes a caller to the services."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import anyio
from starlette.requests import HTTPConnection

from threadkeep.auth.authenticator import CHALLENGE, Authenticator, AuthValue
from threadkeep.auth.authorization import AuthEvent
from threadkeep.auth.principal import Principal
from threadkeep.base.problems import Forbidden, Problem, ServiceUnavailable, Unauthenticated
from threadkeep.postgres.retry import TRANSIENT_ERRORS
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal, or an anonymous caller if authentication is off (`authenticator` is None)."""

    principal: Principal | None
    authenticator: Authenticator | None
    slot: Any = None
    """The slot of the graph that sends the request (`runs/slots.py`), which waits for the runs that it starts."""
    connection: HTTPConnection | None = field(default=None, repr=False, compare=False)
    """The connection with the caller's credentials, for later checks."""

    identity: str | None = field(init=False)
    """The principal's identity. None for an anonymous caller, whose requests are not counted."""
    user: Mapping[str, Any] | None = field(init=False)
    """The principal as graphs see it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", self.principal.identity if self.principal else None)
        object.__setattr__(self, "user", self.principal.user if self.principal else None)

    async def authorize(self, event: AuthEvent, value: AuthValue) -> Filters:
        """Return the filters of the rows that the caller may see. It may change `value`. Raise Forbidden."""
        if self.authenticator is None:
            return UNRESTRICTED
        if self.principal is None:
            raise Forbidden("this path is public and shows no data of users")
        return await self.authenticator.authorize(self.principal, event, value)

    async def check(self) -> None:
        """Authenticate the caller again. Raise Unauthenticated or another Problem if it is refused or has changed."""
        authenticator, principal = self.authenticator, self.principal
        if authenticator is None or principal is None or self.connection is None or not authenticator.recheck_s:
            return
        current = await authenticator.authenticate(self.connection)
        # Streams were authorized with the earlier permissions, and are not authorized again.
        if (current.identity, current.permissions) != (principal.identity, principal.permissions):
            raise Unauthenticated("the caller's permissions have changed: send the request again", challenge=CHALLENGE)

    async def until_refused(self) -> Problem:
        """Wait until the caller's access is revoked, and return the problem.

        While the authenticator cannot answer, for example while Postgres is down, the caller keeps its access.
        """
        if self.authenticator is None or not self.authenticator.recheck_s:
            await anyio.sleep_forever()
            raise AssertionError  # never reached, which the type of sleep_forever does not say
        while True:
            await anyio.sleep(self.authenticator.recheck_s)
            try:
                await self.check()
            except (ServiceUnavailable, *TRANSIENT_ERRORS):
                log.warning("caller of an open stream not checked: the authenticator does not answer", exc_info=True)
            except Problem as problem:
                return problem
            except Exception:  # a failure of the project's own authenticate grants no access
                log.exception("caller of an open stream not checked: the authenticator failed")
                return ServiceUnavailable("the caller can't be authenticated now: send the request again")

    async def guard(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return or raise the result of `work`. If the caller's access is revoked before, cancel it and raise the problem."""
        # For the type checker. One of the two tasks always replaces it.
        outcome: Result | Exception = ServiceUnavailable()
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal outcome
                outcome = await self.until_refused()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            try:
                outcome = await work()
            except Exception as failure:  # noqa: BLE001 - raised below, outside of the task group, which would wrap it
                outcome = failure
            tasks.cancel_scope.cancel()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


ANYBODY: Final = Caller(None, None)
"""The caller while authentication is off."""
