"""The projects in examples/, served as they stand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_client

from conftest import serving
from threadkeep import graphs, project
from threadkeep.graphs import LoadedGraph
from threadkeep.project import Project
from threadkeep.settings import Settings

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def functional() -> Project:
    return project.load_project(EXAMPLES / "functional" / "langgraph.json")


@pytest.fixture
def loaded(functional: Project) -> Mapping[str, LoadedGraph]:
    return graphs.load_graphs(functional)


@pytest.mark.parametrize(("approval", "said"), [(True, "Hello there"), (False, "I did not send it.")])
async def test_example_in_the_functional_api_asks_and_keeps_the_conversation(
    settings: Settings, functional: Project, loaded: Mapping[str, LoadedGraph], approval: bool, said: str
) -> None:
    """Ours: each task runs once, and the thread's values hold every turn."""
    async with serving(settings, loaded, functional) as url, get_client(url=url, api_key=None) as client:
        thread_id = (await client.threads.create())["thread_id"]
        for turn in (1, 2):
            body: Any = {"messages": [{"role": "user", "content": "hello there"}]}
            asked: Any = await client.runs.wait(thread_id, "agent", input=body)
            answered: Any = await client.runs.wait(thread_id, "agent", command={"resume": approval})

            assert asked["__interrupt__"][0]["value"] == {"draft": "Hello there", "question": "Send this?"}
            assert [message["type"] for message in answered["messages"]] == ["human", "ai"] * turn
            assert answered["messages"][-1]["content"] == said
