"""Checks the built site: no link is broken, and no page loads anything from elsewhere.

MkDocs checks the links of Markdown. This reads the HTML that a browser gets, with the navigation and the theme.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The links of a page, what it loads, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses of a tag."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in LOADED and LOADED[tag] in values and values.get("rel") != "canonical":
            self.loads.append(values[LOADED[tag]])


def problems(site: Path) -> list[str]:
    """A line for each broken link, and for each thing that a page loads from another host."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    lines: list[str] = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are absolute, because it stands for any path
            continue
        lines += [f"{path.relative_to(site)} loads {url}" for url in page.loads if _is_foreign(url)]
        for url in [*page.links, *page.loads]:
            if not _is_foreign(url) and not _leads_somewhere(path, url, pages):
                lines.append(f"{path.relative_to(site)}: broken: {url}")
    return lines


def _is_foreign(url: str) -> bool:
    return bool(urlsplit(url).scheme or url.startswith("//"))


def _leads_somewhere(path: Path, url: str, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(url)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if target in pages:
        return unquote(parts.fragment) in pages[target].anchors
    return target.is_file()


if __name__ == "__main__":
    built = Path(sys.argv[1]).resolve()
    found = problems(built)
    print("\n".join(found) or f"{sum(1 for _ in built.rglob('*.html'))} pages, 0 broken links")  # noqa: T201
    sys.exit(bool(found))
