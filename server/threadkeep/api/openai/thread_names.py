"""Thread names: the thread that a request names, and whether the thread or the client has the whole conversation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from threadkeep.api.agents.thread_ids import MAX_TEXT, derived_thread_id
from threadkeep.api.openai.errors import InvalidParameter

THREAD_HEADER: Final = "x-thread-id"
CONVERSATION_HEADERS: Final = ("x-conversation-id", "x-openwebui-chat-id")
"""Headers of chat interfaces, which send the whole conversation each time."""
TASK_HEADER: Final = "x-openwebui-task"
"""Open WebUI asks for titles and tags under the name of the chat. They are not part of its conversation."""
TEMPORARY: Final = "local:"
"""The beginning of the name of a temporary chat of Open WebUI."""

Owner: TypeAlias = Literal["thread", "client"]
"""The owner of the whole conversation: the thread, or the client, which then sends all of it."""


@dataclass(frozen=True, slots=True)
class NamedThread:
    """The thread that a request names."""

    thread_id: UUID
    owner: Owner


def named_thread(
    headers: Mapping[str, str], metadata: Mapping[str, Any], *, project: str, identity: str | None
) -> NamedThread | None:
    """Return the thread that a request names, or None. Raise InvalidParameter if the name is too long.

    A UUID is the id of the thread. For another name, the id is made from the caller and the name.
    """
    if headers.get(TASK_HEADER):
        return None
    name, place = headers.get(THREAD_HEADER, ""), THREAD_HEADER
    owner: Owner = "thread"
    if not name:
        name, place = metadata.get("thread_id") or "", "metadata.thread_id"
    if not name:
        owner = "client"
        name, place = next(((headers[each], each) for each in CONVERSATION_HEADERS if headers.get(each)), ("", ""))
    # A temporary chat must not be stored.
    if not name or name.startswith(TEMPORARY):
        return None
    if len(name) > MAX_TEXT:
        raise InvalidParameter(f"must have at most {MAX_TEXT} characters", param=place)
    return NamedThread(derived_thread_id(name, project, identity), owner)
