"""The project: reads a user's `langgraph.json`.

No unsupported key is ignored silently. A key that cannot change the result of a run is logged. Any other key stops the
start.
"""

import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import sys
import tomllib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from threadkeep.base.problems import StartupError
from threadkeep.settings import BUILTIN_PROJECT

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

log = logging.getLogger(__name__)

IMAGE_BUILD_KEYS = frozenset(
    {
        "api_version",
        "base_image",
        "dockerfile_lines",
        "image_distro",
        "keep_pkg_tools",
        "node_version",
        "pip_config_file",
        "pip_installer",
        "python_version",
        "source",
    }
)
"""Keys that only describe how an image is built. They are ignored, like keys that start with `_INTERNAL`."""

NOT_SUPPORTED: Mapping[str, tuple[object, ...]] = {
    "auth.allow_langsmith_api_keys": (),
    "encryption": (),
    "priority": (),
    "checkpointer.serde.pickle_fallback": (),
}
"""Key that stops the start -> values that are accepted because they request nothing. Empty values are accepted too."""

REPLACED: Mapping[str, tuple[object, ...]] = {
    "store.path": (),
    "checkpointer.path": (),
    "checkpointer.uri": (),
    "checkpointer.backend": ("default",),
}
"""Key that names another store or checkpointer, which Postgres replaces -> values that request nothing."""

PLATFORM_KEYS: Mapping[str, str] = {
    "graphs": "LANGSERVE_GRAPHS",
    "auth": "LANGGRAPH_AUTH",
    "checkpointer": "LANGGRAPH_CHECKPOINTER",
    "encryption": "LANGGRAPH_ENCRYPTION",
    "http": "LANGGRAPH_HTTP",
    "store": "LANGGRAPH_STORE",
    "webhooks": "LANGGRAPH_WEBHOOKS",
}
"""Key of langgraph.json -> the variable with its JSON in an image of LangGraph's platform."""

Modules: TypeAlias = tuple[tuple[str, ...], ...] | Literal[True] | None


def _object(value: object) -> Mapping[str, object]:
    """Return a JSON object unchanged, and an empty one for anything else."""
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


class _Section(BaseModel):
    """A JSON object. A null counts as absent. Unknown keys are kept, so that the log can name them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {key: item for key, item in _object(cast("object", value)).items() if item is not None}
        return value

    def unknown_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the dotted names of unknown keys, at any depth."""
        yield from (prefix + key for key in self.model_extra or {})
        for name in type(self).model_fields:
            value: object = getattr(self, name)
            if isinstance(value, _Section):
                yield from value.unknown_keys(f"{prefix}{name}.")


class GraphTarget(_Section):
    """The target of a graph: `./file.py:name` or `package.module:name`."""

    path: str
    description: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("path")
    @classmethod
    def _python(cls, path: str) -> str:
        split_target(path)
        return path


class StoreIndex(_Section):
    dims: int = Field(gt=0)
    embed: str
    """`provider:model`, or the target of a function."""
    fields: tuple[str, ...] | None = None


class StoreTTL(_Section):
    """Times in minutes."""

    refresh_on_read: bool = True
    default_ttl: float | None = Field(default=None, gt=0)
    sweep_interval_minutes: float | None = Field(default=None, gt=0)


class Store(_Section):
    path: str | None = None
    index: StoreIndex | None = None
    ttl: StoreTTL | None = None


class CheckpointerTTL(_Section):
    """Times in minutes."""

    strategy: Literal["delete", "keep_latest"] = "delete"
    default_ttl: float | None = Field(default=None, gt=0)
    sweep_interval_minutes: float | None = Field(default=None, gt=0)
    sweep_limit: int | None = Field(default=None, gt=0)


class Serde(_Section):
    """Types that a checkpoint may contain besides those of the graph's state: `[module, name]` each, or true for all."""

    allowed_json_modules: Modules = None
    allowed_msgpack_modules: Modules = None
    pickle_fallback: bool = False


