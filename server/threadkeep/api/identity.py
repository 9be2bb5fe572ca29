"""Identity: shows callers their own identity and scopes."""

from starlette.responses import Response

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import json_response


async def me(call: AuthorizedRequest[None, None]) -> Response:
    """GET /me: read your identity and your scopes.

    Without authentication `identity` is null. `scopes` is null if your key or token may do everything, or if the project's
    own `Auth` decides.
    """
    principal, authenticator = call.caller.principal, call.caller.authenticator
    if principal is None or authenticator is None:
        return json_response({"identity": None, "display_name": None, "scopes": None, "permissions": []})
    return json_response(
        {
            "identity": principal.identity,
            "display_name": principal.display_name,
            "scopes": authenticator.granted_scopes(principal),
            "permissions": list(principal.permissions),
        }
    )
