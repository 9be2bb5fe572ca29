"""Where a client gets a token, and what a server without MCP pays."""

import subprocess
import sys
from pathlib import Path

import httpx

from conftest import serving
from mcp_client import post
from mcp_graphs import MCP_GRAPHS
from threadkeep.graphs import as_loaded_graph
from threadkeep.project import GraphTarget, Project
from threadkeep.settings import Settings

JWT = {
    "auth_type": "jwt",
    "jwt_issuer": "https://issuer.example",
    "jwt_audience": "threadkeep",
    "jwt_secret": "a secret of more than thirty-two bytes, shared",
}
STARTED = """
import sys
import threadkeep.serving, threadkeep.app
print([name for name in sys.modules if name.partition(".")[0] in ("mcp", "mcp_types", "jsonschema", "sse_starlette")])
"""


async def test_a_client_learns_where_it_gets_a_token(module_settings: Settings, tmp_path: Path) -> None:
    """Contract, Tasks: RFC 9728, named by `resource_metadata` in `WWW-Authenticate`."""
    settings = Settings.model_validate({**module_settings.model_dump(exclude_unset=True), **JWT})
    loaded = {"count": as_loaded_graph("count", MCP_GRAPHS["count"], where="tests")}
    project = Project.model_validate(
        {"root": tmp_path, "graphs": {"count": GraphTarget(path="x:y")}, "http": {"mount_prefix": "/agents"}}
    )
    async with serving(settings, loaded, project) as url, httpx.AsyncClient(base_url=f"{url}/agents") as http:
        refused = await post(http, "tools/list")
        address = f"{url}/agents/.well-known/oauth-protected-resource"
        metadata = [(await http.get(each)).json() for each in (address, f"{address}/mcp")]

    assert refused.status_code == 401
    challenge = f'Bearer realm="threadkeep", resource_metadata="{address}/mcp"'
    assert refused.headers["www-authenticate"] == challenge
    assert (
        metadata
        == [
            {
                "resource": f"{url}/agents/mcp",
                "authorization_servers": ["https://issuer.example"],
                "bearer_methods_supported": ["header"],
                "resource_name": "Threadkeep",
            }
        ]
        * 2
    )


async def test_a_key_of_the_operator_seals_states(module_settings: Settings) -> None:
    """Contract, Questions: keys that all replicas share, given by a setting; the first one seals, all of them open."""
    loaded = {"name": as_loaded_graph("name", MCP_GRAPHS["name"], where="tests")}
    forms = {"elicitation": {}}
    old, new = "o" * 32, "n" * 32
    states: list[dict[str, object]] = []
    for keys in (old, f"{new},{old}", new):
        settings = Settings.model_validate({**module_settings.model_dump(exclude_unset=True), "mcp_state_keys": keys})
        async with serving(settings, loaded) as url, httpx.AsyncClient(base_url=url) as http:
            params = {"name": "name", "arguments": {}}
            sent = params if not states else params | {"requestState": states[0]["requestState"]}
            answer = (await post(http, "tools/call", sent, capabilities=forms)).json()
            states.append(answer.get("result") or answer["error"])

    assert [state.get("resultType") or state["code"] for state in states] == [
        "input_required",
        "input_required",
        -32602,
    ]


def test_a_server_does_not_load_what_nobody_uses() -> None:
    """Contract, Building blocks: imported at the first request."""
    shown = subprocess.run([sys.executable, "-c", STARTED], check=True, capture_output=True, text=True)

    assert shown.stdout.strip() == "[]"