class Checkpointer(_Section):
    path: str | None = None
    backend: str = "default"
    uri: str | None = None
    ttl: CheckpointerTTL | None = None
    serde: Serde = Serde()


class Cors(_Section):
    allow_origins: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_origin_regex: str | None = None
    expose_headers: tuple[str, ...] = ()
    max_age: int = 600


class HeaderNames(_Section):
    """Names of request headers, as patterns in which `*` matches anything."""

    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _older_names(cls, value: object) -> object:
        """Accept `include` and `exclude`, the names in older documentation. The current names have priority."""
        if not isinstance(value, Mapping):
            return value
        names = {"include": "includes", "exclude": "excludes"}
        older = {names[key]: item for key, item in _object(cast("object", value)).items() if key in names}
        return {**older, **{key: item for key, item in _object(cast("object", value)).items() if key not in names}}


class Http(_Section):
    app: str | None = None
    disable_assistants: bool = False
    disable_threads: bool = False
    disable_runs: bool = False
    disable_store: bool = False
    disable_meta: bool = False
    disable_webhooks: bool = False
    disable_mcp: bool = False
    disable_a2a: bool = False
    disable_agui: bool = False
    disable_ui: bool = False
    disable_openai: bool = False
    cors: Cors | None = None
    mount_prefix: str | None = None
    configurable_headers: HeaderNames = HeaderNames()
    logging_headers: HeaderNames = HeaderNames()
    enable_custom_route_auth: bool = False
    middleware_order: Literal["auth_first", "middleware_first"] | None = None


class WebhookUrl(_Section):
    require_https: bool = False
    allowed_domains: tuple[str, ...] | None = None
    allowed_ports: tuple[int, ...] | None = None
    max_url_length: int | None = Field(default=None, gt=0)
    disable_loopback: bool = True
    disable_private_ips: bool = False


class Webhooks(_Section):
    env_prefix: str = "LG_WEBHOOK_"
    """A header's `${{ env.NAME }}` may only use variables with this prefix."""
    headers: Mapping[str, str] = Field(default_factory=dict)
    allowed_fields: tuple[str, ...] | None = None
    url: WebhookUrl = WebhookUrl()


class Auth(_Section):
    path: str | None = None
    disable_studio_auth: bool = False
    allow_langsmith_api_keys: bool = False
    openapi: Mapping[str, object] = Field(default_factory=dict)
    cache: Mapping[str, object] = Field(default_factory=dict)


class Project(_Section):
    """A project. Field names are those of `langgraph.json`. `ui` and `ui_config` have no effect."""

    root: Path
    """The folder of the file. All relative paths start here."""
    graphs: Mapping[str, GraphTarget] = Field(min_length=1)
    env: Mapping[str, str] | str = Field(default_factory=dict)
    """The variables, or the path of a file with variables."""
    dependencies: tuple[str, ...] = ()
    store: Store = Store()
    checkpointer: Checkpointer = Checkpointer()
    http: Http = Http()
    webhooks: Webhooks = Webhooks()
    auth: Auth = Auth()

    @property
    def builtin(self) -> bool:
        """Whether there is no `langgraph.json`, so that the built-in agent is served."""
        return not self.graphs

    @field_validator("env", mode="before")
    @classmethod
    def _variables(cls, value: object) -> object:
        if isinstance(value, str):
            return value
        variables = _object(value)
        if not isinstance(value, Mapping) or any(type(item) not in {str, int, float} for item in variables.values()):
            raise ValueError("must be an object of strings or the path of a file")
        texts = {name: str(item) for name, item in variables.items()}
        for name, text in texts.items():
            if not name or "=" in name or "\0" in name + text:
                raise ValueError(f"{name!r} can't be a variable: a name has no =, and nothing has a NUL")
        return texts


def load_project(path: Path) -> Project:
    """Read a `langgraph.json`. Raise StartupError with file, key and reason if it is not valid."""
    return _checked(str(path), _content(path), path.resolve().parent)


