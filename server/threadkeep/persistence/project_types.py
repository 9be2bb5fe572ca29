"""Project types: classes that checkpoints may contain without being listed, because the project's files define them.

A checkpoint names a type by module and name. Anybody with write access to the database can name anything. So a name is
looked up only in files of the project. Only classes that hold values are allowed, but no functions or imports.
"""

import ast
import dataclasses
import importlib
import importlib.util
import logging
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import reduce
from pathlib import Path
from typing import Any, Final, cast

from pydantic import BaseModel
from pydantic.networks import _BaseUrl  # pyright: ignore[reportPrivateUsage] - the base class of all URLs
from pydantic.v1 import BaseModel as BaseModelV1

from threadkeep.project import Project, split_target

log = logging.getLogger(__name__)

INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
"""Names of folders with installed code."""
STANDARD_LIBRARY: Final = Path(sysconfig.get_path("stdlib"))
"""Excluded too, because a virtual environment may be in the project's folder."""
PLAIN: Final[tuple[Any, ...]] = (
    *(str, bytes, bytearray, int, float, list, tuple, dict, set, frozenset, deque),
    *(Decimal, Fraction),
)
"""Classes that hold only their value. A project's subclass of one is a project type."""
OURS: Final = "threadkeep"


def is_value_class(kind: type[Any]) -> bool:
    """Whether objects of the class are created from their fields or from a plain value."""
    return (
        issubclass(kind, (BaseModel, BaseModelV1, _BaseUrl, Enum, *PLAIN))
        or dataclasses.is_dataclass(kind)
        or attrs_names(kind) is not None
    )


def attrs_names(kind: type[Any]) -> list[str] | None:
    """The field names of an attrs class. None for other classes. attrs itself need not be installed."""
    fields: Any = kind.__dict__.get("__attrs_attrs__")
    return None if fields is None else [field.name for field in fields]


class ProjectTypes:
    """The classes that are defined in the project's folders or in the packages of its graphs."""

    def __init__(self, folders: Iterable[Path] = (), packages: Iterable[str] = ()) -> None:
        # A module's `__file__` may contain a symbolic link or not.
        self._folders = frozenset(path for folder in folders for path in (folder.absolute(), folder.resolve()))
        self._packages = frozenset(packages)
        self._known: dict[tuple[str, str], type[Any] | None] = {}

    @classmethod
    def of(cls, project: Project) -> "ProjectTypes":
        """The types of a project: of its folder, its dependencies that are folders, and the modules of its graphs."""
        if project.builtin:
            return cls()
        places = [split_target(graph.path)[0] for graph in project.graphs.values()]
        files = [project.root / place for place in places if place.endswith(".py")]
        dependencies = [project.root / name for name in project.dependencies]
        folders = [
            project.root,
            *(folder for folder in dependencies if folder.is_dir()),
            *(file.parent for file in files),
        ]
        return cls(folders, {place.partition(".")[0] for place in places if not place.endswith(".py")})

    def find(self, module: str, name: str) -> type[Any] | None:
        """The class with this name. None if the project does not define it."""
        key = (module, name)
        if key not in self._known:
            if len(self._known) > 10_000:  # names come from rows, which may hold anything
                self._known.clear()
            self._known[key] = self._resolve(module, name)
        return self._known[key]

    def _resolve(self, module: str, name: str) -> type[Any] | None:
        loaded = sys.modules.get(module) or self._imported(module, name)
        if loaded is None or not self._is_own(module, getattr(loaded, "__file__", None)):
            return None
        try:
            kind: object = reduce(getattr, name.split("."), loaded)
        except AttributeError:
            return None
        # Otherwise a row could name a class of a library that a file of the project imports.
        if not isinstance(kind, type) or kind.__module__ != module or kind.__qualname__ != name:
            return None
        return kind if is_value_class(cast("type[Any]", kind)) else None

    def _is_own(self, module: str, file: str | None) -> bool:
        top = module.partition(".")[0]
        if top == OURS or file is None:
            return False
        if top in self._packages:
            return True
        path = Path(file)
        if path.is_relative_to(STANDARD_LIBRARY) or not INSTALLED.isdisjoint(path.parts):
            return False
        return any(path.is_relative_to(folder) for folder in self._folders)

    def _imported(self, module: str, name: str) -> Any:
        """Import the module of a class that a graph imports lazily. A file is executed only if it defines the class."""
        if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
            return None
        try:
            if not self._has_own_package(module):
                return None
            spec = importlib.util.find_spec(module)
            file = spec.origin if spec is not None else None
            if file is None or not self._is_own(module, file) or not _defines(Path(file), name.partition(".")[0]):
                return None
            return importlib.import_module(module)
        except Exception as failure:  # a module is the project's code
            log.warning("a module of the project can't be imported", extra={"module_name": module}, exc_info=failure)
            return None

    def _has_own_package(self, module: str) -> bool:
        """Whether the outermost package is the project's. Python imports it to look up a module inside it."""
        spec = importlib.util.find_spec(module.partition(".")[0])
        if spec is None:
            return False
        places = spec.submodule_search_locations or [spec.origin]
        return any(self._is_own(module, place) for place in places)


def _defines(file: Path, name: str) -> bool:
    # Bytes, because a file may declare its own encoding.
    tree = ast.parse(file.read_bytes())
    return any(isinstance(statement, ast.ClassDef) and statement.name == name for statement in tree.body)


NO_TYPES: Final = ProjectTypes()
