"""Thread ids: turn a client's name of a thread into a thread id."""

from typing import Any, Final
from uuid import UUID, uuid5

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.base.problems import ValidationFailed

NAMESPACE: Final = UUID("3f6a1c0e-5d0b-5b5e-9a57-0b6f5f0f2c11")
"""Of the uuid5 of a thread that a client names by a text."""
MAX_TEXT: Final = 255
"""Characters."""


def derived_thread_id(text: str, project: str, identity: str | None) -> UUID:
    """Return the id of the thread named `text`. A UUID is the id itself. Other texts give each principal a thread of its own.

    The same text never means the thread of another principal or project.
    """
    try:
        return UUID(text)
    except ValueError:
        return uuid5(NAMESPACE, "\n".join((project, identity or "", text)))


def named_thread_id(call: AuthorizedRequest[Any, Any], text: str, name: str) -> UUID:
    """Return the id of the thread that the caller names `text` in the field `name`. Raise ValidationFailed if the text is not valid."""
    if not 1 <= len(text) <= MAX_TEXT:
        raise ValidationFailed(f"{name} must have 1 to {MAX_TEXT} characters")
    return derived_thread_id(text, call.state.settings.project_id, call.caller.identity)
