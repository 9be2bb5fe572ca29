"""Authorization: the events that must be allowed for each operation, with the names of `langgraph_sdk.Auth`.

A line of the route table names one event. `PERMISSIONS` lists all events of an operation that touches several resources,
or that several API surfaces offer. Each event is checked once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, TypeAlias

AuthEvent: TypeAlias = Literal[
    "assistants.create",
    "assistants.read",
    "assistants.update",
    "assistants.delete",
    "assistants.search",
    "threads.create",
    "threads.read",
    "threads.update",
    "threads.delete",
    "threads.search",
    "threads.create_run",
    "crons.create",
    "crons.read",
    "crons.update",
    "crons.delete",
    "crons.search",
    "store.put",
    "store.get",
    "store.search",
    "store.delete",
    "store.list_namespaces",
    "public",
    "caller",
]
"""Resources and actions of `langgraph_sdk.Auth`, and two more. `public` needs no authentication and reads no tenant's rows.
`caller` needs authentication but no scope, and reads only data about the caller."""

Resource: TypeAlias = Literal["assistant", "thread", "cron"]
Operation: TypeAlias = Literal[
    "run.start",
    "run.read",
    "run.follow",
    "run.cancel",
    "run.delete",
    "cron.create",
    "cron.update",
    "assistant.create",
    "assistant.delete",
    "thread.create",
    "thread.copy",
    "thread.command",
    "chat.create",
    "response.create",
    "task.send",
    "page.run",
    "response.cancel",
    "tool.call",
]
"""Operations that touch several resources, or that several API surfaces offer."""
Condition: TypeAlias = Literal[
    "always",
    "the assistant is not a graph's own",
    "the thread may be created",
    "the row exists already",
    "the strategy stops other runs",
    "the run is cancelled on disconnect",
    "the threads are deleted too",
    "a thread is named",
    "a question is answered",
]


@dataclass(frozen=True, slots=True)
class Permission:
    """An event that must be allowed, and the resource that is then looked up with the filters of this event."""

    event: AuthEvent
    resource: Resource
    condition: Condition = "always"


RUN_START: Final = (
    Permission("threads.create_run", "thread"),
    Permission("assistants.read", "assistant", "the assistant is not a graph's own"),
    Permission("threads.create", "thread", "the thread may be created"),
    Permission("threads.update", "thread", "the strategy stops other runs"),
)
PERMISSIONS: Final[Mapping[Operation, tuple[Permission, ...]]] = {
    "run.start": RUN_START,
    "run.read": (Permission("threads.read", "thread"),),
    "run.follow": (
        Permission("threads.read", "thread"),
        Permission("threads.update", "thread", "the run is cancelled on disconnect"),
    ),
    "run.cancel": (Permission("threads.update", "thread"),),
    "run.delete": (Permission("threads.delete", "thread"),),
    "cron.create": (Permission("crons.create", "cron"), *RUN_START),
    "cron.update": (Permission("crons.update", "cron"), *RUN_START),
    "assistant.create": (
        Permission("assistants.create", "assistant"),
        Permission("assistants.read", "assistant", "the row exists already"),
    ),
    "assistant.delete": (
        Permission("assistants.delete", "assistant"),
        Permission("threads.delete", "thread", "the threads are deleted too"),
    ),
    "thread.create": (
        Permission("threads.create", "thread"),
        Permission("threads.read", "thread", "the row exists already"),
    ),
    "thread.copy": (Permission("threads.read", "thread"), Permission("threads.create", "thread")),
    "thread.command": (Permission("threads.read", "thread"), *RUN_START),
    "chat.create": (Permission("threads.read", "thread", "a thread is named"), *RUN_START),
    "response.create": (Permission("threads.read", "thread", "a thread is named"), *RUN_START),
    "page.run": (Permission("threads.read", "thread"), *RUN_START),
    "task.send": (Permission("threads.read", "thread", "a thread is named"), *RUN_START),
    "response.cancel": (Permission("threads.read", "thread"), Permission("threads.update", "thread")),
    "tool.call": (Permission("threads.read", "thread", "a question is answered"), *RUN_START),
}
"""Operation -> permissions that it needs, in the order in which they are checked (docs/how-to/authentication.md)."""


@cache
def permissions(operation: Operation, conditions: frozenset[Condition] = frozenset()) -> tuple[Permission, ...]:
    """Return the permissions that an operation needs if these conditions hold."""
    return tuple(
        permission
        for permission in PERMISSIONS[operation]
        if permission.condition == "always" or permission.condition in conditions
    )
