"""Opening: which door there is, by the settings and the project. What can't be loaded stops the start."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from threadkeep.auth import custom, jwt
from threadkeep.auth.api_keys import KeyDoor
from threadkeep.auth.authenticator import Door
from threadkeep.auth.custom import CustomDoor
from threadkeep.auth.jwks import is_loopback
from threadkeep.auth.jwt import JwtDoor
from threadkeep.base.problems import StartRefused
from threadkeep.postgres.pool import Pool
from threadkeep.project import Project
from threadkeep.settings import AuthType, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What is known of the door before there is a database."""

    kind: AuthType
    door: CustomDoor | JwtDoor | None = None
    """None: keys, which are in the database, or no door at all."""

    @asynccontextmanager
    async def opened(self, pool: Pool) -> AsyncGenerator[Door | None]:
        """The door, while the block lasts; None where authentication is off. StartRefused."""
        if isinstance(self.door, JwtDoor):
            await self.door.open()
        yield KeyDoor(pool) if self.kind == "api_key" else self.door


def kind_of(settings: Settings, project: Project) -> AuthType:
    """How callers are known; StartRefused where settings and project contradict each other."""
    has_auth = project.auth.path is not None
    chosen = settings.auth_type or ("custom" if has_auth else "none")
    if chosen == "custom" and not has_auth:
        raise StartRefused("AUTH_TYPE=custom needs auth.path in langgraph.json")
    if chosen != "custom" and has_auth:
        raise StartRefused(f"AUTH_TYPE={chosen} would pass over the auth of langgraph.json: take one of the two away")
    return chosen


def load(settings: Settings, project: Project) -> Loaded:
    """Import and read all that is needed; StartRefused, never an open door."""
    kind = kind_of(settings, project)
    if kind == "custom":
        return Loaded(kind=kind, door=custom.load(project, settings.auth_recheck_s))
    return Loaded(kind=kind, door=jwt.load(settings) if kind == "jwt" else None)


def check(settings: Settings, project: Project) -> None:
    """StartRefused where others could reach the server and nobody would ask who they are, or nobody could be known."""
    kind = kind_of(settings, project)
    if kind == "none" and not settings.allow_unauthenticated and not is_loopback(settings.host):
        raise StartRefused(
            f"HOST={settings.host} can be reached by others, and nobody is asked who they are: set AUTH_TYPE=api_key "
            "(threadkeep keys create), AUTH_TYPE=jwt, or auth in langgraph.json; or say ALLOW_UNAUTHENTICATED=true"
        )
    if kind == "jwt":
        anyio.run(jwt.load(settings).open)
