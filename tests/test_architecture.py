"""The house: which way the arrows go, and what no module does."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import threadkeep

PACKAGE = Path(threadkeep.__file__).parent
SHARED = {"problems", "settings", "wire", "logs", "ids", "flag"}
"""Used by all, using none of the others."""
LAYERS = {"db": 0, "engine": 1, "api": 2}
"""An import goes down, or stays."""
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
MAX_LINES = 350


def _imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("threadkeep"):
            below = node.module.removeprefix("threadkeep").strip(".")
            yield from ([below] if below else [alias.name for alias in node.names])


def _part(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("module", [module for module in MODULES if module.parts[0] in LAYERS], ids=str)
def test_arrows_go_from_api_to_engine_to_db(module: Path) -> None:
    """Ours: docs/design.md."""
    layer = LAYERS[module.parts[0]]
    above = {name for name in _imports(module) if LAYERS.get(_part(name), 0) > layer or _part(name) in {"app", "cli"}}

    assert above == set()


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_all_use_uses_none(name: str) -> None:
    """Ours: docs/design.md."""
    assert {_part(found) for found in _imports(Path(f"{name}.py"))} <= SHARED


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_module_can_be_read_in_one_sitting(module: Path) -> None:
    """Ours: a module above this holds two subjects. The table of routes is one, however long."""
    if module != Path("api/routes.py"):
        assert len((PACKAGE / module).read_text().splitlines()) <= MAX_LINES


def test_only_settings_read_the_environment() -> None:
    """Ours: `project` and the package itself write to it, `concurrency_report` hands it on to a server that it starts."""
    readers = {str(module) for module in MODULES if "os.environ" in (PACKAGE / module).read_text()}

    assert readers <= {"settings.py", "project.py", "__init__.py", "concurrency_report/serve.py"}
