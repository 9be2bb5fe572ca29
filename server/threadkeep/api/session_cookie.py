"""Session cookie: a browser's key or token, where no script can read it.

The console sends the user's key or token once, and from then on the browser sends it as a cookie. The cookie stands for a
header of the request only if the page that asks is our own: `SameSite=Strict` is about sites, and another port of this
machine is the same site.
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
    """`credential` as a cookie may hold it."""
    return quote(credential, safe="._-~")


def set_cookie(request: Request[Any], credential: str) -> str:
    """The `Set-Cookie` that keeps `credential` until the browser is closed."""
    return _cookie(SECURE_NAME if is_secure(request) else NAME, encoded(credential), secure=is_secure(request))


def cleared_cookies() -> list[str]:
    """Each `Set-Cookie` that makes a browser forget it."""
    names = ((NAME, False), (SECURE_NAME, True))
    return [f"{_cookie(name, '', secure=secure)}; Max-Age=0" for name, secure in names]


def is_secure(request: Request[Any]) -> bool:
    """Return whether the browser uses TLS, even if a proxy in front does not say so."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def with_credential(request: Request[Any], authenticator: Authenticator) -> Request[Any]:
    """`request` with the header that its cookie stands for, or as it is: it has none, shows something else, or is not
    of a page of ours."""
    headers = cast("list[tuple[bytes, bytes]]", request.scope["headers"])
    if any(name in CREDENTIAL_HEADERS for name, _ in headers) or not _is_own_page(request):
        return request
    credential = _credential(request)
    if credential is None:
        return request
    request.scope["headers"] = [*headers, credential_header(credential, authenticator)]
    return Request(request.scope, request.receive)


def credential_header(credential: str, authenticator: Authenticator) -> tuple[bytes, bytes]:
    """The header by which the authenticator knows its callers."""
    if authenticator.credential_header == "x-api-key":
        return b"x-api-key", credential.encode("latin-1")
    has_scheme = " " in credential
    return b"authorization", (credential if has_scheme else f"Bearer {credential}").encode("latin-1")


def _is_own_page(request: Request[Any]) -> bool:
    """Whether a page of this very server asks. No page can forge `Sec-Fetch-Site`."""
    if request.headers.get("sec-fetch-site") != "same-origin":
        return False
    origin = request.headers.get("origin")
    return origin is None or is_origin_of(request.headers.get("host", ""), origin)


def refuse_foreign_page(request: Request[Any]) -> None:
    """Forbidden if a page that is not ours asks, one that `http.cors` allows included. Programs may ask."""
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
    values = [unquote(cookies[name].value, errors="strict") for name in names if name in cookies]
    return next((value for value in values if is_credential(value)), None)


def is_credential(text: str) -> bool:
    """Return whether `text` may be in a header: visible ASCII, with single spaces between words."""
    return text.isascii() and text.isprintable() and bool(text) and text == " ".join(text.split())


def _cookie(name: str, value: str, *, secure: bool) -> str:
    attributes = "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
    return f"{name}={value}{attributes}"
