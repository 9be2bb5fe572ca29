"""The texts of a message, as all surfaces for agents read them."""

from typing import Any

import pytest

from threadkeep.api.agents.pieces import text_pieces

BLOCKS: list[tuple[Any, list[tuple[str, str]]]] = [
    ("text", [("text", "text")]),
    ({"type": "text", "text": "text"}, [("text", "text")]),
    ({"type": "text", "text": 5}, []),
    ({"type": "refusal", "refusal": ["no"]}, []),
    ({"type": "reasoning", "reasoning": "so"}, [("reasoning", "so")]),
    ({"type": "thinking", "thinking": {"a": 1}}, []),
    (
        {"type": "reasoning", "summary": [{"text": "one"}, "x", {"text": 2}, {}, {"text": "two"}]},
        [("reasoning", "one\n\ntwo")],
    ),
    ({"type": "reasoning", "reasoning": "", "summary": "x"}, []),
    (5, []),
    (None, []),
]


@pytest.mark.parametrize(("block", "pieces"), BLOCKS, ids=str)
def test_blocks_that_a_graph_made_up_have_no_text(block: Any, pieces: list[tuple[str, str]]) -> None:
    """Ours: a block with another value than a text failed the response, because texts are joined later."""
    assert text_pieces({"content": [block]}) == pieces
