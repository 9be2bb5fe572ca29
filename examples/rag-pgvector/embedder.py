"""An embedder that needs no model: the words of a text, and pieces of them, are hashed into a vector.

Texts are near if they share words, or most of a word. For their meaning, name a model in langgraph.json instead, such as
`"embed": "openai:text-embedding-3-small", "dims": 1536`.
"""

import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import sqrt

DIMS = 512
"""As in langgraph.json."""
PIECE = 4
"""Letters of a piece. With pieces, `reimbursed` is near `reimbursement`."""


async def embed(texts: Sequence[str]) -> list[list[float]]:
    """A vector of length 1 for each text."""
    return [_vector(text) for text in texts]


def _vector(text: str) -> list[float]:
    counts = [0.0] * DIMS
    for feature in _features(text):
        counts[int.from_bytes(blake2b(feature.encode(), digest_size=4).digest()) % DIMS] += 1
    length = sqrt(sum(count * count for count in counts)) or 1
    return [count / length for count in counts]


def _features(text: str) -> Iterator[str]:
    for word in re.findall(rf"\w{{{PIECE},}}", text.lower()):
        yield word
        yield from (word[start : start + PIECE] for start in range(len(word) - PIECE + 1))
