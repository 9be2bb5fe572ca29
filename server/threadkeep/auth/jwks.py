"""JWKS (RFC 7517): an issuer's public keys, fetched from its URL and cached.

Keys older than `REFRESH_S` are fetched again at their next use. While the issuer does not answer, cached keys are used
until they are `MAX_AGE_S` old. After that no token is accepted. A token with an unknown key id causes one more fetch, but
at most one in `RETRY_S` seconds.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final, cast

import anyio
import httpx
import orjson

from threadkeep.base.problems import ServiceUnavailable, StartupError
from threadkeep.base.ttl_cache import TtlCache

log = logging.getLogger(__name__)

REFRESH_S: Final = 300.0
MAX_AGE_S: Final = 3600.0
RETRY_S: Final = 10.0
"""Minimum seconds between two fetches caused by unknown key ids or by an issuer that does not answer."""
TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 1_000_000

Jwk = Mapping[str, Any]


class JwksUnavailable(Exception):
    """The URL did not return keys. The text is for the log."""


class JwkSet:
    """The keys at one URL."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        check_jwks_url(url)
        self._url = url
        self._keys: TtlCache[None, list[Jwk]] = TtlCache(
            # In the grace period the cache answers with the old keys, while one request fetches new ones.
            capacity=1,
            ttl_s=REFRESH_S,
            grace_s=MAX_AGE_S - REFRESH_S,
            retry_s=RETRY_S,
            clock=clock,
        )
        self._keys_for_unknown: TtlCache[None, list[Jwk]] = TtlCache(
            capacity=1, ttl_s=RETRY_S, retry_s=RETRY_S, clock=clock
        )
        """Keys that were fetched because of a token with an unknown key id."""

    async def open(self) -> None:
        """Fetch the keys for the first time. Raise StartupError if there are none."""
        try:
            self._keys.put(None, await self._fetch())
        except JwksUnavailable as error:
            raise StartupError(f"THREADKEEP_JWT_JWKS_URL: {self._url}: {error}") from None

    async def keys_for(self, kid: str | None) -> list[Jwk]:
        """Return the keys with an id, or all keys if `kid` is None. Raise ServiceUnavailable if the cached keys are too old."""
        try:
            keys = await self._keys.get_or_read(None, self._fetch_or_warn)
        except JwksUnavailable:
            raise ServiceUnavailable("the issuer of the tokens does not answer", retry_after_s=int(RETRY_S)) from None
        if matches := _of(keys, kid):
            return matches
        try:
            # The issuer may have rotated its keys. The cache limits these fetches, so that invented ids do not flood
            # the issuer.
            return _of(await self._keys_for_unknown.get_or_read(None, self._fetch_for_unknown), kid)
        except JwksUnavailable:
            # The known keys are still valid, so only this token is refused, and not every request with 503.
            return []

    async def _fetch_for_unknown(self) -> list[Jwk]:
        keys = await self._fetch_or_warn()
        # Otherwise tokens with known ids would be verified with the older keys until these expire.
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
            document = cast("object", orjson.loads(raw))
        except orjson.JSONDecodeError:
            raise JwksUnavailable("its answer is not JSON") from None
        keys = cast("dict[str, object]", document).get("keys") if isinstance(document, dict) else None
        if not isinstance(keys, list):
            raise JwksUnavailable("its answer has no keys")
        return [cast("Jwk", key) for key in cast("list[object]", keys) if isinstance(key, dict)]


def _of(keys: Sequence[Jwk], kid: str | None) -> list[Jwk]:
    return [key for key in keys if kid is None or key.get("kid") == kid]


async def _get(url: str) -> bytes:
    """Return the body at `url`, limited in time and size. Redirects are not followed. Raise JwksUnavailable."""
    read = bytearray()
    try:
        # The timeout of httpx is one for each read, so a server that sends a byte at a time would never reach it.
        with anyio.fail_after(TIMEOUT_S):
            # Streamed, because the size is not known before. httpx itself would read a body of any size.
            async with httpx.AsyncClient(timeout=TIMEOUT_S) as http, http.stream("GET", url) as response:
                if response.status_code != 200:
                    raise JwksUnavailable(f"it answers {response.status_code}")
                async for chunk in response.aiter_bytes():
                    read += chunk
                    if len(read) > MAX_BYTES:
                        raise JwksUnavailable(f"it answers more than {MAX_BYTES} bytes")
    except (httpx.HTTPError, TimeoutError) as error:
        raise JwksUnavailable(f"it can't be reached ({type(error).__name__})") from None
    return bytes(read)


def check_jwks_url(url: str) -> None:
    """Raise StartupError unless the URL is https or on this machine, so that nobody can replace the issuer's keys."""
    try:
        address = httpx.URL(url)  # the parser of the later request, so that both see the same host
    except httpx.InvalidURL as error:
        raise StartupError(f"THREADKEEP_JWT_JWKS_URL: this is not a URL: {error}") from None
    if address.scheme == "https" and address.host:
        return
    if address.scheme == "http" and is_loopback(address.host):
        return
    raise StartupError("THREADKEEP_JWT_JWKS_URL: use an https address, because keys from http can be replaced")


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
