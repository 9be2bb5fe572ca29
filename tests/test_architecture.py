"""Architecture: which way imports go, for every folder, and what no module does."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import threadkeep

PACKAGE = Path(threadkeep.__file__).parent
LAYERS = (
    {"base"},
    {"settings", "project", "importing", "sdk_cache", "progress", "child_process"},
    {"postgres"},
    {"tables"},
    {"persistence"},
    {"auth", "graphs", "context_schema", "remote_graph"},
    {"runs"},
    {"threads"},
    {"duties"},
    {"api"},
    {"app", "agent", "offline_model"},
    {"serving", "preparing", "supervisor"},
    {"commands"},
    {"cli"},
)
"""From the lowest to the highest. A module imports from its own layer or a lower one."""
RANKS = {folder: rank for rank, layer in enumerate(LAYERS) for folder in layer}
ROOT_MODULES = {"__init__", "__main__"}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def _imports(module: Path) -> Iterator[str]:
    """Dotted names below `threadkeep` that the module imports."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "threadkeep":
            below = node.module.removeprefix("threadkeep").strip(".")
            yield from ([below] if below else [alias.name for alias in node.names if alias.name != "__version__"])


def _folder(name: str) -> str:
    return name.partition(".")[0]


def _folder_of(module: Path) -> str:
    return module.parts[0].removesuffix(".py")


def test_every_folder_has_a_layer() -> None:
    """A new folder is added to `LAYERS`, or this fails."""
    assert {_folder_of(module) for module in MODULES} - ROOT_MODULES <= RANKS.keys()


@pytest.mark.parametrize("module", [module for module in MODULES if _folder_of(module) not in ROOT_MODULES], ids=str)
def test_imports_go_down(module: Path) -> None:
    """docs/design.md, The house."""
    rank = RANKS[_folder_of(module)]

    assert {name for name in _imports(module) if RANKS[_folder(name)] > rank} == set()


def test_only_settings_read_the_environment() -> None:
    """`project` and the package itself write to it."""
    readers = {str(module) for module in MODULES if "os.environ" in (PACKAGE / module).read_text()}

    assert readers <= {"settings.py", "project.py", "__init__.py"}
