"""Authenticator: the interface that identifies callers and authorizes their requests.

An authenticator refuses by default. Every failure in it is an exception, and no exception grants access. If a server has
no authenticator, authentication is off.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

from starlette.requests import HTTPConnection

from threadkeep.auth.authorization import AuthEvent
from threadkeep.auth.principal import Principal
from threadkeep.base.problems import Unauthenticated
from threadkeep.postgres.tenancy import Filters

AuthValue: TypeAlias = dict[str, Any]
"""The value of a request for authorization, as `langgraph_sdk.auth.types` defines it for each event. It is mutable."""

CredentialHeader: TypeAlias = Literal["authorization", "x-api-key"]

CHALLENGE = 'Bearer realm="threadkeep"'
RECHECK_S = 1.0
"""`recheck_s` of the built-in authenticators, which cache a caller for some seconds."""


class Authenticator(Protocol):
    """One method of authentication."""

    @property
    def reads_body(self) -> bool:
        """Whether it may read the body of a request to identify the caller."""
        ...

    @property
    def reads_values(self) -> bool:
        """Whether `authorize` reads or changes the value of an event. If False, the value may be empty."""
        ...

    @property
    def recheck_s(self) -> float:
        """Seconds between two authentications of the caller of an open stream or socket. 0: only once."""
        ...

    @property
    def credential_header(self) -> CredentialHeader:
        """The header that has the credential. The console needs it, because its users enter only a key or token."""
        ...

    def granted_scopes(self, principal: Principal) -> Sequence[str] | None:
        """The events that the principal's scopes grant, in order. None: scopes do not limit the principal."""
        ...

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        """Return the caller. Raise Unauthenticated or another Problem if it is refused."""
        ...

    async def authorize(self, principal: Principal, event: AuthEvent, value: AuthValue) -> Filters:
        """Return the filters of the principal for an event. It may change `value`. Raise Forbidden if the event is refused."""
        ...


def credentials(connection: HTTPConnection) -> str:
    """Return the token of `Authorization: Bearer …`, or of `x-api-key`. Raise Unauthenticated if there is neither."""
    authorization = key = b""
    # The raw headers: `connection.headers` would look through all of them for each of the two names.
    for name, value in connection.scope["headers"]:
        if name == b"authorization":
            authorization = authorization or value
        elif name == b"x-api-key":
            key = key or value
    scheme, _, credentials = authorization.decode("latin-1").partition(" ")
    if scheme.lower() == "bearer" and (token := credentials.strip()):
        return token
    # After `Authorization`, which may have another scheme, for example the one of a proxy.
    if token := key.decode("latin-1").strip():
        return token
    raise Unauthenticated("credentials are missing: send Authorization: Bearer …, or x-api-key", challenge=CHALLENGE)


def invalid_credentials() -> Unauthenticated:
    """Return the problem of a token that is not valid. Only the log has the reason."""
    return Unauthenticated("the token is not valid", challenge=f'{CHALLENGE}, error="invalid_token"')
