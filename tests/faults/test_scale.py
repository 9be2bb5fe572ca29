"""Several servers behind nginx and PgBouncer, and partitioned tables."""

import pytest

from faults import balancer, partitions, pooler
from faults.findings import Findings
from faults.servers import Place


def _judge(found: Findings) -> None:
    if found.skipped:
        pytest.skip(found.skipped)
    assert found.broken == []


async def test_three_servers_behind_nginx_act_as_one(place: Place) -> None:
    """Ours: round robin without stickiness, with the configuration of the documentation, and one server killed."""
    _judge(await balancer.scenario(place, seconds=2))


async def test_servers_behind_a_transaction_pooler(place: Place) -> None:
    """Ours: PgBouncer in transaction mode, with `DATABASE_DIRECT_URI`."""
    _judge(await pooler.scenario(place, seconds=2))


async def test_checkpoints_in_hash_partitions(place: Place) -> None:
    """Ours: the tables that grow can be spread by their thread."""
    _judge(await partitions.scenario(place, seconds=1))
