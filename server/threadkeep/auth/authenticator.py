"""Door: who comes in, and what of it all they may see.

A door is closed unless it says otherwise: whatever goes wrong behind it is an exception, and an exception is no
entrance. Where there is no door, authentication is off.
"""

from typing import Any, Protocol, TypeAlias

from starlette.requests import HTTPConnection

from threadkeep.auth.authorization import Event
from threadkeep.auth.principal import Principal
from threadkeep.base.problems import Unauthenticated
from threadkeep.postgres.tenancy import Filters

Value: TypeAlias = dict[str, Any]
"""What a request wants, as `langgraph_sdk.auth.types` describes it for each event. It may be changed."""

CHALLENGE = 'Bearer realm="threadkeep"'


class Door(Protocol):
    """One way of knowing callers."""

    @property
    def reads_body(self) -> bool:
        """It may look into the body of a request to know its caller."""
        ...

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        """Who is calling; Unauthenticated, or another problem, where nobody is let in."""
        ...

    async def authorize(self, principal: Principal, event: Event, value: Value) -> Filters:
        """What the principal may see; may change `value`, which is then what is done. Forbidden where not even that."""
        ...


def token(connection: HTTPConnection) -> str:
    """What the caller shows: `Authorization: Bearer …`, or `x-api-key`. Unauthenticated where there is neither."""
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    if key := connection.headers.get("x-api-key", "").strip():
        return key
    raise Unauthenticated("a token is needed: Authorization: Bearer …, or x-api-key", challenge=CHALLENGE)


def unknown() -> Unauthenticated:
    """For a token that was shown and opens nothing; why is the log's."""
    return Unauthenticated("the token is not valid", challenge=f'{CHALLENGE}, error="invalid_token"')
