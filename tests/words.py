"""Words: how plainly the documents are written (`make words`).

Counts, for each 1,000 words, "who", "what" and "whoever", semicolons and "you", and lists the sentences that are hardest
to read. Code is left out everywhere. Tables count for words, and not for sentences.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
GENERATED = {"docs/differences.md", "docs/schema.sql"}
"""Written by scripts (`make reference`, `make schema`)."""

LONGEST_SENTENCE = 35
MOST_CLAUSES, MOST_SEMICOLONS, LEAST_YOU = 3.0, 3.0, 10.0

CODE_BLOCK = re.compile(r"^( *)(`{3,}|~{3,})[^\n]*\n.*?^\1\2`*$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
IMAGE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
TAG = re.compile(r"</?[a-z][^>]*>")
INLINE_CODE = re.compile(r"(`+)(?:(?!\1).)+\1", re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
BLOCK_START = re.compile(r"^\s*(?:[-*+] |\d+\. |> |!!! )", re.MULTILINE)
SENTENCE_END = re.compile(r"(?<=[.!?])[\"”)*_]*\s+(?=[\"“(*_A-Z0-9])|\n{2,}")
WORD = re.compile(r"[^\W_](?:[\w'\u2019./-]*[^\W_])?")
CLAUSE = re.compile(r"\b(?:who|what|whoever)\b", re.IGNORECASE)
YOU = re.compile(r"\b(?:you|your|yours|yourself)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Count:
    """The counts of one text, or the sum of several."""

    words: int = 0
    clauses: int = 0
    semicolons: int = 0
    you: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.words + other.words,
            self.clauses + other.clauses,
            self.semicolons + other.semicolons,
            self.you + other.you,
        )

    def each_1000(self, number: int) -> float:
        return 1000 * number / max(self.words, 1)


def pages() -> list[Path]:
    """README, SECURITY and every page of docs/ that a person writes, without the decisions and the style guide."""
    files = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [file for file in files if _is_counted(file.relative_to(ROOT).as_posix())]


def _is_counted(name: str) -> bool:
    return not (name in GENERATED or name.startswith("docs/decisions/") or name == "docs/style.md")


def prose(markdown: str) -> str:
    """The text as a reader sees it, without code blocks. A piece of inline code becomes the word `Code`."""
    text = COMMENT.sub("", CODE_BLOCK.sub("", markdown))
    text = INLINE_CODE.sub("Code", text)
    return TAG.sub("", LINK.sub(r"\1", IMAGE.sub(r"\1", text)))


def count(markdown: str) -> Count:
    text = prose(markdown)
    return Count(
        words=len(WORD.findall(text)),
        clauses=len(CLAUSE.findall(text)),
        semicolons=text.count(";"),
        you=len(YOU.findall(text)),
    )


def sentences(markdown: str) -> list[str]:
    """The sentences outside tables, each on one line."""
    lines = ["" if line.lstrip().startswith("|") else line for line in prose(markdown).splitlines()]
    text = BLOCK_START.sub("\n\n", HEADING.sub(r"\n\n\1\n\n", "\n".join(lines)))
    return [" ".join(sentence.split()) for sentence in SENTENCE_END.split(text) if sentence.strip()]


def length(sentence: str) -> int:
    return len(WORD.findall(sentence))


def _weight(sentence: str) -> int:
    """How hard a sentence is to read: its words, and ten for each clause or semicolon that the style guide avoids."""
    return length(sentence) + 10 * (len(CLAUSE.findall(sentence)) + sentence.count(";"))


def report(files: Iterable[Path], worst: int = 10) -> str:
    """A table of the pages, the sum of all, and the hardest sentences."""
    counts = {file: count(file.read_text()) for file in files}
    total = sum(counts.values(), Count())
    hardest = sorted(
        ((_weight(sentence), file, sentence) for file in counts for sentence in sentences(file.read_text())),
        key=lambda row: -row[0],
    )
    head = f"{'page':40}{'words':>7}{'who/what':>10}{'semicolon':>10}{'you':>7}{'longest':>9}"
    rows = [_row(file.relative_to(ROOT).as_posix(), number, [file]) for file, number in counts.items()]
    said = [f"{length(sentence):4}  {file.relative_to(ROOT)}: {sentence}" for _, file, sentence in hardest[:worst]]
    return "\n".join([head, *rows, _row("all", total, list(counts)), "", "The hardest sentences:", *said])


def _row(name: str, number: Count, files: list[Path]) -> str:
    longest = max((length(sentence) for file in files for sentence in sentences(file.read_text())), default=0)
    rates = [number.each_1000(part) for part in (number.clauses, number.semicolons, number.you)]
    return f"{name:40}{number.words:>7}{rates[0]:>10.1f}{rates[1]:>10.1f}{rates[2]:>7.1f}{longest:>9}"


if __name__ == "__main__":
    chosen = [Path(name).resolve() for name in sys.argv[1:]]
    print(report(chosen or pages(), worst=40 if chosen else 10))  # noqa: T201
