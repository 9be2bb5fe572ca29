"""Events: what a request is about to do, in the words of `langgraph_sdk.Auth`. The table of routes names one for each."""

from typing import Literal, TypeAlias

Event: TypeAlias = Literal[
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
]
"""`langgraph_sdk.Auth`'s resources and actions; `public`: for anybody, and it sees no tenant's rows."""
