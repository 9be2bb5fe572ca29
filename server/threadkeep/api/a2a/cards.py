"""Agent cards: describe an agent and its address, in one document for A2A 1.0 and 0.3.

The cards of graphs' own assistants are public, because a client learns there how to authenticate. The card of another
assistant needs the permission to read the assistant.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from threadkeep.api.a2a.agents import Agent, agent_of, named_agent
from threadkeep.api.agents.assistants import agent_id, find_agent, unknown_agent
from threadkeep.api.authentication import authenticate
from threadkeep.api.mount import mount_prefix
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.ops.security_schemes import SCHEMES
from threadkeep.api.responses import encoded_json_response
from threadkeep.auth.caller import Caller
from threadkeep.base import json
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.runs.calling_run import CALLING_RUN, CallingRun
from threadkeep.tables import assistants
from threadkeep.tables.assistants import Assistant

WELL_KNOWN: Final = "/.well-known/agent-card.json"
MAX_AGE_S: Final = 60
PROTOCOLS: Final = ("1.0", "0.3")
"""The versions of the protocol, the preferred one first."""
WRAPPERS: Final = {
    "apiKey": "apiKeySecurityScheme",
    "http": "httpAuthSecurityScheme",
    "oauth2": "oauth2SecurityScheme",
    "openIdConnect": "openIdConnectSecurityScheme",
    "mutualTLS": "mtlsSecurityScheme",
}
"""Type of a security scheme of 0.3, which has OpenAPI's form -> the field that wraps it in 1.0."""


class CardQuery(BaseModel):
    """The query of the well-known card."""

    model_config = ConfigDict(extra="ignore")

    assistant_id: str | None = None
    """An assistant's id or the name of a graph. None: the first graph."""


async def card(call: AuthorizedRequest[None, None]) -> Response:
    """GET /a2a/{assistant_id}/.well-known/agent-card.json: read the card of an agent.

    The card of a graph's own assistant is public. The card of another assistant needs the permission to read it.
    """
    return await _card_response(call, named_agent(call))


async def well_known_card(call: AuthorizedRequest[None, CardQuery]) -> Response:
    """GET /.well-known/agent-card.json: read the card of the agent `assistant_id`, or of the first graph."""
    return await _card_response(call, call.query.assistant_id or next(iter(call.state.graphs)))


async def card_fields(call: AuthorizedRequest[Any, Any], agent: Agent) -> dict[str, Any]:
    """Return the card of an agent that the caller may see."""
    row = await _row(call, agent)
    url = agent_url(call, agent.name)
    has_auth = call.state.authenticator is not None
    name, description = _name(call, row), _description(call, row)
    skill = {"id": row.graph_id, "name": name, "description": description, "tags": ["langgraph", row.graph_id]}
    return {
        "name": name,
        "description": description,
        "version": str(row.version),
        "supportedInterfaces": [
            {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": version} for version in PROTOCOLS
        ],
        # This field and some others are those of 0.3. Each version ignores the other's fields.
        "url": url,
        "preferredTransport": "JSONRPC",
        "protocolVersion": "0.3.0",
        "capabilities": {
            "streaming": True,
            "pushNotifications": call.state.runs.webhooks.enabled,
            "extendedAgentCard": has_auth,
        },
        "supportsAuthenticatedExtendedCard": has_auth,
        "defaultInputModes": list(agent.input_modes),
        "defaultOutputModes": list(agent.output_modes),
        "skills": [skill],
        **_security(call),
    }


def agent_url(call: AuthorizedRequest[Any, Any], name: str) -> str:
    """The address of an agent: below THREADKEEP_PUBLIC_URL, or below the host that the request names."""
    request, settings = call.request, call.state.settings
    if settings.public_url is not None:
        base = settings.public_url.rstrip("/")
    else:
        base = f"{request.url.scheme}://{request.url.netloc}{mount_prefix(call.state.project.http)}"
    return f"{base}/a2a/{quote(name, safe='')}"


async def _card_response(call: AuthorizedRequest[Any, Any], name: str) -> Response:
    is_public = call.assistants.is_of_graph(agent_id(call.assistants, name)) or call.state.authenticator is None
    known = call if is_public else await _authenticated(call)
    agent = await agent_of(known, name, await find_agent(known, name))
    encoded = json.dumps(await card_fields(known, agent))
    etag = f'"{hashlib.sha256(encoded).hexdigest()[:32]}"'
    cache = f"{'public' if is_public else 'private'}, max-age={MAX_AGE_S}"
    # The card has the host in its URLs, so a shared cache must not mix hosts.
    headers = {"etag": etag, "cache-control": cache, "vary": "Host" if is_public else "Authorization, Host"}
    if etag in call.request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return encoded_json_response(encoded, headers=headers)


async def _authenticated(call: AuthorizedRequest[Any, Any]) -> AuthorizedRequest[Any, Any]:
    """Authenticate the caller and return the request. Raise Unauthenticated."""
    state, run = call.state, cast("CallingRun | None", call.request.scope.get(CALLING_RUN))
    if state.authenticator is None:
        return call
    principal, request = await authenticate(state.authenticator, call.request)
    # A public route counts no requests. So an authenticated one has to be counted here.
    state.quotas.count_request(principal.identity, has_others=principal.has_others)
    caller = Caller(principal, state.authenticator, run and run.slot, connection=request)
    return replace(call, request=request, caller=caller)


async def _row(call: AuthorizedRequest[Any, Any], agent: Agent) -> Assistant:
    """The assistant's row. The caller was authorized to read it."""
    async with call.state.pool.connection() as conn:
        # No filters: the caller may read a graph's own assistant even if a filter hides it.
        row = await assistants.get(conn, UNRESTRICTED, agent.assistant.assistant_id)
    if row is None:
        raise unknown_agent(agent.name)
    return row


def _name(call: AuthorizedRequest[Any, Any], row: Assistant) -> str:
    return row.graph_id if call.assistants.is_of_graph(row.assistant_id) else row.name


def _description(call: AuthorizedRequest[Any, Any], row: Assistant) -> str:
    """The assistant's description, else that of its graph in langgraph.json, else a sentence with its name."""
    target = call.state.project.graphs.get(row.graph_id)
    of_graph = target.description if target is not None else None
    return row.description or of_graph or f"The agent {_name(call, row)}."


def _security(call: AuthorizedRequest[Any, Any]) -> dict[str, Any]:
    """How clients authenticate, as 1.0 and as 0.3 say it."""
    configured = call.state.project.auth.openapi
    schemes = cast("Mapping[str, Any]", configured.get("securitySchemes") or SCHEMES[call.state.auth_type])
    if not schemes:
        return {}
    names: Sequence[Mapping[str, Any]] = cast("Any", configured.get("security")) or [{name: []} for name in schemes]
    return {
        "securitySchemes": {name: _both_forms(scheme) for name, scheme in schemes.items()},
        "securityRequirements": [
            {"schemes": {name: {"list": scopes} for name, scopes in named.items()}} for named in names
        ],
        "security": list(names),
    }


def _both_forms(scheme: Mapping[str, Any]) -> dict[str, Any]:
    """A security scheme in OpenAPI's form, with the field that wraps it in 1.0."""
    wrapper = WRAPPERS.get(str(scheme.get("type")))
    if wrapper is None:
        return dict(scheme)
    # 1.0 says `location` instead of `in`, and the wrapper's name instead of `type`.
    own = {name: value for name, value in scheme.items() if name not in {"type", "in"}}
    return {**scheme, wrapper: own | ({"location": scheme["in"]} if "in" in scheme else {})}
