"""Two keys, scopes and a switch: what is another's is not there, and what a key may not do it does not do."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from langgraph_sdk import get_client

from agui.conftest import LOADED
from agui.pages import Page, text, user
from conftest import WAIT_S, serving
from threadkeep.auth.api_keys import generate_key
from threadkeep.project import GraphTarget, Http, Project
from threadkeep.settings import Settings
from threadkeep.tables import api_keys


@pytest.fixture(scope="module")
async def url(module_settings: Settings) -> AsyncIterator[str]:
    """A server that asks for keys."""
    async with serving(module_settings.model_copy(update={"auth_type": "api_key"}), LOADED) as url:
        yield url


async def headers(settings: Settings, identity: str, *scopes: str) -> dict[str, str]:
    """The headers of a new key."""
    secret, row = generate_key(identity, "test", scopes, None)
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
        await api_keys.create(conn, row)
    return {"authorization": f"Bearer {secret}"}


async def test_a_request_without_a_key_is_refused(http: httpx.AsyncClient) -> None:
    """Contract, Who: 401 with `WWW-Authenticate`."""
    answer = await Page(http, "echo").refused()

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"]


async def test_a_text_names_a_thread_of_the_caller(http: httpx.AsyncClient, module_settings: Settings) -> None:
    """Contract, Ids from clients: the same text and run id never meet another principal's."""
    run_id = str(uuid4())
    ada = Page(http, "echo", thread_id="notes", headers=await headers(module_settings, "ada"))
    bob = Page(http, "echo", thread_id="notes", headers=await headers(module_settings, "bob"))
    first = await ada.say("hers", runId=run_id)
    second = await bob.say("his", runId=run_id)

    assert (text(first), text(second)) == ("You said: hers|", "You said: his|")
    assert text(await ada.say("more")) == "You said: hers / more|"


async def test_another_users_thread_run_and_assistant_are_not_there(
    http: httpx.AsyncClient, url: str, module_settings: Settings
) -> None:
    """Contract, Who and Agents: 404, with the text of what does not exist."""
    hers, his = await headers(module_settings, "ada"), await headers(module_settings, "bob")
    ada = Page(http, "echo", headers=hers)
    await ada.say("hers")
    async with get_client(url=url, headers=hers, api_key=None) as client:
        (run,) = await client.runs.list(ada.thread_id)
        assistant = await client.assistants.create("echo", name="hers")
    stolen = [
        await Page(http, "echo", thread_id=ada.thread_id, headers=his).refused(runId=run_id, messages=[user("x")])
        for run_id in (run["run_id"], run["metadata"]["ag_ui"]["run_id"], str(uuid4()))
    ]
    agents = [
        await Page(http, agent, headers=his).refused(messages=[user("x")])
        for agent in (assistant["assistant_id"], str(UUID(int=7)))
    ]
    own = await Page(http, assistant["assistant_id"], headers=hers).say("mine")

    assert [answer.status_code for answer in (*stolen, *agents)] == [404] * 5
    assert len({answer.json()["detail"] for answer in stolen}) == 1
    details = [answer.json()["detail"].replace(answer.request.url.path.rpartition("/")[2], "") for answer in agents]
    assert details[0] == details[1]
    assert text(own) == "You said: mine|"


@pytest.mark.parametrize("scope", ["threads.read", "threads.create_run", "threads.create"])
async def test_each_scope_is_needed(http: httpx.AsyncClient, module_settings: Settings, scope: str) -> None:
    """docs/how-to/authentication.md: the permissions of the operation."""
    scopes = {"threads.read", "threads.create_run", "threads.create"}
    allowed = await Page(http, "echo", headers=await headers(module_settings, "ada", *scopes)).say("x")
    refused = await Page(http, "echo", headers=await headers(module_settings, "ada", *scopes - {scope})).refused()

    assert allowed[-1]["type"] == "RUN_FINISHED"
    assert refused.status_code == 403
    assert scope in refused.json()["detail"]


async def test_the_surface_can_be_turned_off(module_settings: Settings, tmp_path: Path) -> None:
    """Contract, Agents: `http.disable_agui`; `/info` tells which surfaces there are."""
    project = Project(root=tmp_path, graphs={"echo": GraphTarget(path="x:y")}, http=Http(disable_agui=True))
    async with (
        serving(module_settings, {"echo": LOADED["echo"]}, project) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http,
    ):
        answer = await Page(http, "echo").refused()
        info = (await http.get("/info")).json()

    assert answer.status_code == 404
    assert "ag-ui" not in info["surfaces"]
