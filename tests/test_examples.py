"""The projects in examples/, served as they stand, and called as their pages say: by the official clients, offline."""

import json
import re
import runpy
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError
from openai import OpenAI

from conftest import WAIT_S, serving
from threadkeep import graphs, project
from threadkeep.duties.store_items import store_index_config
from threadkeep.graphs import LoadedGraph
from threadkeep.postgres import migrate
from threadkeep.project import Project
from threadkeep.settings import Settings

EXAMPLES = Path(__file__).parents[1] / "examples"


@asynccontextmanager
async def served(settings: Settings, name: str) -> AsyncIterator[str]:
    """A server of an example, as its langgraph.json says. Its URL."""
    loaded_project, loaded, index = await anyio.to_thread.run_sync(_load, name)
    if index:
        await migrate.migrate(str(settings.database_uri), index=index)
    async with serving(settings, loaded, loaded_project) as url:
        yield url


def _load(name: str) -> tuple[Project, Mapping[str, LoadedGraph], Any]:
    loaded_project = project.load_project(EXAMPLES / name / "langgraph.json")
    return loaded_project, graphs.load_graphs(loaded_project), store_index_config(loaded_project)


async def script(name: str) -> Callable[..., Any]:
    """A function of an example's script, such as `cron-digest/schedule.py:make_cron`."""
    file, _, function = name.partition(":")
    return (await anyio.to_thread.run_sync(runpy.run_path, str(EXAMPLES / file)))[function]


