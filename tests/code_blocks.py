"""Code blocks of the documents: finds them, and runs them verbatim against a real server.

A block of `sh` runs in one bash for the page, a block of `python` in one namespace for the page, as in `python -m asyncio`.
A block of `text` after either is the output that the page promises. Only the port and hosts are replaced. `make serve` and
`threadkeep serve` run in the background, as in a terminal of their own. A block with a title is a file of the project.
"""

import ast
import configparser
import contextlib
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import yaml

from clients.node import NODE

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r'^( *)```(\w*)(?: title="([^"]+)")?\n(.*?)^\1```$|^( *)```[^\n]*$',
    re.MULTILINE | re.DOTALL,
)
SERVE = re.compile(r"^(?:\w+=\S+ )*(?:make serve|threadkeep serve|threadkeep dev)\b[^&|]*$")
STATEMENT = re.compile(r"(?:ALTER|CREATE|GRANT|SELECT|INSERT|UPDATE|DELETE|DROP|REVOKE) \w")
INSTRUCTION = re.compile(r"(?:FROM|COPY|WORKDIR|ENV|RUN|USER|CMD|ENTRYPOINT|ARG|EXPOSE) \S")
METRIC = re.compile(r"\b((?:threadkeep|http)_\w+?)(?:_count|_bucket)?\b(?=[{\[ )])")
START_S, BLOCK_S = 120.0, 150.0
CLIENTS = ROOT / "tests" / "clients"
SYNTAX = """
const found = require("typescript").transpileModule(require("fs").readFileSync(0, "utf8"), {reportDiagnostics: true});
if (found.diagnostics.length) throw new Error(JSON.stringify(found.diagnostics.map((one) => one.messageText)));
"""
"""A script for Node: fails if its input is not JavaScript."""
MAKE = '#!/bin/sh\n[ "$1" = serve ] || exit 2\nshift\n[ $# -gt 0 ] && export "$@"\neval exec threadkeep serve $ARGS\n'


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    title: str | None
    text: str

    @property
    def name(self) -> str:
        """The page and the first line."""
        return f"{self.page}: {self.text.strip().splitlines()[0].strip()}"

    @property
    def serves(self) -> bool:
        """Whether the block is one command that starts a server."""
        return self.language == "sh" and bool(SERVE.match(self.text.strip()))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page in order. Raise ValueError at a fence that is not understood."""
    found: list[Block] = []
    for match in FENCE.finditer(page.read_text()):
        indent, language, title, text, strange = match.groups()
        if strange is not None:
            raise ValueError(f"{page}: a fence that is not understood: {match[0]}")
        lines = [line.removeprefix(indent) for line in text.splitlines(keepends=True)]
        found.append(Block(page.relative_to(ROOT).as_posix(), language, title, "".join(lines)))
    return found


def parse(block: Block) -> None:
    """Raise an error if the text is not of its language."""
    if block.language == "python":
        compile(block.text, block.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    elif block.language == "sh":
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "yaml":
        list(yaml.safe_load_all(block.text))
    elif block.language in {"js", "jsx"}:
        subprocess.run([str(NODE), "-e", SYNTAX], input=block.text, text=True, check=True, cwd=CLIENTS)
    elif block.language == "dockerfile":
        assert [line for line in block.text.splitlines() if not INSTRUCTION.match(line)] == []
    elif block.language == "promql":
        table = (ROOT / block.page).read_text()
        assert [name for name in METRIC.findall(block.text) if f"`{name}" not in table] == []
    elif block.language == "sql":
        statements = block.text.split(";")
        assert [one for one in statements if one.strip() and not STATEMENT.match(one.strip())] == []
    elif block.language == "ini":
        configparser.ConfigParser().read_string("[top]\n" + block.text)


class Session:
    """A reader of one page: a shell, a Python and a folder. Its servers are killed at the end."""

    def __init__(self, folder: Path, database: str, port: int) -> None:
        self.folder = folder
        self.port = port
        self.database = database
        self.replaced: dict[str, str] = {}
        """Hosts that the page names, and what stands for them here."""
        programs = folder / "programs"
        programs.mkdir(parents=True)
        (programs / "make").write_text(MAKE)
        (programs / "make").chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT / "server"),
            "DATABASE_URI": database,
            "PORT": str(port),
            "LOG_JSON": "true",
            "BROWSER": "true",  # a command that opens a browser opens none
        }
        self._log = folder / "server-0.log"
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self._shell = subprocess.Popen(
            ["bash", "-e"], cwd=folder, env=self.environment, text=True, bufsize=1, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    async def close_clients(self) -> None:
        """Close what the page has opened, in the event loop of its blocks."""
        for value in self._namespace.values():
            close = getattr(value, "aclose", None) or getattr(value, "close", None)
            if isinstance(value, type) or not callable(close):
                continue
            with contextlib.suppress(Exception):
                closing: Any = close()
                if inspect.isawaitable(closing):
                    await closing

    def close(self) -> None:
        """End the shell and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        for pipe in (self._shell.stdin, self._shell.stdout):
            if pipe is not None:
                pipe.close()

    async def run(self, block: Block) -> str:
        """What the block prints. Raise an error if it fails."""
        text = re.sub(r"\b2024\b", str(self.port), block.text)
        for host, here in self.replaced.items():
            text = text.replace(host, here)
        with anyio.fail_after(BLOCK_S):
            if block.title is not None:
                return self._as_file(block.title, text)
            if block.serves:
                return await self._serve(text.strip())
            if block.language == "sh":
                return await anyio.to_thread.run_sync(self._in_shell, text, abandon_on_cancel=True)
            if block.language == "python":
                return await self._in_python(text)
            if block.language == "js":
                return await anyio.to_thread.run_sync(self._in_node, text, abandon_on_cancel=True)
        raise ValueError(f"{block.name}: no way to run {block.language or 'a block without a language'}")

    def _as_file(self, name: str, text: str) -> str:
        """Write a file of the project. If the project has it, the text must be a part of it."""
        path = Path(self._in_shell("pwd").strip()) / name
        if path.exists():
            assert text.strip() in path.read_text(), f"{name} has no such part"
        else:
            path.write_text(text)
        return ""

    def tell(self, text: str) -> str:
        """Do something in the shell that the page does not say, and return what it prints."""
        return self._in_shell(text)

    def _in_shell(self, text: str) -> str:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{text}\necho; echo __end__\n")
        printed: list[str] = []
        for line in self._shell.stdout:
            if line == "__end__\n":
                return "".join(printed)
            printed.append(line)
        raise AssertionError(f"the shell ended:\n{text}\n{''.join(printed)}")

    def _in_node(self, text: str) -> str:
        """What a module prints that finds the packages of tests/clients."""
        modules = self.folder / "node_modules"
        if not modules.exists():
            modules.symlink_to(CLIENTS / "node_modules")
        (self.folder / "block.mjs").write_text(text)
        done = subprocess.run(
            [str(NODE), "block.mjs"], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def _serve(self, command: str) -> str:
        """Start a server unless it runs already, wait until it is ready, and return what it has printed."""
        async with httpx.AsyncClient() as http:
            if not await self._ready(http):
                self._log = self.folder / f"server-{len(list(self.folder.glob('server-*.log')))}.log"
                self._in_shell(f"{command} > {self._log} 2>&1 & disown")
            with anyio.fail_after(START_S):
                while not await self._ready(http):
                    await anyio.sleep(0.05)
        return self._log.read_text()

    async def _ready(self, http: httpx.AsyncClient) -> bool:
        try:
            return (await http.get(f"http://127.0.0.1:{self.port}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def _in_python(self, text: str) -> str:
        code = compile(text, "<block>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if code.co_flags & inspect.CO_COROUTINE:
                await eval(code, self._namespace)  # noqa: S307 - our own documents
            else:
                await anyio.to_thread.run_sync(self._execute, code, abandon_on_cancel=True)
        return printed.getvalue()

    def _execute(self, code: Any) -> None:
        """In a thread, so that `asyncio.run` works and a synchronous client does not block the test."""
        exec(code, self._namespace)  # noqa: S102 - our own documents


def promised(expected: str, printed: str, port: int) -> bool:
    """Whether the lines of `expected` are in `printed` in this order. An `…` stands for any text."""
    pattern = ".*".join(
        re.escape(line).replace("…", "[^\n]*") + r"\s*$"
        for line in re.sub(r"\b2024\b", str(port), expected).splitlines()
    )
    return re.search(pattern, printed, re.DOTALL | re.MULTILINE) is not None


async def read_page(page: Path, session: Session, skipped: set[str], languages: set[str]) -> None:
    """Do all that a page says, except for the blocks in `skipped`, and compare what it promises."""
    printed: str | None = None
    for block in blocks(page):
        if block.name in skipped:
            printed = None
        elif block.language == "text":
            if printed is not None:
                assert promised(block.text, printed, session.port), f"{block.name}\n--- printed:\n{printed}"
        elif block.title is not None:
            _ = await session.run(block)
        elif block.language in languages:
            printed = await session.run(block)
        else:
            printed = None
