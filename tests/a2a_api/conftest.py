"""Fixtures: one server of the graphs of A2A for each file of tests, and the clients of it."""

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from a2a.client import A2ACardResolver, Client, ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as pb

from a2a_graphs import A2A_GRAPHS
from conftest import WAIT_S, serving
from threadkeep.graphs import LoadedGraph, as_loaded_graph
from threadkeep.settings import Settings

Rpc = Callable[..., Any]


def loaded_graphs() -> dict[str, LoadedGraph]:
    """The graphs of A2A."""
    return {name: as_loaded_graph(name, graph, where="tests") for name, graph in A2A_GRAPHS.items()}


@pytest.fixture(scope="module")
async def url(module_settings: Settings) -> AsyncIterator[str]:
    """The URL of the file's server."""
    async with serving(module_settings, loaded_graphs()) as url:
        yield url


@pytest.fixture(scope="module")
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """For what the SDKs do not show."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http:
        yield http


@pytest.fixture(scope="module")
def rpc(http: httpx.AsyncClient) -> Rpc:
    """Calls a method of an agent, and returns the JSON-RPC answer."""

    async def call(agent: str, method: str, params: Any = None, **more: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        answer = await http.post(f"/a2a/{agent}", json=body, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return call


def said(text: str = "hello", **more: Any) -> dict[str, Any]:
    """The parameters of SendMessage in 1.0."""
    return {"message": {"messageId": str(uuid4()), "role": "ROLE_USER", "parts": [{"text": text}], **more}}


def message(text: str = "hello", **more: Any) -> pb.SendMessageRequest:
    """The request of the SDK."""
    sent = pb.Message(message_id=str(uuid4()), role=pb.Role.ROLE_USER, parts=[pb.Part(text=text)], **more)
    return pb.SendMessageRequest(message=sent)


async def sdk_client(http: httpx.AsyncClient, agent: str, version: str = "1.0", **config: Any) -> Client:
    """The client of `a2a-sdk`, which speaks the one version of the agent's card."""
    card = await A2ACardResolver(http, f"{str(http.base_url).rstrip('/')}/a2a/{agent}").get_agent_card()
    interfaces = [each for each in card.supported_interfaces if each.protocol_version == version]
    del card.supported_interfaces[:]
    card.supported_interfaces.extend(interfaces)
    return ClientFactory(ClientConfig(httpx_client=http, **config)).create(card)


async def events_of(client: Client, request: pb.SendMessageRequest) -> list[Any]:
    """The events of a message."""
    return [event async for event in client.send_message(request)]


def text_of(parts: Any) -> str:
    """The text of parts of the SDK."""
    return "".join(part.text for part in parts)
