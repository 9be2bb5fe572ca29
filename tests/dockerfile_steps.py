"""Dockerfile steps: parses a Dockerfile, and carries out its steps in a folder, because no container engine runs here.

FROM of an image is an empty folder. Absolute paths of the steps become paths below that folder. USER, EXPOSE and the health
check are parsed and recorded, and change nothing.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KEYWORDS = frozenset(
    [
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ]
)
IMAGE_FOLDERS = re.compile(r"(?<![\w.~/-])/(?=(?:app|etc|home|opt|usr/local)\b)")
"""The beginning of an absolute path that lies in the image."""
STEPS_FOR_ROOT = ("useradd ", "apt-get ")


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction with its flags and the rest of its line."""

    keyword: str
    flags: Mapping[str, str]
    rest: str

    @property
    def words(self) -> list[str]:
        """The arguments, in the form of JSON or of a shell."""
        return json.loads(self.rest) if self.rest.startswith("[") else shlex.split(self.rest)


@dataclass(slots=True)
class Stage:
    """The image that the steps of a stage have made so far."""

    name: str
    base: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict[str, str])
    workdir: str = "/"
    user: str = ""
    command: dict[str, list[str]] = field(default_factory=dict[str, list[str]])


def parse(text: str) -> list[Step]:
    """Return the steps. ValueError for a line that is no instruction of a Dockerfile."""
    steps: list[Step] = []
    for line in _logical_lines(text):
        keyword, _, rest = line.partition(" ")
        if keyword not in KEYWORDS or not rest.strip():
            raise ValueError(f"no instruction: {line}")
        flags: dict[str, str] = {}
        while flag := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
            flags[flag[1]] = flag[2]
            rest = rest[flag.end() :]
        steps.append(Step(keyword, flags, rest.strip()))
    if not steps or steps[0].keyword != "FROM":
        raise ValueError("the first instruction is not FROM")
    return steps


def _logical_lines(text: str) -> Iterator[str]:
    """Lines without comments, with those joined that end with a backslash."""
    pending = ""
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pending += line.strip()
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        yield pending
        pending = ""
    if pending:
        raise ValueError("the last line is continued")


def _copy_folder(source: Path, target: Path) -> None:
    """Copy what a folder holds, as an engine does: files and links that are there already are replaced."""
    target.mkdir(parents=True, exist_ok=True)
    command = ["cp", "--archive", "--remove-destination", f"{source}/.", str(target)]
    subprocess.run(command, check=True)


class Build:
    """Carries out the steps of a Dockerfile. The current stage is always at the same place, for its absolute paths."""

    def __init__(self, context: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._context, self._folder, self._environment = context, folder, environment
        self._stages: dict[str, Stage] = {}
        self._stage: Stage | None = None
        self.root = folder / "image"
        """The files of the current stage."""

    def run(self, text: str) -> Stage:
        """Carry out all steps, and return the last stage. AssertionError with the output of a step that fails."""
        for step in parse(text):
            getattr(self, f"_{step.keyword.lower()}")(step)
        assert self._stage is not None
        return self._stage

    @property
    def stage(self) -> Stage:
        assert self._stage is not None
        return self._stage

    def path(self, name: str) -> Path:
        """The place of a path of the image."""
        path = Path(name)
        return self.root / (path.relative_to("/") if path.is_absolute() else Path(self.stage.workdir[1:]) / path)

    def environment(self) -> dict[str, str]:
        """The environment of a process of the image."""
        return {**os.environ, **self._environment, **self.stage.environment}

    def _placed(self, text: str) -> str:
        return IMAGE_FOLDERS.sub(f"{self.root}/", text)

    def _from(self, step: Step) -> None:
        base, _, name = step.rest.partition(" AS ")
        if self._stage is not None:
            self._stage.folder = self._folder / (self._stage.name or f"stage-{len(self._stages)}")
            self.root.rename(self._stage.folder)
            self._stages[self._stage.name] = self._stage
        before = self._stages.get(base)
        if before is None:
            self.root.mkdir(parents=True)
            self._stage = Stage(name, base, self.root, {"PATH": os.environ["PATH"]})
            return
        _copy_folder(before.folder, self.root)
        self._stage = Stage(name, base, self.root, dict(before.environment), before.workdir)

    def _env(self, step: Step) -> None:
        for word in step.words:
            name, _, value = word.partition("=")
            self.stage.environment[name] = self._placed(value).replace("$PATH", self.stage.environment["PATH"])

    def _workdir(self, step: Step) -> None:
        self.stage.workdir = step.rest
        self.path(step.rest).mkdir(parents=True, exist_ok=True)

    def _copy(self, step: Step) -> None:
        *sources, target = step.words
        base = self._context
        if "from" in step.flags:
            base = self._stages[step.flags["from"]].folder
        place = self.path(target)
        for source in sources:
            path = base / source.lstrip("/")
            assert path.exists(), f"COPY: there is no {source}"
            if path.is_dir():
                _copy_folder(path, place)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, place)

    def _run(self, step: Step) -> None:
        if step.rest.startswith(STEPS_FOR_ROOT):
            return
        command = self._placed(step.rest)
        outside = command.replace(f"{self.root}/", "")
        assert not re.search(r"""(?:^|[\s"'=:>])/\w""", outside), f"outside of the folder: {command}"
        command = re.sub(r"\bpython -m venv\b", f"{sys.executable} -m venv", command)
        folder = self.path(self.stage.workdir)
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"RUN {step.rest}\n{done.stdout}{done.stderr}"

    def _user(self, step: Step) -> None:
        self.stage.user = step.rest

    def _expose(self, step: Step) -> None:
        assert step.rest.isdigit()

    def _healthcheck(self, step: Step) -> None:
        self.stage.command["HEALTHCHECK"] = json.loads(step.rest.removeprefix("CMD "))

    def _entrypoint(self, step: Step) -> None:
        self.stage.command["ENTRYPOINT"] = step.words

    def _cmd(self, step: Step) -> None:
        self.stage.command["CMD"] = step.words
