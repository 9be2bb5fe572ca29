"""The arithmetic of docs/capacity.md."""

from pathlib import Path

import pytest

from bench.capacity import PAGE, Cost, costs
from threadkeep.settings import Settings

CAPACITY = (Path(__file__).parents[2] / "docs" / "capacity.md").read_text()


def test_figures_come_from_the_page_of_benchmarks() -> None:
    """Issue: measured and computed are kept apart. Each kind of run has its figures there."""
    found = costs(PAGE.read_text())

    assert set(found) == {"new thread", "same thread", "stateless"}
    assert all(0 < cost.server_ms < 50 for cost in found.values())


@pytest.mark.parametrize(("server_cores", "runs"), [(8, 1120), (20, 2800), (40, 2800)])
def test_the_scarcer_cores_limit_the_runs(server_cores: float, runs: float) -> None:
    """docs/capacity.md: its example, and that Postgres is the limit from 20 cores on."""
    rate = Cost(server_ms=3, postgres_ms=1).runs_a_second(server_cores, postgres_cores=4, graph_ms=2)

    assert rate == pytest.approx(runs)
    assert "1,120 runs a second" in CAPACITY


def test_connections_of_a_process_are_those_of_the_settings() -> None:
    """docs/capacity.md: 16."""
    assert Settings().max_connections == 16
    assert "up to 16 (`THREADKEEP_API_CONNECTIONS`" in CAPACITY
