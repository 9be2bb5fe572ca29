"""README and docs stay easy to read: tests/words.py counts (`make words`)."""

import words


def test_documents_speak_plainly_and_to_the_reader() -> None:
    """Issue: few "who", "what", "whoever" and semicolons, and the reader is addressed."""
    total = sum((words.count(page.read_text()) for page in words.pages()), words.Count())

    assert total.each_1000(total.clauses) < words.MOST_CLAUSES, words.report(words.pages())
    assert total.each_1000(total.semicolons) < words.MOST_SEMICOLONS, words.report(words.pages())
    assert total.each_1000(total.you) > words.LEAST_YOU, words.report(words.pages())


def test_no_sentence_is_longer_than_35_words() -> None:
    """Issue: a sentence is understood at first reading."""
    long = [
        f"{page.relative_to(words.ROOT)}: {sentence}"
        for page in words.pages()
        for sentence in words.sentences(page.read_text())
        if words.length(sentence) > words.LONGEST_SENTENCE
    ]

    assert long == []


def test_the_count_leaves_out_code_and_joins_lines() -> None:
    """Ours: a semicolon in an example is no fault, and a line break ends no sentence."""
    page = "You see `a; b` here,\nand no more. What follows is code:\n\n```\nwhat; who\n```\n\n| who; |\n"

    assert words.sentences(page) == ["You see Code here, and no more.", "What follows is code:"]
    assert words.count(page) == words.Count(words=12, clauses=2, semicolons=1, you=1)
