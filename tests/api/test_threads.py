"""Threads: make one, read it, its state and its history, delete it."""

import uuid

import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError


async def test_new_thread_is_idle_and_empty(client: LangGraphClient) -> None:
    """Protocol: a thread before its first run."""
    made = await client.threads.create(metadata={"topic": "weather"})

    thread = await client.threads.get(made["thread_id"])

    assert thread == made
    assert (thread["status"], thread["values"], thread["interrupts"]) == ("idle", None, {})
    assert thread["metadata"] == {"topic": "weather"}
    assert uuid.UUID(thread["thread_id"]).version == 7


async def test_id_that_is_taken_is_a_conflict_unless_the_client_does_not_mind(client: LangGraphClient) -> None:
    """Protocol: `if_exists`."""
    thread_id = str(uuid.uuid4())
    made = await client.threads.create(thread_id=thread_id, metadata={"n": 1})

    with pytest.raises(ConflictError):
        await client.threads.create(thread_id=thread_id)

    assert await client.threads.create(thread_id=thread_id, if_exists="do_nothing") == made


async def test_deleted_thread_is_gone_with_its_state(client: LangGraphClient) -> None:
    """Protocol: DELETE /threads/{id}."""
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "chain", input={"items": ["in"]})

    await client.threads.delete(thread["thread_id"])

    with pytest.raises(NotFoundError):
        await client.threads.get(thread["thread_id"])
    with pytest.raises(NotFoundError):
        await client.threads.get_state(thread["thread_id"])


async def test_state_and_history_tell_each_step(client: LangGraphClient) -> None:
    """Protocol: GET state, POST history: newest first, with exact parents."""
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "chain", input={"items": ["in"]})

    state = await client.threads.get_state(thread["thread_id"])
    history = await client.threads.get_history(thread["thread_id"], limit=10)

    assert state["values"] == {"items": ["in", "first", "second"]}
    assert (state["next"], state["tasks"], state["interrupts"]) == ([], [], [])
    assert [step["values"]["items"] for step in history] == [["in", "first", "second"], ["in", "first"], ["in"], []]
    assert history[0] == state
    parents = [step["parent_checkpoint"] for step in history]
    assert parents == [step["checkpoint"] for step in history[1:]] + [None]
