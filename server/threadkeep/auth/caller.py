"""Caller: who asks for something, and the one who decides what they may do. Every surface hands one to the services."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from threadkeep.auth.authenticator import Door, Value
from threadkeep.auth.authorization import Event
from threadkeep.auth.principal import Principal
from threadkeep.base.problems import Forbidden
from threadkeep.postgres.tenancy import EVERYTHING, Filters


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal, or anybody if authentication is off (`authenticator` is None)."""

    principal: Principal | None
    authenticator: Door | None
    slot: Any = None
    """The slot of the graph that calls from within (`runs/slots.py`), which waits for the runs that it asks for."""

    identity: str | None = field(init=False)
    """The principal's identity. None: nobody known, and so nobody to count."""
    user: Mapping[str, Any] | None = field(init=False)
    """The principal as graphs see them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", self.principal.identity if self.principal else None)
        object.__setattr__(self, "user", self.principal.user if self.principal else None)

    async def authorize(self, event: Event, value: Value) -> Filters:
        """The rows that the caller may see for this event. `value` may be changed. Forbidden."""
        if self.authenticator is None:
            return EVERYTHING
        if self.principal is None:
            raise Forbidden("the path is for anybody, and shows nobody's")
        return await self.authenticator.authorize(self.principal, event, value)


ANYBODY: Final = Caller(None, None)
"""The caller while authentication is off."""
