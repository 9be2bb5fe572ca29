"""Import of a target of langgraph.json, `./file.py:name` or `package.module:name`.

A file in a package is imported as part of it, as `python -m` does, so that its relative imports work. The name of a
module depends only on its place in the project, and on the name of the project's folder only if that is the package.
Checkpoints name types by module, so a name must be the same after a restart and on every replica.
"""

import ast
import difflib
import hashlib
import importlib
import importlib.util
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final, cast

from threadkeep.base.problems import StartupError
from threadkeep.project import add_to_path, locate, split_target

log = logging.getLogger(__name__)

MAX_INNER: Final = 10
"""The most errors of a group that are named."""


def import_target(root: Path, target: str, *, key: str) -> object:
    """Import the object that `target` names. Raise StartupError with `key` of langgraph.json and the reason in one line."""
    try:
        place, name = split_target(target)
    except ValueError as error:
        raise StartupError(f"{key}: {error}") from None
    module = _module(root, place, f"{key}: {target}")
    try:
        return getattr(module, name)
    except AttributeError:
        near = difflib.get_close_matches(name, [other for other in vars(module) if not other.startswith("__")])
        hint = f": did you mean {', '.join(near)}?" if near else ""
        raise StartupError(f"{key}: {target}: {place} has no {name}{hint}") from None


def reason(error: BaseException, root: Path) -> str:
    """Return the type and text of an error of the project's code, with the project's last line in its traceback."""
    text = _in_a_line(error)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_within(frame.filename, root)]
    if not lines or isinstance(error, SyntaxError):  # the text of a SyntaxError contains its place
        return text
    return f"{text} ({os.path.relpath(lines[-1].filename, root)}, line {lines[-1].lineno})"


def _in_a_line(error: BaseException) -> str:
    """Return type and text, and those of the inner errors of a group."""
    name, text = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        text = "; ".join(_in_a_line(part) for part in inner[:MAX_INNER])
    return f"{name}: {text}".rstrip(": ")


def _is_within(filename: str, root: Path) -> bool:
    path = Path(filename)
    ours = path.is_relative_to(Path(__file__).parent) or "site-packages" in path.parts
    return path.is_relative_to(root.resolve()) and not ours


def _module(root: Path, place: str, where: str) -> ModuleType:
    if place.endswith(".py") and locate(root, place) is None:
        raise StartupError(f"{where}: the file {root / place} does not exist")
    try:
        if place.endswith(".py"):
            return _import_file(root, cast("Path", locate(root, place)).resolve())
        return importlib.import_module(place)
    # A script of a project may call `sys.exit` at import. It must not end the server without a reason.
    except (Exception, SystemExit) as error:
        log.debug("a module of the project can't be imported", extra={"target": place}, exc_info=True)
        hint = ""
        # The project's own module is missing for another reason than a package that was not installed.
        if isinstance(error, ModuleNotFoundError) and error.name and error.name != place.partition(".")[0]:
            hint = ": the server installs nothing, so install the package where the server runs"
        raise StartupError(f"{where}: {reason(error, root)}{hint}") from error


def _import_file(root: Path, path: Path) -> ModuleType:
    """Return the module of a file. A file is not executed a second time."""
    package = _regular_package(path) or _namespace_package(root, path)
    if package is None:
        add_to_path(path.parent)
        return _import_alone(root, path)
    base, names = package.parent, [package.name, *path.relative_to(package).with_suffix("").parts]
    if names[-1] == "__init__":
        names.pop()
    add_to_path(base)
    add_to_path(path.parent)  # after its package, because some projects also run the file itself
    if not _is_importable(package):
        names[0] = _import_package(root, package).__name__
    module = importlib.import_module(".".join(names))
    # Another module of that name is loaded already. The file that langgraph.json names is the right one.
    return module if module.__file__ == str(path) else _import_alone(root, path)


def _regular_package(path: Path) -> Path | None:
    """Return the outermost package folder of a file, by `__init__.py`, or None."""
    if not (path.parent / "__init__.py").is_file():
        return None
    package = path.parent
    while (package.parent / "__init__.py").is_file():
        package = package.parent
    return package


def _namespace_package(root: Path, path: Path) -> Path | None:
    """Return the namespace package of a file without `__init__.py`, if its relative imports need one."""
    depth = _relative_depth(path)
    if depth == 0:
        return None
    outermost = path.parents[depth - 1]
    bases = [Path(entry) for entry in sys.path if outermost != Path(entry) and outermost.is_relative_to(entry or "/-")]
    inside = [base for base in bases if base.is_relative_to(root.resolve()) or base.is_relative_to(Path.cwd())]
    if not inside:
        return outermost
    nearest = max(inside, key=lambda base: len(base.parts))
    return nearest / outermost.relative_to(nearest).parts[0]


def _relative_depth(path: Path) -> int:
    """Return the levels of a file's relative imports: 1 is its own folder, 0 means that it has none."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return 0  # the import will raise the error
    return max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)


def _is_importable(package: Path) -> bool:
    """Whether `import` of the folder's name finds this folder."""
    if "." in package.name:
        return False
    # A loaded module wins over `sys.path`, as in an `import` statement.
    loaded = sys.modules.get(package.name)
    spec = loaded.__spec__ if loaded is not None else PathFinder.find_spec(package.name)
    locations = (spec and spec.submodule_search_locations) or []
    return any(Path(location).resolve() == package for location in locations)


def _import_package(root: Path, package: Path) -> ModuleType:
    """Import the package of a folder whose name is in use, with a name made from its path."""
    file = package / "__init__.py"
    name, loaded = _name_of_place(root, package, str(file) if file.is_file() else None)
    if loaded is not None:
        return loaded
    if file.is_file():
        return _executed(importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(package)]))
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(package)]
    sys.modules[name] = importlib.util.module_from_spec(spec)
    return sys.modules[name]


def _import_alone(root: Path, path: Path) -> ModuleType:
    """Import a file that belongs to no package, with a name made from its path."""
    name, loaded = _name_of_place(root, path, str(path))
    if loaded is not None:
        return loaded
    return _executed(importlib.util.spec_from_file_location(name, path))


def _name_of_place(root: Path, path: Path, file: str | None) -> tuple[str, ModuleType | None]:
    """Return a module's name, made from its path below `root`, and the module if it is already loaded."""
    place = os.path.relpath(path, root.resolve()).removesuffix(".py")
    # The prefix keeps a project's `json.py` from replacing a module of the library.
    name = "graph_file__" + re.sub(r"\W", "_", place)
    loaded = sys.modules.get(name)
    if loaded is not None and [*_files(loaded)] != [
        file or str(path)
    ]:  # two paths have the same name, or there is a second project
        name += "_" + hashlib.sha256(str(path).encode()).hexdigest()[:8]
        loaded = sys.modules.get(name)
    return name, loaded


def _files(module: ModuleType) -> Iterator[str]:
    """Yield the file of a module, or the folders of a namespace package."""
    if module.__file__ is not None:
        yield module.__file__
    else:
        yield from module.__path__


def _executed(spec: ModuleSpec | None) -> ModuleType:
    if spec is None or spec.loader is None:
        raise ImportError("this is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Before it is executed: dataclasses and pickle look their module up by name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # Half of a module must not be found by the next import.
        del sys.modules[spec.name]
        raise
    return module
