"""Page: docs/differences.md, written anew by each comparison that explains everything."""

from collections.abc import Iterator, Sequence

from comparing import Difference
from known import Known, written

HEAD = """# Differences from LangGraph's own server

`make reference` sends the same {steps} requests to LangGraph's development server (langgraph-api {version}) and to
this one, and compares the answers field by field, with ids and times replaced by names. You see here the
{count} fields that differ, and why. Everything else is equal. The page is generated. Its reasons are in
tests/reference/differences.toml.

The answers of MCP and A2A differ as a whole, because each of them has a thread here. The guides list the differences:
[MCP](how-to/mcp.md#differences-from-langgraphs-own-server), [A2A](how-to/a2a.md#differences-from-langgraphs-own-server). The
reference has no OpenAI API and no AG-UI.
"""
WIDTH = 110
"""The longest answer that a line shows, in characters."""
ROWS = 8
"""The most examples that a reason shows."""


def render(known: Sequence[Known], *, steps: int, version: str) -> str:
    """The page: a part for each reason, with what differs for it."""
    shown = [entry for entry in known if entry.found]
    count = sum(len(entry.found) for entry in shown)
    parts = [HEAD.format(steps=steps, version=version, count=count)]
    parts += ["\n".join(_part(number, entry)) for number, entry in enumerate(shown, 1)]
    return "\n".join(parts)


def _part(number: int, entry: Known) -> Iterator[str]:
    yield f"## {number}. {entry.reason.strip()}\n"
    yield "| Request | Field | Reference | Ours |"
    yield "|---|---|---|---|"
    rows = _distinct(entry.found)
    for difference in rows[:ROWS]:
        cells = (difference.request, difference.field, written(difference.reference), written(difference.ours))
        yield "| " + " | ".join(_cell(text) for text in cells) + " |"
    if len(entry.found) > len(rows[:ROWS]):
        yield f"\nand {len(entry.found) - len(rows[:ROWS])} more of the kind"
    yield ""


def _distinct(found: Sequence[Difference]) -> list[Difference]:
    """The first of those that say the same of the same request."""
    first: dict[tuple[str, ...], Difference] = {}
    for difference in found:
        name = "".join(letter for letter in difference.field if not letter.isdigit())
        first.setdefault((difference.request, name, written(difference.ours)), difference)
    return list(first.values())


def _cell(text: str) -> str:
    short = text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
    return "`" + short.replace("|", "\\|").replace("`", "'").replace("\n", " ") + "`"
