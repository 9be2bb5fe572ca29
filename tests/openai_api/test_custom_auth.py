"""A project's own `Auth` in front of the OpenAI API."""

from pathlib import Path
from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI

import seen
from conftest import serving
from openai_graphs import OPENAI_GRAPHS
from threadkeep.graphs import as_loaded_graph
from threadkeep.project import Auth, GraphTarget, Project
from threadkeep.settings import Settings

AUTH = """
from langgraph_sdk import Auth

import seen

auth = Auth()


@auth.authenticate
async def authenticate(headers):
    return headers[b"authorization"].decode()


@auth.on.threads.read
async def read(ctx, value):
    seen.CALLS.append(("threads.read", dict(value)))
    return ctx.user.identity == "Bearer ada" or str(value["thread_id"]) in seen.GIVEN[0]["allowed"]
"""


async def test_each_thread_that_is_referred_to_is_asked_for(module_settings: Settings, tmp_path: Path) -> None:
    """Ours: a handler that decides by the thread's id is asked for every thread, not for the first one alone."""
    (tmp_path / "auth.py").write_text(AUTH)
    project = Project(root=tmp_path, graphs={"echo": GraphTarget(path="x:y")}, auth=Auth(path="./auth.py:auth"))
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in OPENAI_GRAPHS.items()}
    async with (
        serving(module_settings, loaded, project) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="ada", max_retries=0) as ada,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="bob", max_retries=0) as bob,
    ):
        one: Any = await ada.responses.create(model="echo", input="one")
        two: Any = await ada.responses.create(model="echo", input="two")
        seen.GIVEN[:] = [{"allowed": one.langgraph["thread_id"]}]
        references: list[Any] = [{"type": "item_reference", "id": each.output[0].id} for each in (one, two)]
        await bob.responses.create(model="echo", input=[references[0], {"role": "user", "content": "more"}])
        with pytest.raises(sdk.PermissionDeniedError):
            await bob.responses.create(model="echo", input=[*references, {"role": "user", "content": "more"}])
