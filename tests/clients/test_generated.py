"""Clients that are generated from /openapi.json: each generator takes all of it, and its client makes a run."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

from clients.node import FOLDER, needs_node

GENERATORS = FOLDER.parents[1] / ".venv-generators" / "bin"
needs_generators = pytest.mark.skipif(
    not (GENERATORS / "datamodel-codegen").exists(), reason="the generators are missing: make generators"
)
needs_typescript = pytest.mark.skipif(
    not (FOLDER / "node_modules" / "openapi-typescript").exists(), reason="openapi-typescript is missing: make clients"
)
CHAIN = ["first", "second"]


async def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a command printed; its errors are the test's."""
    said = {"PATH": f"{GENERATORS}:{os.environ['PATH']}", "PYTHONWARNINGS": "ignore", **environment}
    with anyio.fail_after(120):
        done = await anyio.run_process([str(part) for part in command], check=False, cwd=str(cwd), env=said)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture
async def spec(http: httpx.AsyncClient, tmp_path: Path) -> Path:
    """The description that the server gives of itself."""
    file = tmp_path / "openapi.json"
    file.write_bytes((await http.get("/openapi.json")).content)
    return file


def operation_ids(spec: Path) -> set[str]:
    paths = json.loads(spec.read_bytes())["paths"]
    return {entry["operationId"] for path in paths.values() for entry in path.values()}


def schema_names(spec: Path) -> list[str]:
    return list(json.loads(spec.read_bytes())["components"]["schemas"])


def events(text: str) -> list[str]:
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


@needs_generators
async def test_openapi_python_client(url: str, spec: Path) -> None:
    """Issue: no endpoint is dropped, and streams can be read."""
    output = spec.parent / "threadkeep_client"
    said = await run(
        GENERATORS / "openapi-python-client", "generate", "--path", spec, "--meta", "none", "--output-path", output,
        cwd=spec.parent,
    )  # fmt: skip
    functions = {path.stem for path in (output / "api").glob("*/*.py")} - {"__init__"}
    told: dict[str, Any] = json.loads(
        await run(
            GENERATORS / "python", FOLDER / "generated_python.py", url, cwd=spec.parent, PYTHONPATH=str(spec.parent)
        )
    )

    assert "WARNING" not in said
    assert functions == operation_ids(spec)
    assert told["waited"]["items"] == CHAIN
    assert events(told["streamed"])[:2] == ["metadata", "values"]
    assert (told["status"], told["found"], told["refused"]) == ("success", [True], [422, "invalid"])


@needs_generators
async def test_datamodel_codegen(url: str, spec: Path) -> None:
    """Issue: every schema is a model, and the server's answers fit them."""
    output = spec.parent / "threadkeep_models.py"
    await run(
        GENERATORS / "datamodel-codegen", "--input", spec, "--input-file-type", "openapi", "--output", output,
        "--output-model-type", "pydantic_v2.BaseModel", cwd=spec.parent,
    )  # fmt: skip
    written = output.read_text()
    missing = [name for name in schema_names(spec) if f"class {name}(" not in written]
    told = json.loads(
        await run(
            GENERATORS / "python", FOLDER / "generated_models.py", url, cwd=spec.parent, PYTHONPATH=str(spec.parent)
        )
    )

    assert missing == []
    assert (told["waited"]["items"][:2], told["status"], told["refused"]) == (CHAIN, "success", "invalid")


@needs_node
@needs_typescript
async def test_openapi_typescript(url: str, spec: Path) -> None:
    """Issue: the types compile, strictly, with a program that uses them."""
    programs, folder = FOLDER / "node_modules" / ".bin", spec.parent
    await run(programs / "openapi-typescript", spec, "--output", folder / "threadkeep.d.ts", cwd=folder)
    await anyio.to_thread.run_sync(shutil.copy, FOLDER / "generated_types.ts", folder)
    (folder / "package.json").write_text('{"type": "module"}')
    await run(
        programs / "tsc", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom",
        "generated_types.ts", cwd=folder,
    )  # fmt: skip
    told = json.loads(await run("node", "generated_types.js", url, cwd=folder))

    assert (told["status"], told["refused"]) == ("success", "invalid")
    assert events(told["streamed"])[:2] == ["metadata", "values"]
