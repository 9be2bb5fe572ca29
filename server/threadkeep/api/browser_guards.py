"""Browser guards: the web pages that may use this server, and the security headers of its responses.

A browser sends requests to any address for any page, the address of a server on its own machine included. Three rules
refuse pages that the operator did not allow. They do not affect clients other than browsers.

1. A request from a page of another origin is refused unless `http.cors` names the origin. This stops cross-site request
   forgery and cross-site WebSocket hijacking. The decision is that of Go's `http.CrossOriginProtection`.
2. A write needs `application/json`. A page cannot send that to another origin without a CORS preflight.
3. Without authentication the `Host` must be this machine, or a name of `THREADKEEP_HOSTS`. This stops DNS rebinding.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, cast

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from threadkeep.api.errors import render_problem
from threadkeep.base.problems import Forbidden, MisdirectedRequest, Problem, UnsupportedMediaType
from threadkeep.settings import Settings

SECURITY_HEADERS: Final = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
CONTENT_SECURITY_POLICY: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Headers of responses for programs. A browser must not display, frame or cache them."""
PROGRAMS: Final = (b"application/json", b"text/event-stream", b"")
VARY: Final = (b"vary", b"Origin")
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that are not writes."""
SIMPLE_MEDIA: Final = frozenset({b"application/x-www-form-urlencoded", b"multipart/form-data", b"text/plain"})
"""The media types that a page can send to any origin without a CORS preflight."""
DENIAL: Final = "websocket.http.response"
"""The ASGI extension that answers a WebSocket handshake with an HTTP response."""
WILDCARD_ADDRESSES: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, nothing is bound to it
DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedOrigins:
    """The origins that CORS allows: names, a pattern that fits the whole origin, or every origin."""

    names: frozenset[str]
    pattern: re.Pattern[str] | None = None

    @property
    def every(self) -> bool:
        """Whether CORS allows every origin."""
        return "*" in self.names

    def allows(self, origin: str) -> bool:
        """Whether pages of `origin` may call."""
        return self.every or origin in self.names or bool(self.pattern and self.pattern.fullmatch(origin))


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedHosts:
    """The values that the `Host` header may have while callers are not authenticated."""

    names: frozenset[str]
    """In lower case, without ports. `*.example.com` matches each name below `example.com`, and `*` every name."""
    any_address: bool = False
    """Whether every IP address is allowed. This is safe, because DNS rebinding needs a name."""

    def allows(self, host: str) -> bool:
        """Whether a request may name `host`, which may have a port."""
        name = _name_of(host)
        if name in self.names or name == "localhost" or "*" in self.names:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            # Browsers resolve all names below localhost to this machine.
            return name.endswith(".localhost") or self._has_wildcard_for(name)
        return self.any_address or address.is_loopback

    def _has_wildcard_for(self, name: str) -> bool:
        labels = name.split(".")
        return any("*." + ".".join(labels[start:]) in self.names for start in range(1, len(labels)))


def _name_of(host: str) -> str:
    """Return a `Host` header in lower case, without its port and without the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    # A complete name may end in the period of the DNS root.
    return host.partition(":")[0].lower().removesuffix(".")


def allowed_hosts(settings: Settings) -> AllowedHosts:
    """Return the allowed hosts: this machine, the address that the server is bound to, and `THREADKEEP_HOSTS`."""
    bound = settings.host.lower()
    return AllowedHosts(names=frozenset({bound, *settings.host_names}), any_address=bound in WILDCARD_ADDRESSES)


class BrowserSecurityMiddleware(CORSMiddleware):
    """Starlette's CORS, and security headers on every response. Requests without an Origin, which are most, skip CORS."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette passes WebSockets and the lifespan on unchanged.
        from_page = any(name == b"origin" for name, _ in scope["headers"]) if scope["type"] == "http" else True

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _guard(message)
                if not from_page:
                    # A cache must not give this response to a page. For requests with an Origin, Starlette adds the
                    # header.
                    message["headers"].append(VARY)
            await send(message)

        if from_page:
            await super().__call__(scope, receive, send_guarded)
        else:
            await self.app(scope, receive, send_guarded)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return Starlette's response, but a foreign origin gets 403 and no access to a private network."""
        response = super().preflight_response(request_headers)
        if not self.is_allowed_origin(request_headers["origin"]):
            response.status_code = Forbidden.status
            if "access-control-allow-private-network" in response.headers:
                del response.headers["access-control-allow-private-network"]
        return response


