"""The texts of errors, refusals and log lines, by the rules of docs/style.md. `make messages` prints them on one page."""

import re
from functools import cache

import messages
from messages import Message

QUESTION_WORDS = re.compile(r"\b(?:who|what|whoever|whatever)\b", re.IGNORECASE)
DIALECT = re.compile(
    r"\b(?:is no(?! longer)|are no(?! longer)|nobody|somebody|anybody|anew|let in|put back|swept|stands|wanted|goes on|go on|whose it is)\b"
)
NAMES = ("Postgres", "THREADKEEP_", "LangSmith")
"""A log line may begin with one of these. Otherwise its first letter is small."""
CURE = re.compile(
    r"[A-Z]+_[A-Z_]+|--\w|\{|\b(?:set|name|grant|use|add|allow|begin|check|choose|close|create|install|read|remove|raise|restore|run|start|write|list)\b"
)
"""A setting, a flag, a place in a file, or a verb that says what to do."""
MAX_WORDS = 25


@cache
def collected() -> tuple[Message, ...]:
    return tuple(messages.collect())


def places(*wrong: Message) -> list[str]:
    return [f"{message.module}:{message.line}: {message.text}" for message in wrong]


def words(sentence: str) -> list[str]:
    """The words of a sentence. A value counts as one word."""
    return re.sub(r"\{[^}]*\}", "X", sentence).split()


def test_the_page_has_every_kind_of_message() -> None:
    """Issue 21: errors, refusals and log lines of every part of the server."""
    kinds = {(message.kind, message.module.split("/")[1]) for message in collected()}

    assert {("log", "runs"), ("error", "api"), ("start", "postgres"), ("start", "cli.py"), ("error", "auth")} <= kinds
    assert len(collected()) > 500


def test_a_message_is_plain_english() -> None:
    """docs/style.md: no question words, no semicolons, no words of our own."""
    pattern = re.compile(f"{QUESTION_WORDS.pattern}|{DIALECT.pattern}|;(?! charset)", re.IGNORECASE)

    assert places(*(message for message in collected() if pattern.search(" ".join(words(message.text))))) == []


def test_a_sentence_has_at_most_25_words() -> None:
    """docs/style.md. A colon ends a sentence: after it comes the reason or the cure."""
    wrong = [
        message
        for message in collected()
        if any(len(words(sentence)) > MAX_WORDS for sentence in re.split(r"(?<=[.:])\s", message.text))
    ]

    assert places(*wrong) == []


def test_a_log_line_is_a_fixed_sentence_in_lower_case() -> None:
    """docs/style.md, Logs: values are fields, so that a line can be searched for."""
    lines = [message for message in collected() if message.kind == "log"]
    wrong = [line for line in lines if "{" in line.text or line.text.endswith(".")]
    wrong += [line for line in lines if line.text[0].isupper() and not line.text.startswith(NAMES)]

    assert places(*wrong) == []


def test_an_error_at_the_start_says_how_to_mend_it() -> None:
    """Issue 21: actor, verb, object, and what to do now."""
    starts = [message for message in collected() if message.kind == "start" and message.writer != "echo"]

    assert places(*(message for message in starts if not CURE.search(message.text))) == []
