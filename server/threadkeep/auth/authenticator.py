"""Door: who comes in, and what of it all they may see.

A door is closed unless it says otherwise: whatever goes wrong behind it is an exception, and an exception is no
entrance. Where there is no door, authentication is off.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

from starlette.requests import HTTPConnection

from threadkeep.auth.authorization import AuthEvent
from threadkeep.auth.principal import Principal
from threadkeep.base.problems import Unauthenticated
from threadkeep.postgres.tenancy import Filters

AuthValue: TypeAlias = dict[str, Any]
"""What a request wants, as `langgraph_sdk.auth.types` describes it for each event. It may be changed."""

CredentialHeader: TypeAlias = Literal["authorization", "x-api-key"]

CHALLENGE = 'Bearer realm="threadkeep"'
RECHECK_S = 1.0
"""Of authenticators that are built in, which remember a caller for some seconds."""


class Authenticator(Protocol):
    """One way of knowing callers."""

    @property
    def reads_body(self) -> bool:
        """It may look into the body of a request to know its caller."""
        ...

    @property
    def reads_values(self) -> bool:
        """`authorize` looks into the value of an event, or changes what is done by it. False: it may be empty."""
        ...

    @property
    def recheck_s(self) -> float:
        """Seconds between two questions who is calling, for a stream or socket that stays open. 0: it is never asked."""
        ...

    @property
    def credential_header(self) -> CredentialHeader:
        """The header by which it knows its callers, for those who can only name a key or token: the console."""
        ...

    def granted_scopes(self, principal: Principal) -> Sequence[str] | None:
        """The events that the principal's scopes grant, in order. None: scopes do not limit the principal."""
        ...

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        """Who is calling; Unauthenticated, or another problem, where nobody is let in."""
        ...

    async def authorize(self, principal: Principal, event: AuthEvent, value: AuthValue) -> Filters:
        """What the principal may see; may change `value`, which is then what is done. Forbidden where not even that."""
        ...


def credentials(connection: HTTPConnection) -> str:
    """What the caller shows: `Authorization: Bearer …`, or `x-api-key`. Unauthenticated where there is neither."""
    authorization = key = b""
    for name, value in connection.scope["headers"]:
        if name == b"authorization":
            authorization = authorization or value
        elif name == b"x-api-key":
            key = key or value
    scheme, _, credentials = authorization.decode("latin-1").partition(" ")
    if scheme.lower() == "bearer" and (shown := credentials.strip()):
        return shown
    if shown := key.decode("latin-1").strip():
        return shown
    raise Unauthenticated("a token is needed: Authorization: Bearer …, or x-api-key", challenge=CHALLENGE)


def invalid_credentials() -> Unauthenticated:
    """For a token that was shown and opens nothing; why is the log's."""
    return Unauthenticated("the token is not valid", challenge=f'{CHALLENGE}, error="invalid_token"')
