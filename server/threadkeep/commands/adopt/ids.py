"""Ids: the id that a thread of the source gets here."""

import re
from typing import Final
from uuid import UUID, uuid5

NAMESPACE: Final = UUID("5b0a4e2e-2d0c-5e52-9d5c-6c1c7f0a3b51")
"""The namespace of ids that are no UUIDs. It never changes, because clients may compute the ids (docs/how-to/moving.md)."""
# UUID() also takes braces and other hyphens, so different ids of a source could become the same.
USUAL_FORM: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def thread_id_of(original: str) -> UUID:
    """The same id if it is a UUID with hyphens, else the UUID of version 5 of its text."""
    return UUID(original) if USUAL_FORM.fullmatch(original) else uuid5(NAMESPACE, original)
