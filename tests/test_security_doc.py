"""SECURITY.md: each threat names the tests that show what stands against it, and each of those is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| (?!threat|---)(.+?) \| .+ \| (.*) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
THREATS = dict(ROW.findall((ROOT / "SECURITY.md").read_text()))


@pytest.mark.parametrize("threat", THREATS)
def test_every_threat_names_tests_that_there_are(threat: str) -> None:
    """Issue 15: a promise without a test is a hope, and a test that was renamed leaves it without."""
    named = TEST.findall(THREATS[threat])

    assert TEST.sub("", THREATS[threat]).strip(", ") == ""
    assert named
    assert [(path, name) for path, name in named if name not in _tests_of(ROOT / path)] == []


def test_every_package_is_installed_by_its_hash() -> None:
    """Ours: a package that was changed on its way is not installed."""
    pinned = re.compile(r"^[a-z0-9][\w.\[\],-]*==.*\\$")
    locks = sorted((ROOT / "requirements").glob("*.txt"))
    unhashed = [
        line
        for lock in locks
        for line in lock.read_text().splitlines()
        if line and not line.startswith((" ", "#", "-")) and not pinned.match(line)
    ]
    install = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if "pip install" in line]

    assert (bool(locks), unhashed) == (True, [])
    assert install
    assert all("--require-hashes" in line or "--no-deps" in line for line in install)


def _tests_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
