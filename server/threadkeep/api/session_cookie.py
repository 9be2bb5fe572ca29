"""Session cookie: a browser's key or token, where no script can read it.

The console sends the user's key or token once. Then the browser sends it as a cookie. The cookie replaces the header only
in requests of the server's own pages. `SameSite=Strict` is not enough, because another port of this machine is the same
site.
"""

from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, cast
from urllib.parse import quote, unquote

from starlette.requests import Request

from threadkeep.api.browser_guards import is_origin_of
from threadkeep.auth import Authenticator
from threadkeep.base.problems import Forbidden

NAME: Final = "threadkeep"
SECURE_NAME: Final = "__Host-threadkeep"
"""The name of the cookie over TLS. A browser accepts it only from this host and only over TLS."""
MAX_CREDENTIAL_BYTES: Final = 3_800
"""Largest encoded credential. Browsers keep no cookie above 4,096 bytes."""
CREDENTIAL_HEADERS: Final = frozenset({b"authorization", b"x-api-key"})


def encoded(credential: str) -> str:
    """Return `credential` in the characters of a cookie."""
    return quote(credential, safe="._-~")


def set_cookie(request: Request[Any], credential: str) -> str:
    """Return the `Set-Cookie` that stores `credential` until the browser is closed."""
    return _cookie(SECURE_NAME if is_secure(request) else NAME, encoded(credential), secure=is_secure(request))


def cleared_cookies() -> list[str]:
    """Return the `Set-Cookie` headers that delete both cookies."""
    names = ((NAME, False), (SECURE_NAME, True))
    return [f"{_cookie(name, '', secure=secure)}; Max-Age=0" for name, secure in names]


def is_secure(request: Request[Any]) -> bool:
    """Return whether the browser uses TLS, even if a proxy in front does not say so."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def with_credential(request: Request[Any], authenticator: Authenticator) -> Request[Any]:
    """Return `request` with the credential of its cookie as a header.

    It is returned unchanged if it has no cookie or has a header with credentials, or if no page of this server sent it.
    """
    headers = cast("list[tuple[bytes, bytes]]", request.scope["headers"])
    if any(name in CREDENTIAL_HEADERS for name, _ in headers) or not _is_own_page(request):
        return request
    credential = _credential(request)
    if credential is None:
        return request
    request.scope["headers"] = [*headers, credential_header(credential, authenticator)]
    # Starlette caches the headers of a request.
    return Request(request.scope, request.receive)


def credential_header(credential: str, authenticator: Authenticator) -> tuple[bytes, bytes]:
    """Return the header from which the authenticator reads credentials."""
    if authenticator.credential_header == "x-api-key":
        return b"x-api-key", credential.encode("latin-1")
    # A user may paste the whole header, such as `Bearer …`.
    has_scheme = " " in credential
    return b"authorization", (credential if has_scheme else f"Bearer {credential}").encode("latin-1")


def _is_own_page(request: Request[Any]) -> bool:
    """Whether a page of this server sent the request. No page can forge `Sec-Fetch-Site`."""
    if request.headers.get("sec-fetch-site") != "same-origin":
        return False
    origin = request.headers.get("origin")
    # Browsers send no Origin with a GET of the same origin.
    return origin is None or is_origin_of(request.headers.get("host", ""), origin)


def refuse_foreign_page(request: Request[Any]) -> None:
    """Raise Forbidden for a page of another origin, even if `http.cors` allows it. Programs are not refused."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if (site is None and origin is None) or _is_own_page(request):
        return
    if site is None and origin is not None and is_origin_of(request.headers.get("host", ""), origin):
        return
    raise Forbidden("only pages of the console may sign in or out")


def _credential(request: Request[Any]) -> str | None:
    try:
        cookies = SimpleCookie("; ".join(request.headers.getlist("cookie")))
    except CookieError:
        return None
    # Over TLS only the secure cookie counts, because any page of this host without TLS could set the other one.
    names = (SECURE_NAME,) if request.url.scheme == "https" else (SECURE_NAME, NAME)
    # Bytes that are not UTF-8 become characters that no credential has.
    values = [unquote(cookies[name].value, errors="replace") for name in names if name in cookies]
    return next((value for value in values if is_credential(value)), None)


def is_credential(text: str) -> bool:
    """Return whether `text` may be in a header: visible ASCII, with single spaces between words."""
    return text.isascii() and text.isprintable() and bool(text) and text == " ".join(text.split())


def _cookie(name: str, value: str, *, secure: bool) -> str:
    attributes = "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
    return f"{name}={value}{attributes}"
