"""The spec against the server: requests generated from the spec get responses that conform to it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from conftest import TEMPLATE, WAIT_S
from threadkeep.api.ops import openapi
from threadkeep.api.routes import TABLE
from threadkeep.auth.api_keys import PREFIX

ENDLESS = {"/threads/{thread_id}/stream", "/events"}
"""They go on until the client leaves: no answer of them can be looked at as a whole."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
INPUT = {"items": []}


def _with_event_schemas(document: dict[str, Any]) -> dict[str, Any]:
    """The document with each stream described by the schema of its events, as schemathesis reads OpenAPI 3.1."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                stream = response.get("content", {}).get("text/event-stream")
                if stream is not None:
                    stream["schema"] = stream.pop("x-event-schema")
    return document


spec = schemathesis.openapi.from_dict(
    _with_event_schemas(openapi.document(line for line in TABLE if line.path not in ENDLESS))
)
spec.config.phases.update(phases=["fuzzing"])
bounded = settings(
    max_examples=8, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


GRAPHS = Path(__file__).parents[1] / "graphs.py"
PROJECT = {"graphs": {name: f"./project.py:{name}" for name in ("chain", "parent", "speaking")}}
START_S = 30.0


@pytest.fixture(scope="module")
def http(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server of two graphs, in a process of its own: Hypothesis wants all of the randomness in this one."""
    folder = tmp_path_factory.mktemp("schemathesis")
    (folder / "langgraph.json").write_text(json.dumps(PROJECT))
    (folder / "project.py").write_text(
        "from graphs import GRAPHS\n\nchain, parent, speaking = (GRAPHS[name] for name in ('chain', 'parent', 'speaking'))\n"
    )
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS schemathesis WITH (FORCE)")
        conn.execute(f"CREATE DATABASE schemathesis TEMPLATE {TEMPLATE}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "AUTH_TYPE": "api_key",
        "DATABASE_URI": psycopg.conninfo.make_conninfo(postgres, dbname="schemathesis"),
        "PYTHONPATH": str(GRAPHS.parent),
        "PORT": str(port),
        "LOG_LEVEL": "warning",
    }
    process = subprocess.Popen([sys.executable, "-m", "threadkeep", "serve"], cwd=folder, env=environment)
    try:
        headers = {"x-api-key": _new_key(folder, environment)}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S, headers=headers) as http:
            _wait_until_ready(process, http)
            yield http
    finally:
        process.kill()
        process.wait()


def _new_key(folder: Path, environment: dict[str, str]) -> str:
    """A key that may do everything, as an operator makes it."""
    command = [sys.executable, "-m", "threadkeep", "keys", "create", "--identity", "ada"]
    made = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return next(word for word in made.stdout.split() if word.startswith(PREFIX))


def _wait_until_ready(process: subprocess.Popen[bytes], http: httpx.Client) -> None:
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        with suppress(httpx.TransportError):
            if http.get("/readyz").is_success:
                return
        time.sleep(0.05)  # noqa: TID251 - there is no event loop here
    raise AssertionError("the server did not start")


@spec.parametrize()
@bounded
def test_answers_conform_to_the_spec(case: Case, http: httpx.Client) -> None:
    """Ours: whatever is sent, an answer has a status and a shape that the spec names, and none is a 500."""
    case.call_and_validate(base_url=str(http.base_url), headers=dict(http.headers), checks=CHECKS, timeout=WAIT_S)


@spec.parametrize()
@bounded
def test_answers_for_existing_rows_conform_to_the_spec(case: Case, http: httpx.Client) -> None:
    """Ours: the same where threads, runs, crons and assistants are found, and runs do run."""
    _name_what_there_is(case, http)
    case.call_and_validate(base_url=str(http.base_url), headers=dict(http.headers), checks=CHECKS, timeout=WAIT_S)


def _name_what_there_is(case: Case, http: httpx.Client) -> None:
    """Replace some generated values by the ids of existing rows and by valid inputs."""
    for name in sorted(case.path_parameters, key=lambda name: name not in {"thread_id", "conversation_id"}):
        case.path_parameters[name] = _made(name, case, http)
    bodies = case.body if isinstance(case.body, list) else [case.body]
    for body in bodies:
        if isinstance(body, dict):
            body |= {name: value for name, value in FITTING.items() if name in body}
            body.pop("webhook", None)  # nobody is to be called


FITTING = {
    "model": "speaking",
    "stream": False,
    "assistant_id": "chain",
    "graph_id": "chain",
    "input": INPUT,
    "schedule": "0 0 1 1 *",
    "after_seconds": 0,
}


def _made(name: str, case: Case, http: httpx.Client) -> str:
    """The id of something new; of a run or a checkpoint on the thread that `case` names already."""
    on_thread = f"/threads/{case.path_parameters.get('thread_id')}"
    run = {"assistant_id": "chain", "input": INPUT}
    response = {"model": "speaking", "input": "hello"}
    conversation = {"items": [{"role": "user", "content": "hello"}]}
    items = f"/v1/conversations/{case.path_parameters.get('conversation_id')}"
    if name == "thread_id":
        thread_id: str = http.post("/threads", json={"metadata": {"graph_id": "chain"}}).json()["thread_id"]
        http.post(f"/threads/{thread_id}/runs/wait", json=run).raise_for_status()
        return thread_id
    made: dict[str, Callable[[], Any]] = {
        "run_id": lambda: http.post(f"{on_thread}/runs", json=run).json()["run_id"],
        "checkpoint_id": lambda: http.get(f"{on_thread}/state").json()["checkpoint_id"],
        "cron_id": lambda: http.post("/runs/crons", json=run | {"schedule": "0 0 1 1 *"}).json()["cron_id"],
        "assistant_id": lambda: http.post("/assistants", json={"graph_id": "parent"}).json()["assistant_id"],
        "namespace": lambda: "child",
        "model": lambda: "speaking",
        "response_id": lambda: http.post("/v1/responses", json=response).json()["id"],
        "conversation_id": lambda: http.post("/v1/conversations", json=conversation).json()["id"],
        "item_id": lambda: http.get(f"{items}/items").json()["data"][0]["id"],
    }
    return made[name]()
