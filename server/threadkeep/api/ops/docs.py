"""Docs: the OpenAPI document and a page that shows it. The page loads nothing from other servers."""

import base64
import functools
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from starlette.applications import Starlette
from starlette.responses import Response

from threadkeep.api.operation import ApiDocs, AuthorizedRequest, Operation
from threadkeep.api.ops import openapi
from threadkeep.api.ops.app_routes import merged
from threadkeep.api.ops.security_schemes import add_security
from threadkeep.api.responses import encoded_json_response
from threadkeep.base import json
from threadkeep.project import Auth
from threadkeep.settings import AuthType


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """The operations and settings that the OpenAPI document describes."""

    served: tuple[Operation, ...]
    prefix: str
    """The prefix of all paths."""
    kind: AuthType
    auth: Auth
    """Together with `kind`, how callers authenticate."""
    app: Starlette | None = None
    """The project's own application."""
    reserved: frozenset[str] = frozenset()
    """Paths that it cannot override."""


def build_docs(described: Described) -> ApiDocs:
    """Return the OpenAPI document, the page that shows it, and the page's Content-Security-Policy."""
    page = resources.files("threadkeep.api.ops").joinpath("docs.html").read_text("utf-8")
    # The policy allows the inline script and style of the page by their hashes, so an injected script does not run.
    script, style = (_hash(page, tag) for tag in ("script", "style"))
    return ApiDocs(
        spec=_spec(described),
        page=page.encode(),
        policy=f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    )


def _spec(described: Described) -> bytes:
    served, prefix = described.served, described.prefix
    if described.kind == "none" and described.app is None:
        return _encoded(served, prefix)
    # Decoded from the cached bytes, because the next functions change the document and several applications share the
    # cache.
    document = add_security(json.loads(_encoded(served, prefix)), served, described.kind, described.auth)
    if described.app is not None:
        document = merged(document, described.app, described.reserved)
    return json.dumps(document)


def warm_up(served: tuple[Operation, ...], prefix: str) -> None:
    """Make the document, which takes some 0.3 s, so that servers that are forked later have it."""
    _encoded(served, prefix)


@functools.cache
def _encoded(served: tuple[Operation, ...], prefix: str) -> bytes:
    return json.dumps(openapi.document(served, prefix))


def _hash(page: str, tag: str) -> str:
    match = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digest = hashlib.sha256(match[1].encode() if match else b"").digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


async def spec(call: AuthorizedRequest[None, None]) -> Response:
    """GET /openapi.json: read this description of the API."""
    return encoded_json_response(call.state.docs.spec)


async def page(call: AuthorizedRequest[None, None]) -> Response:
    """GET /docs: open a page that shows the API and can call its operations."""
    docs = call.state.docs
    return Response(docs.page, media_type="text/html", headers={"content-security-policy": docs.policy})
