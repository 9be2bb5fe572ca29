"""The spec against the server: what a machine makes up from the one, the other answers as the one says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import httpx
import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from conftest import TEMPLATE, WAIT_S, serving
from threadkeep.api import openapi
from threadkeep.api.routes import TABLE
from threadkeep.settings import Settings

ENDLESS = "/threads/{thread_id}/stream"
"""It follows a thread until the client leaves: no answer of it can be looked at as a whole."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
RUNS = ("/runs", "/runs/wait", "/runs/stream", "/runs/batch", "/runs/crons")

spec = schemathesis.openapi.from_dict(
    openapi.document(operation for operation in TABLE if operation.path != ENDLESS)
)

bounded = settings(
    max_examples=60, derandomize=False, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def base_url(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the test graphs in a thread: schemathesis waits for its answers in this one."""
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS schemathesis WITH (FORCE)")
        conn.execute(f"CREATE DATABASE schemathesis TEMPLATE {TEMPLATE}")
    database = psycopg.conninfo.make_conninfo(postgres, dbname="schemathesis")
    chosen = Settings(database_uri=database, data_dir=Path(tmp_path_factory.mktemp("data")), port=0)
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(chosen)) as url,
    ):
        yield url


@spec.parametrize()
@bounded
def test_answers_are_those_of_the_spec(case: Case, base_url: str) -> None:
    """Ours: whatever is sent, an answer has a status and a shape that the spec names, and none is a 500."""
    case.call_and_validate(base_url=base_url, checks=CHECKS, timeout=WAIT_S)
