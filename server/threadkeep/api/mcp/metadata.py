"""Metadata of the MCP endpoint as a resource that needs a token (RFC 9728): where a client gets one.

It is served if callers authenticate with a JWT. A request without a valid token is answered with the address of the metadata.
"""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import json_response
from threadkeep.base.problems import NotFound

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
MCP_PATH: Final = "/mcp"


class ResourceMetadata(TypedDict):
    """Metadata of a protected resource (RFC 9728, 2)."""

    resource: str
    authorization_servers: list[str]
    bearer_methods_supported: list[str]
    resource_name: str


async def resource_metadata(call: AuthorizedRequest[None, None]) -> Response:
    """GET /.well-known/oauth-protected-resource: tell an MCP client which issuer gives it a token. Exists only with AUTH_TYPE=jwt."""
    issuer = call.state.settings.jwt_issuer
    # With API keys there is no issuer. A client that finds metadata would begin a login that can't succeed.
    if call.state.auth_type != "jwt" or issuer is None:
        raise NotFound("Not Found")
    metadata: ResourceMetadata = {
        "resource": address_of(call.request, MCP_PATH),
        "authorization_servers": [issuer],
        "bearer_methods_supported": ["header"],
        "resource_name": "Threadkeep",
    }
    return json_response(metadata)


def address_of(request: Request[Any], path: str) -> str:
    """The address of a path of this server, as the client of a request calls it."""
    state = request.scope["state"]["threadkeep"]
    if state.settings.public_url is not None:
        return state.settings.public_url.rstrip("/") + path
    prefix = (state.project.http.mount_prefix or "").rstrip("/")
    return f"{request.url.scheme}://{request.url.netloc}{prefix}{path}"


def challenge_of(request: Request[Any]) -> str | None:
    """Return the parameters of `WWW-Authenticate`, or None if there is no metadata."""
    if request.scope["state"]["threadkeep"].auth_type != "jwt":
        return None
    return f'resource_metadata="{address_of(request, WELL_KNOWN + MCP_PATH)}"'
