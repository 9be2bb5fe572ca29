"""Docs: the spec, and a page that shows it. The page brings all it needs: it works without an internet."""

import base64
import functools
import hashlib
import re
from collections.abc import Iterable
from importlib import resources

from starlette.responses import Response

from threadkeep.api.operation import Call, Docs, Operation
from threadkeep.api.ops import openapi
from threadkeep.api.ops.security_schemes import secured
from threadkeep.api.responses import raw_json
from threadkeep.base import json
from threadkeep.project import Auth
from threadkeep.settings import AuthType


def load(served: Iterable[Operation], prefix: str, kind: AuthType, auth: Auth) -> Docs:
    """The spec of `served` below `prefix`, and the page; `kind` and `auth` say how callers are known."""
    page = resources.files("threadkeep.api.ops").joinpath("docs.html").read_text("utf-8")
    script, style = (_hash(page, tag) for tag in ("script", "style"))
    return Docs(
        spec=_secured(tuple(served), prefix, kind, auth),
        page=page.encode(),
        policy=f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    )


def _secured(served: tuple[Operation, ...], prefix: str, kind: AuthType, auth: Auth) -> bytes:
    if kind == "none":
        return _encoded(served, prefix)
    return json.dumps(secured(openapi.document(served, prefix), served, kind, auth))


@functools.cache
def _encoded(served: tuple[Operation, ...], prefix: str) -> bytes:
    return json.dumps(openapi.document(served, prefix))


def _hash(page: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digest = hashlib.sha256(found[1].encode() if found else b"").digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


async def spec(call: Call[None, None]) -> Response:
    """GET /openapi.json: this description of the server."""
    return raw_json(call.state["docs"].spec)


async def page(call: Call[None, None]) -> Response:
    """GET /docs: a page that shows the spec and tries its operations."""
    docs = call.state["docs"]
    return Response(docs.page, media_type="text/html", headers={"content-security-policy": docs.policy})
