"""The words inside the code: docstrings and comments of the server, the benchmark and the faults, and the texts that users see at `/docs`."""

import ast
import inspect
import io
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import words
from threadkeep.api.ops import openapi
from threadkeep.api.routes import TABLE
from threadkeep.base import problems
from threadkeep.base.problems import Problem

FOLDERS = [Path(__file__).parents[1] / name for name in ("server", "bench", "faults")]
DIRECTIVES = ("noqa", "pyright", "type:", "!")


@cache
def docstrings_and_comments() -> str:
    return "\n\n".join(
        text for folder in FOLDERS for path in sorted(folder.rglob("*.py")) for text in _texts(path.read_text())
    )


def _texts(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.AsyncFunctionDef, ast.FunctionDef)):
            continue
        for statement in node.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                yield inspect.cleandoc(str(statement.value.value))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.lstrip("# ").startswith(DIRECTIVES):
            yield token.string.lstrip("# ")


def shown_to_users() -> str:
    """Summaries and descriptions of the OpenAPI document, and the descriptions of problems."""
    document = openapi.document(TABLE)
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    texts = [f"{operation.get('summary', '')}.\n\n{operation.get('description', '')}" for operation in operations]
    kinds = [kind for kind in vars(problems).values() if isinstance(kind, type) and issubclass(kind, Problem)]
    return "\n\n".join([*texts, *(inspect.getdoc(kind) or "" for kind in kinds)])


@pytest.mark.parametrize("source", [docstrings_and_comments, shown_to_users], ids=["code", "docs"])
def test_few_question_words_and_semicolons(source: Callable[[], str]) -> None:
    """Issue 21: below 3 in 1,000 words each, as in README and docs."""
    count = words.count(source())

    assert count.words > 1000
    assert count.each_1000(count.clauses) < words.MOST_CLAUSES
    assert count.each_1000(count.semicolons) < words.MOST_SEMICOLONS


def test_a_sentence_that_users_see_has_at_most_35_words() -> None:
    """docs/style.md: one actor, one verb, one object."""
    sentences = words.sentences(shown_to_users())

    assert [sentence for sentence in sentences if words.length(sentence) > words.LONGEST_SENTENCE] == []
