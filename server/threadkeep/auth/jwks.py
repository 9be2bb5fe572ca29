"""JWKS: an issuer's public keys, fetched from its address, kept, and fetched again when they change.

Keys older than `REFRESH_S` are fetched anew when they are next needed; until `TOO_OLD_S` old ones will do while the
issuer does not answer, and then none does: the door is closed. A token that names a key nobody knows makes for one more
fetch, but not for one each time.
"""

import logging
import time
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final, cast
from urllib.parse import urlsplit

import anyio
import httpx
import orjson

from threadkeep.base.problems import StartRefused, Unavailable

log = logging.getLogger(__name__)

REFRESH_S: Final = 300.0
TOO_OLD_S: Final = 3600.0
RETRY_S: Final = 10.0
"""The least time between two fetches that strangers' tokens or an issuer's silence ask for."""
TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 1_000_000

Jwk = Mapping[str, Any]


class NoKeys(Exception):
    """The address did not answer with keys. The text is for the log."""


class Jwks:
    """The keys at one address."""

    def __init__(self, url: str) -> None:
        check_address(url)
        self._url = url
        self._keys: list[Jwk] = []
        self._fetched = float("-inf")
        """When there last were keys, by the monotonic clock."""
        self._asked_for_unknown = float("-inf")
        self._failed = float("-inf")
        self._fetching = anyio.Lock()

    async def open(self) -> None:
        """Fetch the keys for the first time; StartRefused where there are none."""
        try:
            await self._fetch()
        except NoKeys as error:
            raise StartRefused(f"THREADKEEP_JWT_JWKS_URL: {self._url}: {error}") from None

    async def matching(self, kid: str | None) -> list[Jwk]:
        """The keys of an id, or all where a token names none; Unavailable where all that is known is too old."""
        await self._refresh()
        found = self._of(kid)
        if found or time.monotonic() - self._asked_for_unknown < RETRY_S:
            return found
        async with self._fetching:
            if not (found := self._of(kid)) and time.monotonic() - self._asked_for_unknown >= RETRY_S:
                self._asked_for_unknown = time.monotonic()
                await self._try_fetch()
                found = self._of(kid)
        return found

    def _of(self, kid: str | None) -> list[Jwk]:
        return [key for key in self._keys if kid is None or key.get("kid") == kid]

    async def _refresh(self) -> None:
        """See that the keys are fresh, or at least not too old."""
        if time.monotonic() - self._fetched < REFRESH_S:
            return
        async with self._fetching:
            now = time.monotonic()
            if now - self._fetched >= REFRESH_S and now - self._failed >= RETRY_S:
                await self._try_fetch()
        if time.monotonic() - self._fetched >= TOO_OLD_S:
            raise Unavailable("the issuer of tokens does not answer", retry_after_s=int(RETRY_S))

    async def _try_fetch(self) -> None:
        try:
            await self._fetch()
        except NoKeys as error:
            self._failed = time.monotonic()
            log.warning("the issuer's keys can't be fetched", extra={"url": self._url, "reason": str(error)})

    async def _fetch(self) -> None:
        raw = await _get(self._url)
        try:
            found = cast("object", orjson.loads(raw))
        except orjson.JSONDecodeError:
            raise NoKeys("it does not answer with JSON") from None
        keys = cast("dict[str, object]", found).get("keys") if isinstance(found, dict) else None
        if not isinstance(keys, list):
            raise NoKeys("what it answers has no keys")
        self._keys = [cast("Jwk", key) for key in cast("list[object]", keys) if isinstance(key, dict)]
        self._fetched = time.monotonic()


async def _get(url: str) -> bytes:
    """What is there, bounded in time and size; redirects are not followed. NoKeys."""
    read = bytearray()
    try:
        with anyio.fail_after(TIMEOUT_S):
            async with httpx.AsyncClient(timeout=TIMEOUT_S) as http, http.stream("GET", url) as answer:
                if answer.status_code != 200:
                    raise NoKeys(f"it answers {answer.status_code}")
                async for chunk in answer.aiter_bytes():
                    read += chunk
                    if len(read) > MAX_BYTES:
                        raise NoKeys(f"it answers more than {MAX_BYTES} bytes")
    except (httpx.HTTPError, TimeoutError) as error:
        raise NoKeys(f"it can't be reached ({type(error).__name__})") from None
    return bytes(read)


def check_address(url: str) -> None:
    """StartRefused unless keys from there are the issuer's: by https, or from this machine."""
    found = urlsplit(url)
    if found.scheme == "https" and found.hostname:
        return
    if found.scheme == "http" and found.hostname and is_loopback(found.hostname):
        return
    raise StartRefused("THREADKEEP_JWT_JWKS_URL: only https addresses: who can change the keys can be anybody")


def is_loopback(host: str) -> bool:
    """Whether only this machine is meant."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
