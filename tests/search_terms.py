"""Search terms: whether a newcomer finds the right page and module for a term of the field.

`make terms` searches each term once in the index of the site, and once in the code, as `grep -rci` does. It prints a table,
and fails if a term leads elsewhere.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CODE = ROOT / "server" / "threadkeep"
TERMS: Mapping[str, tuple[str, str, str]] = {
    "idempotency": ("protocol", "idempotency", "runs/idempotency.py"),
    "row-level security": ("operations", "row-level security", "postgres/tenancy.py"),
    "backpressure": ("operations", "backpressure", "runs/slots.py"),
    "lease": ("operations", "lease", "runs/lease.py"),
    "fencing": ("operations", "fencing", "tables/workers.py"),
    "group commit": ("0009-group-commit", "group commit", "persistence/group_commit.py"),
    "heartbeat": ("operations", "heartbeat", "duties/heartbeat.py"),
    "retention": ("operations", "retention", "threads/retention.py"),
    "streaming": ("protocol", "stream", "api/streaming.py"),
    "interrupts": ("human-in-the-loop", "interrupts", "runs/executor.py"),
    "time travel": ("chat-with-memory", "time travel", "threads/history.py"),
    "multitenancy": ("authentication", "multitenancy", "postgres/tenancy.py"),
    "webhooks": ("background-runs", "webhook", "duties/webhooks.py"),
    "rate limits": ("operations", "rate limit", "runs/quotas.py"),
    "cron": ("background-runs", "cron", "duties/cron_scheduler.py"),
    "checkpointer": ("your-own-graphs", "checkpointer", "persistence/checkpointer.py"),
    "store": ("your-own-graphs", "store", "persistence/store.py"),
    "vector search": ("your-own-graphs", "vector", "persistence/store.py"),
    "MCP": ("mcp", "mcp", "api/mcp/server.py"),
    "A2A": ("a2a", "a2a", "api/a2a/endpoint.py"),
    "AG-UI": ("ag-ui", "ag-ui", "api/agui/messages.py"),
    "OpenAI": ("openai", "openai", "api/openai/errors.py"),
    "metrics": ("observability", "metrics", "api/ops/metrics.py"),
    "tracing": ("observability", "tracing", "base/tracing.py"),
    "encryption at rest": ("encryption", "encryption", "persistence/encryption.py"),
    "graceful shutdown": ("operations", "graceful shutdown", "duties/shutdown.py"),
    "connection pooler": ("operations", "pooler", "postgres/session.py"),
    "migrations": ("operations", "migration", "postgres/migrate.py"),
    "double texting": ("background-runs", "double texting", "tables/run_creation.py"),
    "resumable streams": ("protocol", "resumable stream", "runs/event_log.py"),
}
"""A term, the page that it should lead to, the pattern for grep, and the module that it should lead to."""
NEAR_PAGES, NEAR_FILES = 2, 6
"""So many results of a search, and files of a grep, a reader looks at. The best comes first."""


def best_pages(index: list[dict[str, Any]], term: str) -> list[str]:
    """The pages with a term, the best section first: each word must occur, and words in a title count most."""
    words = [_stem(word) for word in re.findall(r"[\w-]+", term.lower())]
    scores: dict[str, float] = {}
    for section in index:
        title, text = _stems(section["title"]), _stems(re.sub(r"<[^>]+>", " ", section["text"]))
        if not all(word in title or word in text for word in words):
            continue
        score = sum(1000 * (word in title) / len(title or [1]) + text.count(word) / (len(text) + 50) for word in words)
        page = re.sub(r"(?:\.html)?(?:#.*)?$", "", section["location"])
        scores[page] = max(scores.get(page, 0), score * section.get("boost", 1))
    return sorted(scores, key=lambda page: -scores[page])


def _stem(word: str) -> str:
    return re.sub(r"(?:ion|ing|ers|er|es|s|e)$", "", word) if len(word) > 4 else word.removesuffix("s")


def _stems(text: str) -> list[str]:
    return [_stem(word) for word in re.findall(r"[\w-]+", text.lower())]


def modules(pattern: str) -> list[str]:
    """The modules with a pattern, by the number of lines that have it."""
    counts = {
        path.relative_to(CODE).as_posix(): sum(bool(re.search(pattern, line, re.IGNORECASE)) for line in _lines(path))
        for path in CODE.rglob("*.py")
    }
    named = re.sub(r"\W", "_", pattern)
    return sorted((path for path in counts if counts[path]), key=lambda path: (named not in path, -counts[path]))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def main() -> int:
    """Print the table. Return the number of terms that lead elsewhere."""
    index = json.loads((ROOT / "build" / "site" / "search" / "search_index.json").read_text())["docs"]
    lost = 0
    print("| term | search of the site | grep of the code | place |\n| --- | --- | --- | --- |")  # noqa: T201
    for term, (page, pattern, module) in TERMS.items():
        pages, files = best_pages(index, term)[:NEAR_PAGES], modules(pattern)
        found = next((path for path in pages if path.rpartition("/")[2] == page), "")
        place = files.index(module) + 1 if module in files else 0
        right = bool(found) and 0 < place <= NEAR_FILES
        lost += not right
        mark = "" if right else " **no**"
        print(f"| {term} | `{found}` | `{module}` | {place}{mark} |")  # noqa: T201
    return lost


if __name__ == "__main__":
    sys.exit(main())