def from_environment() -> Project | None:
    """Return the project in the variables of a platform's image, or None if they name no graphs. Raise StartupError."""
    if not os.environ.get(PLATFORM_KEYS["graphs"]):
        return None
    content: dict[str, object] = {}
    for key, name in PLATFORM_KEYS.items():
        try:
            content[key] = json.loads(os.environ.get(name) or "null")
        except ValueError as error:
            raise StartupError(f"{name}: is not JSON: {error}") from None
    return _checked(PLATFORM_KEYS["graphs"], content, Path.cwd())


def platform_names() -> list[str]:
    """Return the variables of a platform's image that are set. A langgraph.json replaces them."""
    return sorted(name for name in PLATFORM_KEYS.values() if os.environ.get(name))


def _checked(where: str, content: Mapping[str, object], root: Path) -> Project:
    _refuse_unsupported(where, content)
    try:
        project = Project.model_validate({**content, "root": root})
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in item['loc'])}: {_words(item)}" for item in error.errors()]
        raise StartupError(f"{where}: " + "; ".join(lines)) from None
    _log_ignored(project)
    return project


def _words(error: "ErrorDetails") -> str:
    """Return pydantic's reason in the words of JSON."""
    if error["type"] == "tuple_type":
        return "must be a list"
    return error["msg"].removeprefix("Value error, ")


def with_mount(project: Project, prefix: str | None, origins: str | None) -> Project:
    """Return the project with the mount prefix and CORS origins of the settings.

    `origins` has commas between. It is used only if langgraph.json names no origins.
    """
    changes: dict[str, object] = {"mount_prefix": prefix} if prefix else {}
    cors = project.http.cors or Cors()
    if origins and not cors.allow_origins and cors.allow_origin_regex is None:
        allowed = tuple(origin.strip() for origin in origins.split(",") if origin.strip())
        changes["cors"] = cors.model_copy(update={"allow_origins": allowed})
    return project.model_copy(update={"http": project.http.model_copy(update=changes)}) if changes else project


def builtin_project() -> Project:
    """Return the project without a `langgraph.json`: the built-in agent in the current folder."""
    return Project.model_construct(root=Path.cwd(), graphs={})


def identity(project: Project) -> str:
    """Return the project id, which its rows in a database contain.

    It is `[project] name` of the pyproject.toml in the project's folder, else the name of the folder.
    """
    if project.builtin:
        return BUILTIN_PROJECT
    name = _packaged_name(project.root / "pyproject.toml") or project.root.resolve().name
    printable = "".join(character for character in name if character.isprintable()).strip()
    return printable[:200] or BUILTIN_PROJECT


def _packaged_name(file: Path) -> str | None:
    try:
        table = _object(tomllib.loads(file.read_text()).get("project"))
    except (OSError, ValueError):  # there is no such file, or it is not valid, which other tools report
        return None
    name = table.get("name")
    return name if isinstance(name, str) else None


def split_target(target: str) -> tuple[str, str]:
    """Split `./file.py:name`, `file.py:name` or `package.module:name` at the colon. Raise ValueError for other targets."""
    place, _, name = target.rpartition(":")
    is_module = all(part.isidentifier() for part in place.split("."))
    if not name.isidentifier() or not (place.endswith(".py") or is_module):
        raise ValueError(f"{target!r} must be ./file.py:name or package.module:name")
    return place, name


