"""New project: writes a small project that runs offline, from one of the templates."""

import shutil
from pathlib import Path
from typing import Final

from threadkeep.base.problems import StartupError

TEMPLATES: Final = ("chat", "tools", "rag", "approval")
HIDDEN: Final = "dot."
"""The beginning of the name of a template's file whose name begins with a dot."""


def create_project(folder: Path, template: str) -> list[Path]:
    """Write a project into a new or empty folder, and return its files. Raise StartupError if the folder has files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StartupError(f"{folder} exists already: choose another name, or empty it")
    source = _templates() / template
    written: list[Path] = []
    # Python writes such folders if the tests of a template run in their own place.
    for path in sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        place = path.relative_to(source)
        target = folder / place.with_name(
            place.name.replace(HIDDEN, ".", 1) if place.name.startswith(HIDDEN) else place.name
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        # Without the rights of the installed file, which may be read-only.
        shutil.copyfile(path, target)
        written.append(target)
    return written


def _templates() -> Path:
    """The folder of the templates, in the wheel or in the checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "templates"
    return shipped if shipped.is_dir() else package.parents[1] / "templates"
