"""`threadkeep adopt` from a running server, by its API. The source is a Threadkeep on a database of its own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from adopt_apps import Adopt, served_graphs
from conftest import serving
from threadkeep.base.problems import StartupError
from threadkeep.project import Http, Project
from threadkeep.settings import Settings


@pytest.fixture
async def there(module_settings: Settings) -> AsyncIterator[tuple[str, LangGraphClient]]:
    """The URL of the source, and a client of it."""
    async with serving(module_settings, served_graphs()) as url, get_client(url=url, api_key=None) as client:
        yield url, client


async def _say(client: LangGraphClient, thread_id: str, text: str, **run: Any) -> str:
    answer: Any = await client.runs.wait(
        thread_id, "memory", input={"messages": [{"role": "user", "content": text}]}, **run
    )
    return answer["messages"][-1]["content"]


async def _fill(client: LangGraphClient) -> tuple[str, str]:
    """A conversation with a fork, and an order that waits for an answer in its subgraph."""
    ada, order = [(await client.threads.create(metadata={"topic": "moving"}))["thread_id"] for _ in range(2)]
    await _say(client, ada, "My name is Ada")
    first: Any = (await client.threads.get_history(ada, limit=1))[0]
    await _say(client, ada, "My name is Bob")
    await _say(client, ada, "Hello", checkpoint=first["checkpoint"])
    await client.runs.wait(order, "order", input={"steps": ["ordered"]})
    return ada, order


def _shape(states: Any) -> list[Any]:
    fields = ("values", "next", "created_at", "interrupts")
    return [
        (
            *(state[field] for field in fields),
            state["checkpoint"],
            (state["parent_checkpoint"] or {}).get("checkpoint_id"),
        )
        for state in states
    ]


async def test_threads_of_a_server_go_on_here(
    there: tuple[str, LangGraphClient], adopt: Adopt, settings: Settings
) -> None:
    url, source = there
    ada, order = await _fill(source)
    polite = await source.assistants.create("memory", name="Polite", context={"tone": "polite"})
    await source.store.put_item(("memories", "food"), "tea", {"likes": "tea"})
    await source.crons.create("order", schedule="0 3 * * *", input={"steps": []}, timezone="Europe/Paris")
    histories = {thread: await source.threads.get_history(thread, limit=100) for thread in (ada, order)}

    report = await adopt(url)
    again = await adopt(url)

    kinds = ("assistants", "threads", "store items", "crons")
    assert ([report.taken[kind] for kind in kinds], report.skipped, report.notes) == ([1, 2, 1, 1], {}, {})
    assert report.taken["checkpoints"] == sum(map(len, histories.values()))
    assert ([again.here[kind] for kind in kinds], again.taken.total(), again.skipped) == ([1, 2, 1, 1], 0, {})
    async with serving(settings, served_graphs()) as here, get_client(url=here, api_key=None) as client:
        for thread, history in histories.items():
            assert _shape(await client.threads.get_history(thread, limit=100)) == _shape(history)
            theirs, ours = await source.threads.get(thread), await client.threads.get(thread)
            for field in ("status", "values", "interrupts", "created_at", "updated_at", "title"):
                assert ours.get(field) == theirs.get(field)
        assert (await client.assistants.get(polite["assistant_id"]))["context"] == {"tone": "polite"}
        assert (await client.store.get_item(("memories", "food"), "tea"))["value"] == {"likes": "tea"}
        [cron] = await client.crons.search()
        assert (cron["schedule"], cron["enabled"], cron["payload"]["input"]) == ("0 3 * * *", False, {"steps": []})

        assert await _say(client, ada, "And?") == "You are Ada."
        [second] = [state for state in histories[ada] if _last(state) == "You are Bob."]
        assert await _say(client, ada, "Who then?", checkpoint=second["checkpoint"]) == "You are Bob."
        shipped: Any = await client.runs.wait(order, "order", command={"resume": "Grace"})
        assert shipped["steps"] == ["ordered", "priced", "ordered", "priced", "approved by Grace", "shipped"]


def _last(state: Any) -> str:
    messages = state["values"].get("messages") or [{"content": ""}]
    return str(messages[-1]["content"])


async def test_a_run_goes_on_from_a_point_in_the_middle(
    there: tuple[str, LangGraphClient], adopt: Adopt, settings: Settings, database: str
) -> None:
    """Each value of the history is stored once."""
    url, source = there
    _, order = await _fill(source)
    history = await source.threads.get_history(order, limit=100)
    assert [state["next"] for state in history] == [["approval"], ["price"], ["__start__"]]

    await adopt(url, only=(order,))

    with psycopg.connect(database) as conn:
        rows = conn.execute("SELECT count(*) FROM checkpoint_blobs WHERE channel = 'steps' AND checkpoint_ns = ''")
        assert rows.fetchone() == (3,)
    async with serving(settings, served_graphs()) as here, get_client(url=here, api_key=None) as client:
        for state, steps in zip(history[1:], ((["ordered", "priced"]), (["ordered", "priced"])), strict=True):
            again: Any = await client.runs.wait(order, "order", input=None, checkpoint=state["checkpoint"])
            assert again["steps"] == steps
            assert again["__interrupt__"][0]["value"] == "Who approves?"


async def test_a_server_without_a_store_is_taken_over(module_settings: Settings, adopt: Adopt, tmp_path: Path) -> None:
    project = Project.model_construct(root=tmp_path, graphs={}, http=Http(disable_store=True))
    async with serving(module_settings, served_graphs(), project) as url:
        report = await adopt(url)

    assert [(kind, reason[:23]) for kind, reason in report.skipped] == [("store items", "the source answered 404")]


async def test_a_server_that_is_not_there_is_told_in_one_line(adopt: Adopt) -> None:
    with pytest.raises(StartupError, match="--from: the server can't be reached: ConnectError"):
        await adopt("http://127.0.0.1:1")


async def test_an_address_that_is_no_url_is_told_in_one_line(adopt: Adopt) -> None:
    """Ours: a port that is no number came with a traceback."""
    with pytest.raises(StartupError, match="--from: this is not a URL: Invalid port: 'port'"):
        await adopt("http://127.0.0.1:port")