def _guard(message: Message) -> None:
    """Add the security headers that the response does not set itself, because a page may need another policy."""
    headers = dict(cast("list[tuple[bytes, bytes]]", message["headers"]))  # ASGI has their names in lower case
    guards = (
        SECURITY_HEADERS + CONTENT_SECURITY_POLICY
        if headers.get(b"content-type", b"").split(b";")[0] in PROGRAMS
        else SECURITY_HEADERS
    )
    message["headers"] = [*message["headers"], *[guard for guard in guards if guard[0] not in headers]]


class PageGuard:
    """Refuses requests and WebSockets of pages that are not allowed: 403 for the origin, 421 for the `Host`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        origins: AllowedOrigins,
        hosts: AllowedHosts | None,
        probes: frozenset[str] = frozenset(),
        no_documents: Iterable[re.Pattern[str]] = (),
    ) -> None:
        """`hosts=None` allows any. `probes`: paths for any `Host`. `no_documents`: paths that links may not open."""
        self._app = app
        self._origins = origins
        self._hosts = hosts
        self._probes = probes
        self._no_documents = tuple(no_documents)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._refusal(scope) if scope["type"] in {"http", "websocket"} else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await _refuse(problem, scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        origin = site = None
        host = ""
        for name, value in cast("list[tuple[bytes, bytes]]", scope["headers"]):
            if name == b"host":
                host = value.decode("latin-1")
                if self._hosts is not None and not self._hosts.allows(host) and scope["path"] not in self._probes:
                    return MisdirectedRequest(
                        "the Host header does not name this server: its operator can add the name to THREADKEEP_HOSTS"
                    )
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"sec-fetch-site":
                site = value
        # Programs send neither header.
        if (origin is None and site is None) or not self._is_foreign(scope, origin, site, host):
            return None
        return Forbidden(
            "pages of this origin may not call this server: its operator can allow the origin in http.cors of langgraph.json"
        )

    def _is_foreign(self, scope: Scope, origin: str | None, site: bytes | None, host: str) -> bool:
        """Whether the page has an origin that CORS does not allow. A page cannot forge `Sec-Fetch-Site`."""
        # A proxy may change `Host`, so the header that a page cannot forge counts first.
        if site == b"same-origin":
            return False
        if origin is None:
            return site == b"cross-site" and not (self._origins.every or self._is_link(scope))
        return not self._origins.allows(origin) and (site == b"cross-site" or not is_origin_of(host, origin))

    def _is_link(self, scope: Scope) -> bool:
        """Whether a person opens a document such as `/docs`, or a login redirects to it. No page can read the response."""
        headers = Headers(scope=scope)
        opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        is_blocked = any(pattern.match(scope["path"]) for pattern in self._no_documents)
        return opened and scope.get("method") == "GET" and not is_blocked


def is_origin_of(host: str, origin: str) -> bool:
    """Whether `Host` and `Origin` name the same server. A proxy that ends TLS changes the scheme, so it is not compared."""
    scheme, _, authority = origin.lower().partition("://")
    return host.lower() in {authority, authority + DEFAULT_PORTS.get(scheme, "")}


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        response = await render_problem(Request(scope), problem)
        await response(scope, receive, send)
        return
    websocket = WebSocket(scope, receive, send)
    if DENIAL in scope.get("extensions", {}):
        await websocket.send_denial_response(await render_problem(cast("Request[Any]", websocket), problem))
    else:
        # A server without the extension answers the handshake with 403.
        await websocket.close()


class JsonWrites:
    """Refuses with 415 a write that is not sent as JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in READS:
            _refuse_other_media(scope)
        await self._app(scope, receive, send)


def _refuse_other_media(scope: Scope) -> None:
    """Raise UnsupportedMediaType for a content type that an HTML form or a `no-cors` fetch can send.

    A request without a body needs no content type. A request with a body needs it if it comes from a page. A page can
    omit the type, but then the browser adds an `Origin`.
    """
    media, has_body, from_page = None, False, False
    for name, value in cast("list[tuple[bytes, bytes]]", scope["headers"]):
        if name == b"content-type":
            media = value.split(b";", 1)[0].strip().lower()
        elif name == b"content-length":
            has_body = has_body or value.strip(b"0") != b""
        elif name == b"transfer-encoding":
            has_body = True
        elif name in {b"origin", b"sec-fetch-site"}:
            from_page = True
    if media is None:
        refused = has_body and from_page
    elif has_body:
        refused = not (media == b"application/json" or (media.startswith(b"application/") and media.endswith(b"+json")))
    else:
        refused = media in SIMPLE_MEDIA
    if refused:
        raise UnsupportedMediaType("a write must have the content type application/json")
