"""Loading of the authenticator from the settings and the project. If it cannot be loaded, the server does not start."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from threadkeep.auth import custom
from threadkeep.auth.api_keys import ApiKeyAuthenticator
from threadkeep.auth.authenticator import Authenticator
from threadkeep.auth.custom import CustomAuthenticator
from threadkeep.auth.jwks import is_loopback
from threadkeep.base.problems import StartupError
from threadkeep.postgres.pool import Pool
from threadkeep.project import Project
from threadkeep.settings import AuthType, Settings

if TYPE_CHECKING:
    from threadkeep.auth.jwt import JwtAuthenticator


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """The authenticator, as far as it can be loaded without the database."""

    auth_type: AuthType
    authenticator: "CustomAuthenticator | JwtAuthenticator | None" = None
    """None for API keys, which need the database, and if authentication is off."""

    @asynccontextmanager
    async def open(self, pool: Pool) -> AsyncGenerator[Authenticator | None]:
        """Open the authenticator for the block. Yield None if authentication is off. Raise StartupError."""
        # Not `isinstance(..., JwtAuthenticator)`, because that would import it for all servers.
        if self.authenticator is not None and not isinstance(self.authenticator, CustomAuthenticator):
            await self.authenticator.open()
        yield ApiKeyAuthenticator(pool) if self.auth_type == "api_key" else self.authenticator


def auth_type_of(settings: Settings, project: Project) -> AuthType:
    """Return the method of authentication. Raise StartupError if the settings and the project contradict each other."""
    has_auth = project.auth.path is not None
    chosen = settings.auth_type or ("custom" if has_auth else "none")
    if chosen == "custom" and not has_auth:
        raise StartupError("AUTH_TYPE=custom needs auth.path in langgraph.json")
    if chosen != "custom" and has_auth:
        raise StartupError(f"AUTH_TYPE={chosen} contradicts the auth of langgraph.json: remove one of the two")
    return chosen


def load_auth(settings: Settings, project: Project) -> AuthConfig:
    """Load the authenticator. Raise StartupError on any failure, so that the server never runs without authentication."""
    kind = auth_type_of(settings, project)
    if kind == "custom":
        return AuthConfig(
            auth_type=kind, authenticator=custom.load_custom_authenticator(project, settings.auth_recheck_s)
        )
    return AuthConfig(auth_type=kind, authenticator=_jwt_authenticator(settings) if kind == "jwt" else None)


def check_start(settings: Settings, project: Project) -> None:
    """Raise StartupError if other machines could reach the server without authentication, or if no token could be verified."""
    kind = auth_type_of(settings, project)
    if kind == "none" and not settings.allow_unauthenticated and not is_loopback(settings.host):
        raise StartupError(
            f"HOST={settings.host} is open to other machines, and authentication is off: set AUTH_TYPE=api_key "
            "(threadkeep keys create), AUTH_TYPE=jwt, or auth in langgraph.json, or ALLOW_UNAUTHENTICATED=true"
        )
    if kind == "jwt":
        anyio.run(_jwt_authenticator(settings).open)  # fetches the keys, so that the start fails and not each request


def _jwt_authenticator(settings: Settings) -> "JwtAuthenticator":
    """Load the authenticator for JWT. The import takes 9 MB of memory, so servers without JWT do without it."""
    from threadkeep.auth import jwt  # noqa: PLC0415

    return jwt.load_jwt_authenticator(settings)
