"""Conformance: the official suite of MCP against graphs that have the names of its tools (`make conformance`).

The suite is installed in a folder of its own. A scenario of `HOLDS` that fails is a fault.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import anyio
import psycopg
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import MessagesState
from langgraph.types import interrupt
from typing_extensions import TypedDict

from clients.node import NODE
from conftest import free_port, serving
from mcp_graphs import chain
from threadkeep.graphs import as_loaded_graph
from threadkeep.postgres import embedded, migrate
from threadkeep.settings import Settings

SUITE: Final = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
MODERN: Final = "2026-07-28"
HANDSHAKE: Final = "2025-11-25"
TASK_AFTER_S: Final = 0.1
HOLDS: Final[tuple[tuple[str, str | None], ...]] = (
    *(
        (name, HANDSHAKE)
        for name in (
            "server-initialize",
            "ping",
            "tools-list",
            "tools-call-simple-text",
            "tools-call-image",
            "tools-call-audio",
            "tools-call-error",
            "tools-call-with-progress",
            "dns-rebinding-protection",
        )
    ),
    *(
        (name, MODERN)
        for name in (
            "tools-list",
            "tools-call-simple-text",
            "tools-call-image",
            "tools-call-audio",
            "tools-call-error",
            "tools-call-with-progress",
            "dns-rebinding-protection",
            "http-header-validation",
            "server-sse-multiple-streams",
            "input-required-result-request-state",
            "input-required-result-multi-round",
            "input-required-result-missing-input-response",
            "input-required-result-result-type",
            "input-required-result-unsupported-methods",
            "input-required-result-tampered-state",
            "input-required-result-ignore-extra-params",
            "input-required-result-validate-input",
        )
    ),
    *(
        (name, None)
        for name in (
            "tasks-capability-negotiation",
            "tasks-wire-fields",
            "tasks-request-state-removal",
            "tasks-mrtr-input",
            "tasks-request-headers",
            "tasks-dispatch-and-envelope",
            "tasks-status-notifications",
            "tasks-mrtr-composition",
        )
    ),
)
"""Scenario and revision."""


class Nothing(TypedDict, total=False):
    """What most tools of the suite take."""


class Called(TypedDict, total=False):
    """What the others take."""

    name: str
    filename: str
    label: str
    seconds: float


class Said(TypedDict, total=False):
    """What a tool gives."""

    text: str


class State(Called, Said):
    """The state of a tool."""


def tool(node: Any, takes: Any = Nothing) -> Any:
    """A graph of one node."""
    return chain(State, node, input_schema=takes, output_schema=Said)


def shown(*blocks: dict[str, Any]) -> Any:
    """A graph that answers with these blocks."""

    async def show(state: State) -> Any:
        return {"messages": [AIMessage(content=list(blocks))]}

    return chain(MessagesState, show, input_schema=Nothing)


def asking(pause_s: float = 0, **fields: str) -> Any:
    """A graph that asks for fields, one after the other."""

    async def ask(state: State) -> Any:
        await anyio.sleep(pause_s)
        return {"text": " ".join(str(interrupt(_question(name, kind))) for name, kind in fields.items())}

    return tool(ask, Called)


def _question(name: str, kind: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return {"message": f"{name}?", "requestedSchema": schema}


async def say(state: State) -> Any:
    return {"text": "This is a simple text response for testing."}


class Greeted(MessagesState, Called):
    """The state of `greet`, which answers with a message."""


async def greet(state: Greeted) -> Any:
    return {"messages": [AIMessage(f"Hello, {state['name']}!")]}


async def fail(state: State) -> Any:
    await anyio.sleep(TASK_AFTER_S * 3)
    raise ValueError("This tool intentionally returns an error for testing")


async def tell(state: State) -> Any:
    for progress in (0, 50, 100):
        get_stream_writer()({"progress": progress, "total": 100})
    return {"text": "done"}


async def compute(state: State) -> Any:
    await anyio.sleep(state.get("seconds", 0))
    return {"text": "computed"}


async def ask_one(state: State) -> Any:
    await anyio.sleep(TASK_AFTER_S * 3)
    return {"text": str(interrupt(_question("name", "string")))}


async def ask_and_work(state: State) -> Any:
    name = interrupt(_question("name", "string"))
    await anyio.sleep(TASK_AFTER_S * 3)
    return {"text": str(name)}


async def ask_other(state: State) -> Any:
    interrupt(_question("confirm", "boolean"))


def both() -> Any:
    """Two questions at once."""
    graph = chain(State, ask_one, input_schema=Nothing, output_schema=Said)
    return graph.add_node("ask_other", ask_other).add_edge("__start__", "ask_other")


IMAGE: Final = {"type": "image", "base64": "aW1hZ2U=", "mime_type": "image/png"}
AUDIO: Final = {"type": "audio", "base64": "YXVkaW8=", "mime_type": "audio/wav"}
TOOLS: Final[dict[str, Any]] = {
    "test_simple_text": tool(say),
    "test_image_content": shown(IMAGE),
    "test_audio_content": shown(AUDIO),
    "test_error_handling": tool(fail),
    "test_tool_with_progress": tool(tell),
    "test_input_required_result_elicitation": asking(name="string"),
    "test_input_required_result_request_state": asking(ok="boolean"),
    "test_input_required_result_multi_round": asking(name="string", color="string"),
    "test_input_required_result_tampered_state": asking(ok="boolean"),
    "greet": chain(Greeted, greet, input_schema=Called),
    "slow_compute": tool(compute, Called),
    "failing_job": tool(fail),
    "confirm_delete": asking(TASK_AFTER_S * 3, confirm="boolean"),
    "multi_input": both(),
    "test_tool_with_task": tool(ask_and_work),
}


async def main() -> int:
    """Run the scenarios that hold, and print those that do not. The number of these is the exit code."""
    loaded = {name: as_loaded_graph(name, graph, where="conformance") for name, graph in TOOLS.items()}
    with tempfile.TemporaryDirectory() as folder, embedded.embedded_postgres(Path(folder), durable=False) as uri:
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute("CREATE DATABASE conformance")
        database = psycopg.conninfo.make_conninfo(uri, dbname="conformance")
        await migrate.migrate(database)
        suite = await anyio.to_thread.run_sync(_install, Path(folder) / "npm")
        settings = Settings(database_uri=database, host="127.0.0.1", port=free_port(), mcp_task_after_s=TASK_AFTER_S)
        async with serving(settings, loaded) as url:
            failed = 0
            for scenario, version in HOLDS:
                command = [str(NODE), suite, "server", "--url", f"{url}/mcp", "--scenario", scenario]
                done = await anyio.run_process(
                    [*command, *(["--spec-version", version] if version else [])], check=False
                )
                failed += done.returncode != 0
                print("held  " if done.returncode == 0 else "FAILED", scenario, version or "")  # noqa: T201
                if done.returncode != 0:
                    print((done.stdout + done.stderr).decode()[-3000:])  # noqa: T201
    return failed


def _install(folder: Path) -> str:
    """The suite, in a folder."""
    folder.mkdir()
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), SUITE]
    subprocess.run(command, check=True, capture_output=True)
    return str(folder / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js")


if __name__ == "__main__":
    sys.exit(anyio.run(main))
