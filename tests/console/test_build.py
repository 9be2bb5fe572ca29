"""The built page: it is that of the sources, also for somebody who has no Node."""

import gzip
import hashlib
import re
from pathlib import Path

import console_types

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "console"
BUILT = ROOT / "server" / "threadkeep" / "console"
UNHASHED = {"node_modules", "README.md", "src/api-types.ts"}
FIRST_VIEW_BYTES = 100_000
ALL_BYTES = 220_000


def sources_hash() -> str:
    """What console/build.mjs computes: a hash over the names and contents of all sources."""
    paths = [path for top in SOURCES.iterdir() if top.name not in UNHASHED for path in (top, *top.rglob("*"))]
    names = sorted(path.relative_to(SOURCES).as_posix() for path in paths if path.is_file())
    names = [name for name in names if name not in UNHASHED]
    digest = hashlib.sha256()
    for name in names:
        content = (SOURCES / name).read_bytes()
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()


def test_built_page_is_that_of_the_sources() -> None:
    """If this fails: `make console`, and commit what it wrote."""
    page = (BUILT / "index.html").read_text()
    assert f'<meta name="sources" content="{sources_hash()}">' in page


def test_page_names_its_files_and_nothing_else() -> None:
    page = (BUILT / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all((BUILT / name).is_file() for name in named if name not in {"data:,", "/docs"})
    assert "<style" not in page
    assert re.findall(r"<script[^>]*>([^<]+)</script>", page) == []


def test_page_is_within_its_budgets() -> None:
    page = (BUILT / "index.html").read_text()
    sizes = {path.name: len(gzip.compress(path.read_bytes(), 9)) for path in BUILT.glob("*.*s")}
    first = {name for name in sizes if name in page}
    script = next(name for name in first if name.endswith(".js"))
    first.update(re.findall(r'(?:from|import)"\./([^"]+)"', (BUILT / script).read_text()))
    assert sum(sizes[name] for name in first) <= FIRST_VIEW_BYTES
    assert sum(sizes.values()) <= ALL_BYTES


def test_lock_names_no_registry() -> None:
    assert '"resolved"' not in (SOURCES / "package-lock.json").read_text()


def test_types_of_the_api_are_those_of_its_document() -> None:
    """Issue: they are generated. If this fails: `make types`, and commit what it wrote."""
    assert console_types.FILE.read_text() == console_types.generated()
