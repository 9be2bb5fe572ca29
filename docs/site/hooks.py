"""Hooks of MkDocs: pages outside docs/, and links to files of the repository that are no pages.

README, SECURITY, CHANGELOG and CONTRIBUTING stand in the repository's root, so that GitHub shows them. Here they become
pages of the site, and every link to them follows. A link to any other file of the repository leads to a copy of the file.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Names in the repository, and names in the site."""
SOURCE = "https://github.com/threadkeep/threadkeep"
"""For links to folders, of which there is no copy."""
COPIES = "repository"
"""The folder of the site for copies of other files."""
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root, and the files that pages link to."""
    for source, name in ROOT_PAGES.items():
        files.append(File.generated(config, name, content=_with_links((ROOT / source).read_text(), source, name)))
    for page in list(files.documentation_pages()):
        if page.generated_by is None:
            source = f"docs/{page.src_uri}"
            _ = [_add_copy(files, config, path) for path in _linked(Path(page.abs_src_path).read_text(), source)]
    for source in ROOT_PAGES:
        _ = [_add_copy(files, config, path) for path in _linked((ROOT / source).read_text(), source)]
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Turn links to files outside docs/ into links of the site."""
    del config, files
    page.meta["search"] = {"boost": _boost(page.file.src_uri)}
    if page.file.generated_by is not None:
        return markdown
    return _with_links(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def _boost(name: str) -> float:
    """How much a page counts in a search: you should find a guide before its reasons, its history and long tables."""
    if name.startswith(("decisions/", "changelog", "differences", "benchmarks")):
        return 0.1
    return 2 if name.startswith(("how-to/", "tutorials/", "operations")) else 1


def _linked(markdown: str, source: str) -> list[str]:
    """The files of the repository outside docs/, and without a page, that a page links to."""
    paths = {_in_repository(match[2], source) for match in LINK.finditer(markdown)}
    return sorted(path for path in paths if _is_copied(path))


def _in_repository(target: str, source: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _is_copied(path: str) -> bool:
    outside = not path.startswith("docs/") or path in {"docs/style.md", "docs/schema.sql"}
    return outside and path not in ROOT_PAGES and (ROOT / path).is_file()


def _add_copy(files: Any, config: Any, path: str) -> None:
    name = f"{COPIES}/{path}.txt"
    if files.get_file_from_path(name) is None:
        files.append(File.generated(config, name, content=(ROOT / path).read_bytes()))


def _with_links(markdown: str, source: str, name: str) -> str:
    """Rewrite the links of a page that is `source` in the repository and `name` in the site."""

    def rewritten(match: re.Match[str]) -> str:
        path = _in_repository(match[2], source)
        if path in ROOT_PAGES:
            target = ROOT_PAGES[path]
        elif _is_copied(path):
            target = f"{COPIES}/{path}.txt"
        elif path.startswith("docs/"):
            target = path.removeprefix("docs/")
        elif (ROOT / path).is_dir():
            return f"{match[1]}{SOURCE}/tree/main/{path}{match[4]}"
        else:
            return match[0]
        relative = posixpath.relpath(target, posixpath.dirname(name) or ".")
        return f"{match[1]}{relative}{match[3] or ''}{match[4]}"

    return LINK.sub(rewritten, markdown)
