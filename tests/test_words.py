"""README and docs stay easy to read: tests/words.py counts (`make words`)."""

from pathlib import Path

import words

PENDING = {
    "docs/design.md",
    "docs/glossary.md",
}
"""Pages that are not rewritten yet."""


def _name(page: Path) -> str:
    return page.relative_to(words.ROOT).as_posix()


def _rewritten() -> list[Path]:
    return [page for page in words.pages() if _name(page) not in PENDING]


def test_documents_speak_plainly_and_to_the_reader() -> None:
    """Issue: few "who", "what", "whoever" and semicolons, and the reader is addressed."""
    total = sum((words.count(page.read_text()) for page in _rewritten()), words.Count())

    assert total.each_1000(total.clauses) < words.MOST_CLAUSES, words.report(_rewritten())
    assert total.each_1000(total.semicolons) < words.MOST_SEMICOLONS, words.report(_rewritten())
    assert total.each_1000(total.you) > words.LEAST_YOU, words.report(_rewritten())


def test_no_sentence_is_longer_than_35_words() -> None:
    """Issue: a sentence is understood at first reading."""
    long = [
        f"{_name(page)}: {sentence}"
        for page in _rewritten()
        for sentence in words.sentences(page.read_text())
        if words.length(sentence) > words.LONGEST_SENTENCE
    ]

    assert long == []


def test_the_count_leaves_out_code_and_joins_lines() -> None:
    """Ours: a semicolon in an example is no fault, and a line break ends no sentence."""
    page = "You see `a; b` here,\nand no more. What follows is code:\n\n```\nwhat; who\n```\n\n| who; |\n"

    assert words.sentences(page) == ["You see Code here, and no more.", "What follows is code:"]
    assert words.count(page) == words.Count(words=12, clauses=2, semicolons=1, you=1)
