"""Console: the built-in page, and the session of a browser.

Addresses in the page are relative, so that it works below any prefix. A file is found by the last segment of its path.
Every other path below `/console` is the page itself.
"""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from threadkeep.api import session_cookie
from threadkeep.api.authentication import replay_body
from threadkeep.api.console_files import INDEX, SECURITY_HEADERS, ConsoleFile
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.base.problems import ContentTooLarge, InvalidRequest, NotFound, ValidationFailed

MAX_CREDENTIAL_CHARACTERS: Final = 16_384


class CredentialBody(BaseModel):
    """The body of a sign-in."""

    model_config = ConfigDict(extra="ignore")

    credential: str = Field(min_length=1, max_length=MAX_CREDENTIAL_CHARACTERS)
    """An API key or a token, as a header would hold it."""


async def open_page(call: AuthorizedRequest[None, None]) -> Response:
    """GET /console: go to the page, whose relative addresses need the slash at the end."""
    query = call.request.url.query
    # Relative, because a proxy may have put more before the path.
    location = "console/" + (f"?{query}" if query else "")
    return Response(status_code=307, headers={**SECURITY_HEADERS, "location": location})


async def file(call: AuthorizedRequest[None, None]) -> Response:
    """GET /console/{path}: read a file of the page, or the page itself for any other path.

    If the last segment has a period, it is the name of a file. 404 if the page has no such file.
    """
    files, name = call.state.console, call.request.path_params["path"].rpartition("/")[2]
    page_file = files.get(name)
    if page_file is None and "." in name:
        raise NotFound("the console does not have this file")
    return _sent(page_file or files[INDEX], call.request)


def _sent(page_file: ConsoleFile, request: Request[Any]) -> Response:
    # A proxy that compresses a response makes its tag weak.
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if page_file.headers["etag"] in tags:
        return Response(status_code=304, headers=dict(page_file.headers))
    if page_file.compressed is not None and _takes_gzip(request):
        return Response(page_file.compressed, headers={**page_file.headers, "content-encoding": "gzip"})
    return Response(page_file.body, headers=dict(page_file.headers))


def _takes_gzip(request: Request[Any]) -> bool:
    for coding in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = coding.replace(" ", "").partition(";q=")
        if name in {"gzip", "*"}:
            return weight.strip("0.") != "" if weight else True
    return False


async def sign_in(call: AuthorizedRequest[CredentialBody, None]) -> Response:
    """POST /console/session: store a key or a token in a cookie that no script can read.

    The cookie replaces the header only in requests of the console itself. It ends with the browser, with
    `DELETE /console/session`, or when the key or token is no longer valid. 401 if it is not valid now.
    """
    session_cookie.refuse_foreign_page(call.request)
    authenticator, credential = call.state.authenticator, call.body.credential.strip()
    if authenticator is None:
        raise InvalidRequest("authentication is off, so there is nothing to sign in with")
    if not session_cookie.is_credential(credential):
        raise ValidationFailed("a key or token has only visible ASCII characters, with single spaces between words")
    if len(session_cookie.encoded(credential)) > session_cookie.MAX_CREDENTIAL_BYTES:
        raise ContentTooLarge("the token is too large for a cookie")
    request = call.request
    principal = await authenticator.authenticate(_with_header(request, credential))
    request.scope["principal"] = principal  # for the log
    return Response(status_code=204, headers={"set-cookie": session_cookie.set_cookie(request, credential)})


def _with_header(request: Request[Any], credential: str) -> Request[Any]:
    """Return the request with `credential` in its header, and without other credentials, cookies and body."""
    authenticator = request.scope["state"]["threadkeep"].authenticator
    others = [
        (name, value)
        for name, value in request.scope["headers"]
        if name not in session_cookie.CREDENTIAL_HEADERS and name != b"cookie"
    ]
    headers = [*others, session_cookie.credential_header(credential, authenticator)]
    # The body has been read already, and it is no body of the request that is authenticated.
    return Request({**request.scope, "headers": headers}, replay_body(b"", request.receive))


async def sign_out(call: AuthorizedRequest[None, None]) -> Response:
    """DELETE /console/session: delete the key or token, and all data of the page in the browser."""
    session_cookie.refuse_foreign_page(call.request)
    response = Response(status_code=204, headers={"clear-site-data": '"cookies", "storage"'})
    # Without TLS, browsers ignore `Clear-Site-Data`.
    for cookie in session_cookie.cleared_cookies():
        response.headers.append("set-cookie", cookie)
    return response
