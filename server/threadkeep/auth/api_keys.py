"""Keys: API keys, each of one identity. A secret is 256 random bits, and only its SHA-256 is kept.

A key that was looked up is accepted for `CACHE_TTL_S + GRACE_S` seconds at most without another look: one that is revoked
opens nothing after that, in any process.
"""

import hashlib
import logging
import math
import secrets
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

import psycopg
from psycopg_pool import PoolTimeout
from starlette.requests import HTTPConnection

from threadkeep.auth.authenticator import RECHECK_S, AuthValue, CredentialHeader, credentials, invalid_credentials
from threadkeep.auth.authorization import AuthEvent
from threadkeep.auth.ownership import owner_filters
from threadkeep.auth.principal import Principal, principal
from threadkeep.auth.scopes import SCOPES, check_key_scopes, granted_events
from threadkeep.base import ids
from threadkeep.base.ttl_cache import TtlCache
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables import api_keys
from threadkeep.tables.api_keys import NewApiKey, ValidApiKey

log = logging.getLogger(__name__)

CACHE_TTL_S: Final = 3.0
STALE_IF_ERROR_S: Final = 1.0
"""Added to it once, while one request asks anew: the others need not wait."""
CACHE_MAX_ENTRIES: Final = 10_000
PREFIX: Final = "tk_"
"""How every secret begins, so that one that was published is found."""
SECRET_BYTES: Final = 32
PREFIX_LENGTH: Final = len(PREFIX) + 8
"""Characters of a secret that are kept: 48 of its 256 bits."""
LENGTH: Final = len(PREFIX) + 43


class CachedPrincipal(NamedTuple):
    """The caller of a key, and for how many seconds the key was still valid when it was read."""

    principal: Principal
    lives_s: float


class ApiKeyAuthenticator:
    """The door for API keys."""

    reads_body = reads_values = False
    recheck_s = RECHECK_S
    credential_header: CredentialHeader = "x-api-key"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: TtlCache[bytes, CachedPrincipal] = TtlCache(
            capacity=CACHE_MAX_ENTRIES, ttl_s=CACHE_TTL_S, grace_s=STALE_IF_ERROR_S, lives_s=lambda known: known.lives_s
        )

    def granted_scopes(self, principal: Principal) -> Sequence[str] | None:
        """None for a key without scopes."""
        return sorted(granted_events(principal.permissions)) if principal.permissions else None

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        """The owner of the key that is shown."""
        shown = credentials(connection)
        if len(shown) != LENGTH or not shown.startswith(PREFIX):
            raise invalid_credentials()
        hashed = hash_secret(shown)
        known = self._known.get(hashed) or await self._known.get_or_read(hashed, partial(self._find, hashed))
        return known.principal

    async def authorize(self, principal: Principal, event: AuthEvent, value: AuthValue) -> Filters:
        """What is the caller's own, if the key's scopes reach as far."""
        check_key_scopes(principal.permissions, event)
        return owner_filters(principal, event, value)

    async def _find(self, hashed: bytes) -> CachedPrincipal:
        """The caller as Postgres knows the key now. Unauthenticated if it is not valid, and then nothing is kept of it."""
        async with self._pool.connection() as conn:
            found = await api_keys.find_valid(conn, hashed)
        if found is None:
            self._known.forget(hashed)
            raise invalid_credentials()
        if not found.recently_used:
            await self._touch(found)
        return CachedPrincipal(_caller(found), math.inf if found.expires_in_s is None else found.expires_in_s)

    async def _touch(self, found: ValidApiKey) -> None:
        """A database that can't be written to may still be read."""
        try:
            async with self._pool.connection() as conn:
                await api_keys.record_use(conn, found.key_id)
        except (psycopg.Error, PoolTimeout):
            log.warning("the use of a key could not be written down", extra={"key_id": str(found.key_id)})


def _caller(found: ValidApiKey) -> Principal:
    return principal(
        found.identity,
        permissions=tuple(found.scopes),
        user={"key_name": found.name},
        has_others=found.has_others,
    )


def hash_secret(secret: str) -> bytes:
    """What is kept of a secret. A fast hash will do: nobody guesses 256 random bits."""
    return hashlib.sha256(secret.encode()).digest()


def generate_key(identity: str, name: str, scopes: tuple[str, ...], lives_s: float | None) -> tuple[str, NewApiKey]:
    """A secret, to be told once, and its row. ValueError where the identity or a scope is none."""
    principal(identity)
    if wrong := sorted(set(scopes) - SCOPES):
        raise ValueError(f"there is no scope {wrong[0]}; there are {', '.join(sorted(SCOPES))}")
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    return secret, NewApiKey(
        key_id=ids.uuid7(),
        secret_sha256=hash_secret(secret),
        prefix=secret[:PREFIX_LENGTH],
        name=name,
        identity=identity,
        scopes=scopes,
        lifetime_s=lives_s,
    )
