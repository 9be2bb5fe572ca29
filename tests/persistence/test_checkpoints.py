"""The checkpointer: the stock saver's tables, both ways, without its lock."""

import math
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row

from threadkeep.persistence.checkpointer import Checkpointer
from threadkeep.persistence.group_commit import WriteSet, open_group_commit
from threadkeep.persistence.serializer import Serializer
from threadkeep.postgres.pool import Pool, open_runs_pool
from threadkeep.settings import Settings


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with open_runs_pool(Settings(), database) as pool:
        yield pool


@pytest.fixture
async def ours(pool: Pool) -> AsyncIterator[Checkpointer]:
    async with open_group_commit(pool) as commits:
        yield Checkpointer(pool, commits)


@pytest.fixture
async def stock(database: str) -> AsyncIterator[AsyncPostgresSaver]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True, row_factory=dict_row) as conn:
        yield AsyncPostgresSaver(conn)


async def test_the_checkpointer_passes_langgraphs_conformance_tests(ours: Checkpointer) -> None:
    """LangGraph: langgraph-checkpoint-conformance."""

    @checkpointer_test(name="Checkpoints")
    async def saver() -> AsyncIterator[Checkpointer]:
        yield ours

    report = await validate(saver)

    assert report.passed_all_base(), report.to_dict()


def _checkpoint(values: dict[str, Any], version: str) -> tuple[Checkpoint, dict[str, str]]:
    checkpoint = empty_checkpoint()
    versions = dict.fromkeys(values, version)
    checkpoint["channel_values"] = values
    checkpoint["channel_versions"] = dict(versions)
    return checkpoint, versions


integers = st.integers(-(2**63), 2**63 - 1)
plain = st.none() | st.booleans() | integers | st.floats(allow_nan=False) | st.text() | st.binary(max_size=50)
values = st.dictionaries(
    st.sampled_from(["a", "b", "messages", "Ünï"]),
    st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)),
    max_size=4,
)


def _named_thread(config: RunnableConfig) -> dict[str, str]:
    return {"thread_id": config["configurable"]["thread_id"]}


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(values=values, writes=st.lists(st.tuples(st.sampled_from(["a", "b", "__error__"]), plain), max_size=3))
async def test_each_saver_reads_the_checkpoints_of_the_other(
    ours: Checkpointer, stock: AsyncPostgresSaver, values: dict[str, Any], writes: list[tuple[str, Any]]
) -> None:
    """Ours: a database can go to the stock saver and come back."""
    for writer, reader in ((ours, stock), (stock, ours), (ours, ours)):
        if writer is stock and any(isinstance(value, float) and abs(value) >= 1e16 for value in values.values()):
            continue  # jsonb gives them back as integers; ours keeps them apart
        config: RunnableConfig = {"configurable": {"thread_id": str(uuid.uuid4()), "checkpoint_ns": ""}}
        checkpoint, versions = _checkpoint(values, "1")
        try:
            saved = await writer.aput(config, checkpoint, {"source": "loop", "step": 1}, versions)
            await writer.aput_writes(saved, writes, "task")
        except (psycopg.errors.DataError, UnicodeEncodeError):
            assert writer is stock  # it can't save infinity, NUL or a surrogate in a primitive; ours can
            continue
        found = await reader.aget_tuple(saved)
        assert found is not None
        assert found.checkpoint == checkpoint
        assert found.metadata == {"source": "loop", "step": 1} | (_named_thread(config) if writer is ours else {})
        assert {write[1] for write in found.pending_writes or []} == {channel for channel, _ in writes}


@pytest.mark.parametrize("value", [math.inf, 2**70, "NUL \0 within", {"deep": {"set": {1, 2}}}, b"bytes"])
async def test_values_that_json_cannot_hold_are_restored_unchanged(ours: Checkpointer, value: object) -> None:
    """Ours: never half saved."""
    config: RunnableConfig = {"configurable": {"thread_id": str(uuid.uuid4()), "checkpoint_ns": ""}}
    checkpoint, versions = _checkpoint({"value": value}, "1")

    saved = await ours.aput(config, checkpoint, {}, versions)

    found = await ours.aget_tuple(saved)
    assert found is not None
    assert found.checkpoint["channel_values"] == {"value": value}


@dataclass
class Apple:
    """A type of a graph's state."""

    weight: int


@dataclass
class Pear:
    """A type of the state of its subgraph."""

    weight: int


async def test_a_subgraph_reads_the_types_of_its_parent_and_its_own(pool: Pool) -> None:
    """Ours: a serializer is kept for each allowlist, so that a run does not make it again."""
    apples, pears = [{(__name__, kind.__name__)} for kind in (Apple, Pear)]
    values = [Apple(1), Pear(2)]
    async with open_group_commit(pool) as commits:
        saver = Checkpointer(pool, commits, Serializer(allowed_msgpack_modules=None))
        written = [saver.serde.dumps_typed(value) for value in values]
        alone = saver.with_allowlist(pears)
        nested = saver.with_allowlist(apples).with_allowlist(pears)

        assert [alone.serde.loads_typed(value) for value in written] == [{"weight": 1}, Pear(2)]
        assert [nested.serde.loads_typed(value) for value in written] == values
        assert saver.with_allowlist(pears).serde is alone.serde


async def test_a_failed_write_does_not_fail_others(pool: Pool) -> None:
    """Ours: a bad row never takes its batch along."""
    good = ("thread", "", "channel", "1", "msgpack", b"1")
    bad = ("thread\0", "", "channel", "1", "msgpack", b"1")
    failed: list[str] = []

    async def write(row: Any) -> None:
        try:
            await commits.write(WriteSet(blobs=[row]))
        except psycopg.DataError:
            failed.append(row[0])

    async with open_group_commit(pool) as commits, anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(write, (f"{good[0]}{number}", *good[1:]))
        tasks.start_soon(write, bad)

    assert failed == ["thread\0"]
    async with pool.connection() as conn:
        row = await (await conn.execute("SELECT count(*) AS n FROM checkpoint_blobs")).fetchone()
    assert row == {"n": 20}
