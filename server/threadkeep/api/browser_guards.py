"""Browsers: what a page may have of this server, and what a browser is to make of an answer: no more than it is."""

from typing import Final, cast

from starlette.middleware.cors import CORSMiddleware
from starlette.types import Message, Receive, Scope, Send

GUARDS: Final = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
NO_PAGE: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Of what is for programs: it is no page, no part of one, and nothing to keep."""
PROGRAMS: Final = (b"application/json", b"text/event-stream", b"")
VARIES: Final = (b"vary", b"Origin")


class Browsers(CORSMiddleware):
    """CORS as Starlette does it, and guards on every answer. What comes from no page passes CORS by: that is most."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from_page = any(name == b"origin" for name, _ in scope["headers"]) if scope["type"] == "http" else True

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _guard(message)
                if not from_page:
                    message["headers"].append(VARIES)
            await send(message)

        if from_page:
            await super().__call__(scope, receive, send_guarded)
        else:
            await self.app(scope, receive, send_guarded)


def _guard(message: Message) -> None:
    """Over none that the answer has of its own: a page may need another policy."""
    named = dict(cast("list[tuple[bytes, bytes]]", message["headers"]))  # ASGI has their names in lower case
    wanted = GUARDS + NO_PAGE if named.get(b"content-type", b"").split(b";")[0] in PROGRAMS else GUARDS
    message["headers"] = [*message["headers"], *(guard for guard in wanted if guard[0] not in named)]
