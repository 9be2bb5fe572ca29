"""`threadkeep adopt` from LangGraph's own development server, if TEST_REFERENCE names its program (`make reference`)."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_client

import adopt_graphs
from adopt_apps import Adopt, served_graphs
from conftest import serving
from reference.servers import reference
from threadkeep.settings import Settings

PROGRAM = os.environ.get("TEST_REFERENCE")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="TEST_REFERENCE names no langgraph program")


@pytest.fixture
def there(tmp_path: Path) -> Iterator[str]:
    """The URL of the server with the same graphs."""
    project = tmp_path / "served"
    project.mkdir()
    shutil.copy(adopt_graphs.__file__, project / "adopt_graphs.py")
    (project / "agent.py").write_text(
        "from adopt_graphs import BUILDERS\nmemory, order = [build() for build in BUILDERS.values()]\n"
    )
    graphs = {name: f"./agent.py:{name}" for name in ("memory", "order")}
    (project / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))
    with reference(tmp_path, Path(str(PROGRAM)).absolute(), project) as url:
        yield url


async def test_threads_of_the_reference_go_on_here(there: str, adopt: Adopt, settings: Settings) -> None:
    async with get_client(url=there, api_key=None) as source:
        ada, order = [(await source.threads.create())["thread_id"] for _ in range(2)]
        question: Any = {"messages": [{"role": "user", "content": "My name is Ada"}]}
        await source.runs.wait(ada, "memory", input=question)
        await source.runs.wait(order, "order", input={"steps": ["ordered"]})
        await source.assistants.create("memory", name="Polite")
        await source.store.put_item(("memories",), "tea", {"likes": "tea"})
        await source.crons.create("order", schedule="0 3 * * *", input={"steps": []})
        histories = {thread: _shape(await source.threads.get_history(thread, limit=100)) for thread in (ada, order)}

    report = await adopt(there)

    assert (report.skipped, report.notes) == ({}, {})
    kinds = ("assistants", "threads", "store items", "crons")
    assert [report.taken[kind] for kind in kinds] == [1, 2, 1, 1]
    async with serving(settings, served_graphs()) as here, get_client(url=here, api_key=None) as client:
        for thread, history in histories.items():
            assert _shape(await client.threads.get_history(thread, limit=100)) == history
        again: Any = await client.runs.wait(ada, "memory", input={"messages": [{"role": "user", "content": "And?"}]})
        assert again["messages"][-1]["content"] == "You are Ada."
        shipped: Any = await client.runs.wait(order, "order", command={"resume": "Grace"})
        assert shipped["steps"][-2:] == ["approved by Grace", "shipped"]


def _shape(states: Any) -> list[Any]:
    return [
        (
            state["values"],
            state["next"],
            state["checkpoint"]["checkpoint_id"],
            (state["parent_checkpoint"] or {}).get("checkpoint_id"),
        )
        for state in states
    ]
