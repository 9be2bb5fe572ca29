"""Agent cards: one document for both versions of the protocol."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from a2a.client import A2ACardResolver
from a2a.compat.v0_3 import types as v03

from a2a_api.conftest import loaded_graphs, said
from conftest import serving
from threadkeep.auth.api_keys import generate_key
from threadkeep.settings import Settings
from threadkeep.tables import api_keys

CARD = "/.well-known/agent-card.json"
MODES = ["text/plain", "application/json", "image/*", "audio/*", "video/*", "application/pdf"]


async def test_a_card_is_for_both_versions(http: httpx.AsyncClient, url: str) -> None:
    """Contract: `supportedInterfaces` 1.0 then 0.3 with the same URL, and the fields of 0.3."""
    address = f"{url}/a2a/echo"
    card = (await http.get(f"/a2a/echo{CARD}")).json()

    assert card == {
        "name": "echo",
        "description": "The agent echo.",
        "version": "1",
        "supportedInterfaces": [
            {"url": address, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
            {"url": address, "protocolBinding": "JSONRPC", "protocolVersion": "0.3"},
        ],
        "url": address,
        "preferredTransport": "JSONRPC",
        "protocolVersion": "0.3.0",
        "capabilities": {"streaming": True, "pushNotifications": True, "extendedAgentCard": False},
        "supportsAuthenticatedExtendedCard": False,
        "defaultInputModes": MODES,
        "defaultOutputModes": MODES,
        "skills": [{"id": "echo", "name": "echo", "description": "The agent echo.", "tags": ["langgraph", "echo"]}],
    }
    assert v03.AgentCard.model_validate(card).url == address


async def test_the_well_known_cards(http: httpx.AsyncClient) -> None:
    """Contract: by `assistant_id`, and without it the first graph's. A graph's name may have a slash."""
    first = (await http.get(CARD)).json()
    named = (await http.get(CARD, params={"assistant_id": "ask/two"})).json()

    assert first["name"] == "approval"
    assert named["name"] == "ask/two"
    assert named["url"].endswith("/a2a/ask%2Ftwo")
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": said()}
    assert "result" in (await http.post(named["url"], json=body)).json()
    assert (await http.get("/a2a/sum" + CARD)).json()["defaultInputModes"] == ["application/json"]


async def test_a_card_is_cached(http: httpx.AsyncClient) -> None:
    """Contract: `Cache-Control`, `ETag`, 304."""
    answer = await http.get(f"/a2a/echo{CARD}")
    again = await http.get(f"/a2a/echo{CARD}", headers={"if-none-match": answer.headers["etag"]})

    assert answer.headers["cache-control"] == "public, max-age=60"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])


async def test_an_assistant_has_a_card_of_its_own(http: httpx.AsyncClient) -> None:
    """Contract: its name, its description and its `metadata.a2a`."""
    modes = {"input_modes": ["text/plain"], "output_modes": ["text/plain", "image/png"]}
    body = {"graph_id": "echo", "name": "Mirror", "description": "It repeats.", "metadata": {"a2a": modes}}
    made = (await http.post("/assistants", json=body)).json()
    card = (await http.get(f"/a2a/{made['assistant_id']}{CARD}")).json()

    assert (card["name"], card["description"], card["skills"][0]["id"]) == ("Mirror", "It repeats.", "echo")
    assert (card["defaultInputModes"], card["defaultOutputModes"]) == (["text/plain"], ["text/plain", "image/png"])
    params = said(parts=[{"data": 1}])
    answer = await http.post(
        f"/a2a/{made['assistant_id']}", json={"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": params}
    )
    assert answer.json()["error"]["code"] == -32005
    task = await http.post(
        f"/a2a/{made['assistant_id']}", json={"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": said()}
    )
    assert task.json()["result"]["task"]["artifacts"][0]["parts"] == [{"text": "You said: hello"}]


@pytest.fixture(scope="module")
async def keyed(module_settings: Settings) -> AsyncIterator[str]:
    """A server that asks for keys, below an address of its own."""
    changes = {"auth_type": "api_key", "public_url": "https://agents.example/base/"}
    async with serving(module_settings.model_copy(update=changes), loaded_graphs()) as url:
        yield url


async def _key(settings: Settings, identity: str, *scopes: str) -> dict[str, str]:
    secret, row = generate_key(identity, "test", scopes, None)
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
        await api_keys.create(conn, row)
    return {"x-api-key": secret}


async def test_cards_with_authentication(module_settings: Settings, keyed: str) -> None:
    """Contract: graphs' own cards need no token and tell the schemes. Others are for those who may read them."""
    async with httpx.AsyncClient(base_url=keyed) as http:
        card = (await http.get(f"/a2a/echo{CARD}")).json()
        ada, bob = await _key(module_settings, "ada"), await _key(module_settings, "bob")
        limited = await _key(module_settings, "ada", "threads.*")
        made = (await http.post("/assistants", json={"graph_id": "echo"}, headers=ada)).json()["assistant_id"]
        statuses = [
            (await http.get(f"/a2a/{name}{CARD}", headers=headers)).status_code
            for name, headers in ((made, {}), (made, bob), (made, limited), (str(uuid4()), {}), (str(uuid4()), bob))
        ]
        own = await http.get(f"/a2a/{made}{CARD}", headers=ada)
        call: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "GetExtendedAgentCard"}
        extended = await http.post("/a2a/echo", json=call, headers=ada)
        refused = await http.post("/a2a/echo", json=call)
        parsed = await A2ACardResolver(http, f"{keyed}/a2a/echo").get_agent_card()

    assert card["url"] == "https://agents.example/base/a2a/echo"
    assert card["securitySchemes"]["key"] == {
        "type": "http",
        "scheme": "bearer",
        "httpAuthSecurityScheme": {"scheme": "bearer"},
    }
    assert card["securitySchemes"]["header"]["apiKeySecurityScheme"] == {"name": "x-api-key", "location": "header"}
    assert card["securityRequirements"] == [{"schemes": {"key": {"list": []}}}, {"schemes": {"header": {"list": []}}}]
    assert card["security"] == [{"key": []}, {"header": []}]
    assert parsed.security_schemes["header"].api_key_security_scheme.name == "x-api-key"
    assert statuses == [401, 404, 403, 401, 404]
    assert (own.status_code, own.headers["cache-control"]) == (200, "private, max-age=60")
    assert extended.json()["result"] == card
    assert (refused.status_code, "www-authenticate" in refused.headers) == (401, True)