def human(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


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


async def test_facts_are_remembered_in_other_conversations_and_of_their_user_alone(settings: Settings) -> None:
    async def ask(client: LangGraphClient, user: str, text: str) -> str:
        state: Any = await client.runs.wait(None, "agent", input=human(text), context={"user": user})
        return state["messages"][-1]["content"]

    async with served(settings, "tools-and-memory") as url, get_client(url=url, api_key=None) as client:
        kept = await ask(client, "ada", "Remember that I take the train.")
        told = await ask(client, "ada", "What do you remember? And what time is it in UTC?")
        other = await ask(client, "ben", "What do you remember?")

    assert kept == "I will remember: I take the train."
    assert re.fullmatch(r"I take the train\n\d\d:\d\d", told)
    assert other == "I know nothing about you yet."


async def test_handbook_is_searched_by_vectors_and_its_passages_are_named(settings: Settings) -> None:
    async with served(settings, "rag-pgvector") as url, get_client(url=url, api_key=None) as client:
        with get_sync_client(url=url, api_key=None) as sync_client:
            stored = await anyio.to_thread.run_sync(await script("rag-pgvector/ingest.py:ingest"), sync_client)
        trains: Any = await client.runs.wait(None, "handbook", input=human("Is travel by train reimbursed?"))
        nothing: Any = await client.runs.wait(None, "handbook", input=human("Where is the canteen?"))

    assert stored == 6
    assert trains["messages"][-1]["content"].startswith("Travel by train is reimbursed in full.")
    assert trains["passages"][0]["source"] == "expenses.md"
    assert nothing["messages"][-1]["content"] == "The handbook does not say."


@pytest.mark.parametrize(
    ("decision", "outcome"),
    [
        ({"type": "approve"}, "paid 80.00 euros"),
        (
            {"type": "edit", "edited_action": {"name": "refund", "args": {"order": "A-1", "amount": 60}}},
            "paid 60.00 euros",
        ),
        ({"type": "reject", "message": "not ours"}, "refused: not ours"),
        ({"type": "edit", "edited_action": {"name": "refund", "args": {"amount": "all"}}}, "refused"),
    ],
)
async def test_large_refund_waits_for_a_person_and_a_small_one_does_not(
    module_settings: Settings, decision: Any, outcome: str
) -> None:
    async with served(module_settings, "approval") as url, get_client(url=url, api_key=None) as client:
        thread_id = (await client.threads.create())["thread_id"]
        small: Any = await client.runs.wait(None, "refund", input={"order": "A-1", "amount": 20})
        asked: Any = await client.runs.wait(thread_id, "refund", input={"order": "A-1", "amount": 80})
        decisions = {"resume": {"decisions": [decision]}}
        decided: Any = await client.runs.wait(thread_id, "refund", command=decisions)

    assert small["outcome"] == "paid 20.00 euros"
    assert asked["__interrupt__"][0]["value"]["action_requests"][0]["args"] == {"order": "A-1", "amount": 80}
    assert decided["outcome"] == outcome


async def test_tenant_shares_with_colleagues_and_with_nobody_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_SECRET", "a secret that has more than 32 bytes")
    make_token = await script("multi-tenant/make_token.py:make_token")

    def client_of(url: str, *of: str) -> LangGraphClient:
        return get_client(url=url, api_key=None, headers={"authorization": f"Bearer {make_token(*of)}"})

    async with (
        served(settings, "multi-tenant") as url,
        client_of(url, "acme", "ada") as ada,
        client_of(url, "acme", "ben") as ben,
        client_of(url, "globex", "cyd") as cyd,
    ):
        thread_id = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(thread_id, "notes", input={"text": "call the bank"})
        noted: Any = await ben.runs.wait(thread_id, "notes", input={"text": "done"})
        await ada.store.put_item(["contacts"], key="bank", value={"phone": "1"})
        with pytest.raises(NotFoundError):
            await cyd.threads.get_state(thread_id)
        found = [len((await each.store.search_items(["contacts"]))["items"]) for each in (ben, cyd)]
        threads = [len(await each.threads.search()) for each in (ben, cyd)]

    assert noted["notes"] == ["acme/ada: call the bank", "acme/ben: done"]
    assert (found, threads) == ([1, 0], [1, 0])


async def test_cron_tells_a_webhook_its_digest(settings: Settings) -> None:
    digests: list[str] = []
    came = threading.Event()

    def on_digest(text: str) -> None:
        digests.append(text)
        came.set()

    receiver = (await script("cron-digest/receiver.py:receiver"))(0, on_digest)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    webhook = f"http://127.0.0.1:{receiver.server_port}/digest"
    async with served(settings, "cron-digest") as url, get_client(url=url, api_key=None) as client:
        for number, headline in enumerate(("A new line opens", "Tickets get cheaper")):
            await client.store.put_item(["news", "trains"], key=str(number), value={"headline": headline})
        make_cron = await script("cron-digest/schedule.py:make_cron")
        with get_sync_client(url=url, api_key=None) as sync_client:
            await anyio.to_thread.run_sync(make_cron, sync_client, "* * * * * *", webhook)
        assert await anyio.to_thread.run_sync(came.wait, WAIT_S)
        left = (await client.store.search_items(["news"]))["items"]
    receiver.shutdown()
    receiver.server_close()

    assert digests[0] == "2 news about trains\n- A new line opens\n- Tickets get cheaper"
    assert left == []


async def test_openai_client_has_two_turns_on_one_thread(settings: Settings) -> None:
    ask: Callable[..., Iterator[str]] = await script("openai-client/ask.py:ask")

    def turns(url: str) -> list[list[str]]:
        with OpenAI(base_url=f"{url}/v1", api_key="any") as client:
            return [list(ask(client, "my first chat", text)) for text in ("My name is Ada.", "What is my name?")]

    async with served(settings, "openai-client") as url:
        first, second = await anyio.to_thread.run_sync(turns, url)

    assert "".join(first) == "Hello, Ada. I keep your name in this thread."
    assert "".join(second) == "Your name is Ada."
    assert len(second) > 1


def test_each_example_has_a_page_that_tells_how_it_is_run() -> None:
    """Ours: a folder without a page, or one that the list leaves out, is of no use to a reader."""
    listed = re.findall(r"^\| \[`([a-z-]+)`\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    folders = sorted(path.parent.name for path in EXAMPLES.glob("*/langgraph.json"))

    assert sorted(listed) == folders
    for folder in folders:
        page = (EXAMPLES / folder / "README.md").read_text()
        names = json.loads((EXAMPLES / folder / "langgraph.json").read_text())["graphs"]
        assert "threadkeep serve" in page
        assert all(name in page for name in names)
