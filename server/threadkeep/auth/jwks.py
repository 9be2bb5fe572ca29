"""JWKS: an issuer's public keys, fetched from its address, kept, and fetched again when they change.

Keys older than `REFRESH_S` are fetched anew when they are next needed. While the issuer does not answer, they are used
until they are `MAX_AGE_S` old, and then no token is accepted. A token that names an unknown key causes one more fetch,
but not one each time.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final, cast
from urllib.parse import urlsplit

import anyio
import httpx
import orjson

from threadkeep.base.problems import ServiceUnavailable, StartupError
from threadkeep.base.ttl_cache import TtlCache

log = logging.getLogger(__name__)

REFRESH_S: Final = 300.0
MAX_AGE_S: Final = 3600.0
RETRY_S: Final = 10.0
"""The least time between two fetches that strangers' tokens or an issuer's silence ask for."""
TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 1_000_000

Jwk = Mapping[str, Any]


class JwksUnavailable(Exception):
    """The address did not answer with keys. The text is for the log."""


class JwkSet:
    """The keys at one address."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        check_jwks_url(url)
        self._url = url
        self._keys: TtlCache[None, list[Jwk]] = TtlCache(
            capacity=1, ttl_s=REFRESH_S, grace_s=MAX_AGE_S - REFRESH_S, retry_s=RETRY_S, clock=clock
        )
        self._keys_for_unknown: TtlCache[None, list[Jwk]] = TtlCache(
            capacity=1, ttl_s=RETRY_S, retry_s=RETRY_S, clock=clock
        )
        """Those that were fetched because of a token that names an unknown key."""

    async def open(self) -> None:
        """Fetch the keys for the first time. StartupError if there are none."""
        try:
            self._keys.put(None, await self._fetch())
        except JwksUnavailable as error:
            raise StartupError(f"THREADKEEP_JWT_JWKS_URL: {self._url}: {error}") from None

    async def keys_for(self, kid: str | None) -> list[Jwk]:
        """The keys of an id, or all if a token names none. Unavailable if all that is known is too old."""
        try:
            keys = await self._keys.get_or_read(None, self._fetch_or_warn)
        except JwksUnavailable:
            raise ServiceUnavailable("the issuer of tokens does not answer", retry_after_s=int(RETRY_S)) from None
        if matches := _of(keys, kid):
            return matches
        try:
            return _of(await self._keys_for_unknown.get_or_read(None, self._fetch_for_unknown), kid)
        except JwksUnavailable:
            return []

    async def _fetch_for_unknown(self) -> list[Jwk]:
        keys = await self._fetch_or_warn()
        self._keys.put(None, keys)
        return keys

    async def _fetch_or_warn(self) -> list[Jwk]:
        try:
            return await self._fetch()
        except JwksUnavailable as error:
            log.warning("the issuer's keys can't be fetched", extra={"url": self._url, "reason": str(error)})
            raise

    async def _fetch(self) -> list[Jwk]:
        raw = await _get(self._url)
        try:
            found = cast("object", orjson.loads(raw))
        except orjson.JSONDecodeError:
            raise JwksUnavailable("it does not answer with JSON") from None
        keys = cast("dict[str, object]", found).get("keys") if isinstance(found, dict) else None
        if not isinstance(keys, list):
            raise JwksUnavailable("what it answers has no keys")
        return [cast("Jwk", key) for key in cast("list[object]", keys) if isinstance(key, dict)]


def _of(keys: Sequence[Jwk], kid: str | None) -> list[Jwk]:
    return [key for key in keys if kid is None or key.get("kid") == kid]


async def _get(url: str) -> bytes:
    """What is there, bounded in time and size; redirects are not followed. JwksUnavailable."""
    read = bytearray()
    try:
        with anyio.fail_after(TIMEOUT_S):
            async with httpx.AsyncClient(timeout=TIMEOUT_S) as http, http.stream("GET", url) as answer:
                if answer.status_code != 200:
                    raise JwksUnavailable(f"it answers {answer.status_code}")
                async for chunk in answer.aiter_bytes():
                    read += chunk
                    if len(read) > MAX_BYTES:
                        raise JwksUnavailable(f"it answers more than {MAX_BYTES} bytes")
    except (httpx.HTTPError, TimeoutError) as error:
        raise JwksUnavailable(f"it can't be reached ({type(error).__name__})") from None
    return bytes(read)


def check_jwks_url(url: str) -> None:
    """StartupError unless keys from there are the issuer's: by https, or from this machine."""
    found = urlsplit(url)
    if found.scheme == "https" and found.hostname:
        return
    if found.scheme == "http" and found.hostname and is_loopback(found.hostname):
        return
    raise StartupError("THREADKEEP_JWT_JWKS_URL: only https addresses: who can change the keys can be anybody")


def is_loopback(host: str) -> bool:
    """Whether only this machine is meant."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