@contextmanager
def environment_restored() -> Generator[None]:
    """Restore the environment after the block, as if no project had set its variables."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def set_environment(project: Project, env: Mapping[str, str] | None = None) -> None:
    """Set the project's variables that the process does not have, and make its folders importable.

    `env` are the variables, if they were read before.

    Folders are added at the end of `sys.path`, because a project's `queue.py` must not replace a module that the server
    imports. Nothing is installed. Missing distributions are named in the log.
    """
    for name, value in (variables(project) if env is None else env).items():
        # The operator's variables win over those of the project's file.
        os.environ.setdefault(name, value)
    missing: list[str] = []
    for folder in (project.root, project.root / "src", Path.cwd()):
        add_to_path(folder)
    for dependency in project.dependencies:
        folder = locate(project.root, dependency)
        if folder is not None and folder.is_dir():
            add_to_path(folder)
            add_to_path(folder / "src")
        elif dependency.startswith("."):
            raise StartupError(
                f"{project.root / 'langgraph.json'}: dependencies: the folder {dependency} does not exist"
            )
        elif not _is_installed(dependency):
            missing.append(dependency)
    if missing:
        log.warning("dependencies of the project are not installed", extra={"dependencies": missing})


def locate(root: Path, path: str) -> Path | None:
    """Return the file or folder of a relative path in the project's folder, else in the working directory, else None."""
    return next((candidate for candidate in (root / path, Path.cwd() / path) if candidate.exists()), None)


def refuse_replaced(project: Project, *, strict: bool) -> None:
    """Log in one line that Postgres replaces the project's own store or checkpointer.

    Raise StartupError instead if `strict`.
    """
    keys = [key for key, harmless in REPLACED.items() if (value := _at(project, key)) and value not in harmless]
    if keys and strict:
        raise StartupError(
            f"{', '.join(keys)}: the store and the checkpointer are always Postgres: remove the key, or unset THREADKEEP_STRICT_PERSISTENCE"
        )
    if keys:
        log.warning("Postgres is used in place of the project's own persistence", extra={"keys": keys})


def _at(section: object, key: str) -> object:
    for name in key.split("."):
        section = getattr(section, name)
    return section


def add_to_path(folder: Path) -> None:
    """Make the modules of a folder importable, after all others. Do nothing if it is not a folder."""
    entry = str(folder.resolve())
    if folder.is_dir() and entry not in sys.path:
        sys.path.append(entry)


def _content(path: Path) -> Mapping[str, object]:
    try:
        # Editors on Windows write a byte order mark, which `json` refuses.
        content: object = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise StartupError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError as error:
        raise StartupError(f"{path}: is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise StartupError(f"{path}: is not a JSON object")
    return _object(cast("object", content))


def _refuse_unsupported(where: str, content: Mapping[str, object]) -> None:
    for key, harmless in NOT_SUPPORTED.items():
        value: object = content
        for part in key.split("."):
            value = _object(value).get(part)
        if value and value not in harmless:
            raise StartupError(f"{where}: {key}: not supported")


def _log_ignored(project: Project) -> None:
    unknown = set(project.unknown_keys()) - {"$schema"}
    build = {key for key in unknown if key in IMAGE_BUILD_KEYS or key.startswith("_INTERNAL")}
    if build:
        log.info("keys that only build an image are ignored", extra={"keys": sorted(build)})
    if unknown > build:
        log.warning("keys without an effect on this server are ignored", extra={"keys": sorted(unknown - build)})


def variables(project: Project) -> Mapping[str, str]:
    """Return the variables of the project's `env`, by name."""
    if not isinstance(project.env, str):
        return project.env
    file = locate(project.root, project.env)
    if file is None or not file.is_file():
        # Such a file is rarely deployed. Deployments often set secrets in the process instead.
        log.warning("the project's env file does not exist", extra={"env_file": str(project.root / project.env)})
        return {}
    return {name: value for name, value in dotenv_values(file).items() if value is not None}


def _is_installed(dependency: str) -> bool:
    """Whether a requirement's distribution or module is installed, in any version. False if the requirement has no name."""
    name = re.match(r"[A-Za-z0-9][\w.-]*(?=\s*($|[\[<>=!~;@ ]))", dependency)
    if name is None:
        return False
    try:
        importlib.metadata.distribution(name[0])
    except importlib.metadata.PackageNotFoundError:
        module = name[0].replace("-", "_")
        # A package may be on the path without being installed, as in a monorepo.
        return module.isidentifier() and importlib.util.find_spec(module) is not None
    return True
