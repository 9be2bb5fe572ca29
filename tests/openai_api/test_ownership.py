"""Two keys: what is another's is not there, by any way of naming it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai as sdk
import psycopg
import pytest
from openai import AsyncOpenAI

from conftest import serving
from openai_graphs import OPENAI_GRAPHS
from threadkeep.auth.api_keys import generate_key
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings
from threadkeep.tables import api_keys

LIMIT = 1000


@pytest.fixture(scope="module")
async def url(module_settings: Settings) -> AsyncIterator[str]:
    """A server that asks for keys."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in OPENAI_GRAPHS.items()}
    changes = {"auth_type": "api_key", "max_requests_per_principal": LIMIT}
    async with serving(module_settings.model_copy(update=changes), loaded) as url:
        yield url


async def _client(settings: Settings, url: str, identity: str) -> AsyncOpenAI:
    secret, row = generate_key(identity, "test", (), None)
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
        await api_keys.create(conn, row)
    return AsyncOpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0)


@pytest.fixture(scope="module")
async def ada(module_settings: Settings, url: str) -> AsyncIterator[AsyncOpenAI]:
    async with await _client(module_settings, url, "ada") as client:
        yield client


@pytest.fixture(scope="module")
async def bob(module_settings: Settings, url: str) -> AsyncIterator[AsyncOpenAI]:
    async with await _client(module_settings, url, "bob") as client:
        yield client


async def test_a_key_that_is_none_is_refused_in_the_format_of_the_api(url: str) -> None:
    """Contract, Errors: 401."""
    async with httpx.AsyncClient(base_url=url) as http:
        answer = await http.get("/v1/models", headers={"authorization": "Bearer none"})

    assert answer.status_code == 401
    assert answer.json()["error"] | {"message": ""} == {
        "message": "",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


async def test_another_users_things_are_not_there(ada: AsyncOpenAI, bob: AsyncOpenAI) -> None:
    """Contract, Errors: 404, and 400 for a previous response and a reference."""
    made: Any = await ada.responses.create(model="echo", input="hers")
    conversation = await ada.conversations.create(items=[{"role": "user", "content": "hers"}])
    thread_id = made.langgraph["thread_id"]
    for refused in (
        bob.responses.retrieve(made.id),
        bob.responses.cancel(made.id),
        bob.responses.delete(made.id),
        bob.responses.input_items.list(made.id),
        bob.conversations.retrieve(conversation.id),
        bob.conversations.delete(conversation.id),
        bob.conversations.items.list(conversation.id),
        bob.responses.create(model="echo", input="x", conversation=conversation.id),
        bob.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "x"}], metadata={"thread_id": thread_id}
        ),
    ):
        with pytest.raises(sdk.NotFoundError):
            await refused
    reference: Any = [{"type": "item_reference", "id": made.output[0].id}]
    for asked in ({"input": "x", "previous_response_id": made.id}, {"input": reference}):
        with pytest.raises(sdk.BadRequestError):
            await bob.responses.create(model="echo", **asked)

    assert (await ada.responses.retrieve(made.id)).status == "completed"


async def test_a_name_of_a_thread_is_the_callers_own(ada: AsyncOpenAI, bob: AsyncOpenAI) -> None:
    """Contract, Which thread: derived from caller and name."""
    threads: list[str] = []
    for client in (ada, bob):
        answer: Any = await client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "x"}], metadata={"thread_id": "notes"}
        )
        threads.append(answer.langgraph["thread_id"])
        assert answer.choices[0].message.content == "You said: x"

    assert threads[0] != threads[1]


async def test_answers_say_how_many_requests_are_left(ada: AsyncOpenAI) -> None:
    """Contract, Errors: `x-ratelimit-*` of our quotas."""
    first = await ada.models.with_raw_response.list()

    assert first.headers["x-ratelimit-limit-requests"] == str(LIMIT)
    assert 0 < int(first.headers["x-ratelimit-remaining-requests"]) < LIMIT
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")


async def test_too_many_requests_are_told_when_to_come_again(module_settings: Settings, tmp_path: Path) -> None:
    """Contract, Errors: 429."""
    loaded = {"echo": as_loaded_graph("echo", OPENAI_GRAPHS["echo"], where="tests")}
    changes = {"auth_type": "api_key", "max_requests_per_principal": 1}
    async with (
        serving(module_settings.model_copy(update=changes), loaded) as url,
        await _client(module_settings, url, "carl") as carl,
    ):
        await carl.models.list()
        with pytest.raises(sdk.RateLimitError) as refused:
            await carl.models.list()

    answer = refused.value.response
    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-should-retry" not in answer.headers
