"""API keys, each of one identity. A secret has 256 random bits, and only its SHA-256 is stored.

A key is cached for at most `CACHE_TTL_S + STALE_IF_ERROR_S` seconds. After that time no process accepts a key that was
revoked.
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
"""Seconds after `CACHE_TTL_S` in which the cached value is used while one request reads the key again."""
CACHE_MAX_ENTRIES: Final = 10_000
PREFIX: Final = "tk_"
"""The start of every secret, so that scanners find published ones."""
SECRET_BYTES: Final = 32
PREFIX_LENGTH: Final = len(PREFIX) + 8
"""Characters of a secret that are stored: 48 of its 256 bits."""
LENGTH: Final = len(PREFIX) + 43


class CachedPrincipal(NamedTuple):
    """The principal of a key, and the seconds until the key expires, counted from the read."""

    principal: Principal
    lives_s: float


class ApiKeyAuthenticator:
    """Authenticates callers by API key."""

    reads_body = reads_values = False
    recheck_s = RECHECK_S
    credential_header: CredentialHeader = "x-api-key"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # By the secret, because a hash for each request would cost half as much as all the rest of `authenticate`.
        self._cache: TtlCache[str, CachedPrincipal] = TtlCache(
            capacity=CACHE_MAX_ENTRIES,
            ttl_s=CACHE_TTL_S,
            grace_s=STALE_IF_ERROR_S,
            lives_s=lambda cached: cached.lives_s,
        )

    def granted_scopes(self, principal: Principal) -> Sequence[str] | None:
        """None for a key without scopes."""
        return sorted(granted_events(principal.permissions)) if principal.permissions else None

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        """Return the owner of the request's key. Raise Unauthenticated if the key is missing or not valid."""
        secret = credentials(connection)
        # Most wrong credentials do not have this form, and then need neither a hash nor a statement.
        if len(secret) != LENGTH or not secret.startswith(PREFIX):
            raise invalid_credentials()
        # `get` first, because it needs no coroutine, and nearly every request has a cached key.
        cached = self._cache.get(secret) or await self._cache.get_or_read(secret, partial(self._find, secret))
        return cached.principal

    async def authorize(self, principal: Principal, event: AuthEvent, value: AuthValue) -> Filters:
        """Return the filters of the caller's own rows. Raise Forbidden if the key's scopes do not grant the event."""
        check_key_scopes(principal.permissions, event)
        return owner_filters(principal, event, value)

    async def _find(self, secret: str) -> CachedPrincipal:
        """Read the key from Postgres. If it is not valid, remove it from the cache and raise Unauthenticated."""
        async with self._pool.connection() as conn:
            key = await api_keys.find_valid(conn, hash_secret(secret))
        if key is None:
            # Otherwise the cache would return the old principal while Postgres is unavailable.
            self._cache.forget(secret)
            raise invalid_credentials()
        # One write in a while, and not one for each request.
        if not key.recently_used:
            await self._touch(key)
        return CachedPrincipal(_caller(key), math.inf if key.expires_in_s is None else key.expires_in_s)

    async def _touch(self, key: ValidApiKey) -> None:
        """Record the use of a key. Only log an error, because a database that is read-only can still authenticate."""
        try:
            async with self._pool.connection() as conn:
                await api_keys.record_use(conn, key.key_id)
        except (psycopg.Error, PoolTimeout):
            log.warning("last use of an API key not recorded", extra={"key_id": str(key.key_id)})


def _caller(key: ValidApiKey) -> Principal:
    return principal(
        key.identity,
        permissions=tuple(key.scopes),
        user={"key_name": key.name},
        has_others=key.has_others,
    )


def hash_secret(secret: str) -> bytes:
    """Return the stored hash of a secret. A fast hash is enough, because 256 random bits cannot be guessed."""
    return hashlib.sha256(secret.encode()).digest()


def generate_key(identity: str, name: str, scopes: tuple[str, ...], lives_s: float | None) -> tuple[str, NewApiKey]:
    """Return a new secret, which is shown only once, and its row. Raise ValueError for an invalid identity or scope."""
    principal(identity)  # raises ValueError
    if wrong := sorted(set(scopes) - SCOPES):
        raise ValueError(f"unknown scope {wrong[0]}: use {', '.join(sorted(SCOPES))}")
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
