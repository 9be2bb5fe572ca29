"""The documents: the page on the protocol has every route and field, links lead somewhere, and pages are found."""

import ast
import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from pydantic import BaseModel

from threadkeep.api.operation import Operation
from threadkeep.api.routes import TABLE
from threadkeep.runs.request import StreamMode

PAGE = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text()
ROUTE = re.compile(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`")
ROUTE_ROW = re.compile(r"^\| `([A-Z]+ /[^`]*)` \| [^|]+ \| (\d{3}) \|$", re.MULTILINE)
FIELDS = re.compile(r"^(Body|Query) of (`[^|]*?)\n\n\| Field \|[^\n]*\n\| ---[^\n]*\n((?:\|[^\n]*\n?)+)", re.MULTILINE)
NAME = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


def name(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def listed(kind: Literal["Body", "Query"], route: str) -> list[str]:
    """The fields that the page lists for the body or the query of a route."""
    tables = [rows for of, routes, rows in FIELDS.findall(PAGE) if of == kind and route in ROUTE.findall(routes)]
    return sorted(field for rows in tables for field in NAME.findall(rows))


def fields(kind: Any) -> list[str]:
    """The fields of a model, or of the items of a list of them."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return sorted(field.alias or name for name, field in kind.model_fields.items())
    return fields(get_args(kind)[0]) if kind else []


def test_every_route_is_on_the_page_with_its_status_and_no_other() -> None:
    """Ours: what is served can be read of."""
    shown = [(route, int(status)) for route, status in ROUTE_ROW.findall(PAGE)]

    assert sorted(shown) == sorted((name(operation), operation.response.status) for operation in TABLE)


@pytest.mark.parametrize("operation", TABLE, ids=name)
def test_every_field_of_a_route_is_on_the_page_and_no_other(operation: Operation) -> None:
    """Ours: what is read of a request can be read of, and what a client finds here is read."""
    assert listed("Body", name(operation)) == fields(operation.documented_body)
    assert listed("Query", name(operation)) == fields(operation.query)


def test_the_page_lists_every_stream_mode() -> None:
    """Ours: the row of `stream_mode` names the modes that a run accepts, and no other."""
    [row] = re.findall(r"^\| `stream_mode` \| One or several of ([^|]*) \|", PAGE, re.MULTILINE)

    assert sorted(re.findall(r"`([\w-]+)`", row)) == sorted(get_args(StreamMode))


def test_tables_of_fields_are_of_routes_that_are_served() -> None:
    """Ours: a table of a route that has gone goes with it."""
    of = {route for _, routes, _ in FIELDS.findall(PAGE) for route in ROUTE.findall(routes)}

    assert of - {name(operation) for operation in TABLE} == set()


def test_what_is_said_not_to_be_served_is_not() -> None:
    """Ours: a route that comes is moved from the one list to the other."""
    [text] = re.findall(r"^Not served: (.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    absent = set(re.findall(r"`(/[^`]+)`", text))

    assert absent
    assert absent & {operation.path for operation in TABLE} == set()


NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("page", ["design.md", "compatibility.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    """Ours: what is said to hold is held by something."""
    root = Path(__file__).parents[1]
    named = NAMED_TEST.findall((root / "docs" / page).read_text())
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not re.search(
            rf"^(?:async )?def {test}\(", (root / file).read_text() if (root / file).exists() else "", re.MULTILINE
        )
    ]

    assert named
    assert missing == []


ROOT = Path(__file__).parents[1]


def test_every_line_of_the_compatibility_page_names_a_test_and_the_versions_that_are_installed() -> None:
    """Ours: nothing is said to work that no test tries."""
    page = (ROOT / "docs" / "compatibility.md").read_text()
    rows = [line for line in re.findall(r"^\| .* \|$", page, re.MULTILINE) if not line.endswith(("| test |", "---|"))]
    clients = json.loads((ROOT / "tests" / "clients" / "package.json").read_text())["dependencies"]
    installed = [clients[name].rpartition("@")[2] for name in ("sdk-1x", "sdk-2x")]

    assert [row for row in rows if not NAMED_TEST.search(row)] == []
    assert f"| `langgraph-sdk` (PyPI), asynchronous | {importlib.metadata.version('langgraph-sdk')} |" in page
    assert f"| `RemoteGraph` of `langgraph` | {importlib.metadata.version('langgraph')} |" in page
    assert f"| `@langchain/langgraph-sdk` (npm) | {', '.join(installed)} |" in page


def test_every_target_that_a_page_names_can_be_made() -> None:
    """Ours: `make` says nothing of a target that is declared and has no rule."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    declared = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)}

    assert {*declared, *named} - targets == set()
    assert {"serve", "test", "faults"} <= named


def _anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)).lower() for title in titles]
    return {"", *(title.strip().replace(" ", "-") for title in plain)}


def _broken_links(page: Path) -> list[str]:
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    broken: list[str] = []
    for link in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (target.suffix == ".md" and anchor not in _anchors(target)):
            broken.append(f"{page.relative_to(ROOT)}: {link}")
    return broken


def test_every_link_of_a_page_leads_somewhere() -> None:
    """Issue: 0 broken links, to files and to headings."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]

    assert [link for page in pages for link in _broken_links(page)] == []


def _pattern(node: ast.expr) -> str:
    """The text of an expression. An `…` stands for each part that differs from case to case."""
    match node:
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(_pattern(part) for part in node.values)
        case ast.BinOp():
            return _pattern(node.left) + _pattern(node.right)
        case _:
            return "…"


COMMANDS = {"adopt", "archives", "backup", "client_programs", "dockerfile", "restore", "upgrade"}
"""Parts of names of modules of commands. Their guides name their errors."""


def _is_of_a_command(name: str) -> bool:
    return any(command in name for command in COMMANDS)


def _start_errors() -> set[str]:
    """The texts of every StartupError of the server, without those that only pass on the text of another error."""
    server = ROOT / "server" / "threadkeep"
    modules = [path for path in server.rglob("*.py") if not _is_of_a_command(path.relative_to(server).as_posix())]
    calls = [
        node
        for path in modules
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "StartupError" and node.args
    ]
    texts = {re.sub("…+", "…", _pattern(node.args[0]).replace("`", "")) for node in calls}
    return {text for text in texts if re.search("[a-z]", text)}


def test_troubleshooting_has_a_cure_for_each_error_at_the_start() -> None:
    """Issue: each start-up error and its cure, and none that the server does not have."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    section = page[page.index("## The server does not start") : page.index("## A request is refused")]
    shown = {re.sub("…+", "…", text) for text in re.findall(r"^\| `(.+?)` \| .+ \|$", section, re.MULTILINE)}

    assert sorted(_start_errors() - shown) == []
    assert [
        text for text in sorted(shown - _start_errors()) if re.search("[a-z]{4}", text.replace("graphs.", ""))
    ] == []


def test_the_glossary_names_modules_that_exist() -> None:
    """Issue 21: a reader goes from a term to the code."""
    page = (ROOT / "docs" / "glossary.md").read_text()
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|.*\|(.*)\|.*\|$", page, re.MULTILINE)
    named = [(term, path) for term, where in rows for path in re.findall(r"`([\w./]+(?:\.py|/))`", where)]
    wrong = [
        (term, path)
        for term, path in named
        if not any((at / path).exists() for at in (ROOT / "server/threadkeep", ROOT))
    ]

    assert len(named) > 80
    assert wrong == []
    assert [term.lower() for term, _ in rows] == sorted(term.lower() for term, _ in rows)


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    """Ours: a page that nobody finds is not read. Decisions are found by their list."""
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    navigation = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))

    assert {page for page in pages - navigation if not page.startswith("decisions/")} == set()
    assert navigation - pages == {"index.md", "security.md", "changelog.md", "contributing.md"}
