"""Values: a request as authorization sees it, and the request as authorization left it.

`langgraph_sdk.auth.types` says what stands in the value of each event. A handler may change `metadata`, the
`namespace` and `key` of an item, and what a run's `kwargs` hold; the rest is there to be read.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel

from threadkeep.auth import AuthEvent, AuthValue
from threadkeep.base.problems import ValidationFailed
from threadkeep.runs.request import GraphRunOptions

EVENT_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "threads.create": ("thread_id", "metadata", "if_exists", "ttl"),
    "threads.update": ("metadata", "action", "thread_id"),
    "threads.delete": ("thread_ids",),
    "threads.search": ("metadata", "values", "status", "limit", "offset", "ids"),
    "threads.create_run": (
        "assistant_id",
        "thread_id",
        "metadata",
        "multitask_strategy",
        "if_not_exists",
        "after_seconds",
    ),
    "assistants.create": ("assistant_id", "graph_id", "config", "context", "metadata", "if_exists", "name"),
    "assistants.update": ("graph_id", "config", "context", "metadata", "name", "version"),
    "assistants.search": ("graph_id", "metadata", "limit", "offset"),
    "crons.create": ("assistant_id", "schedule", "end_time", "metadata"),
    "crons.update": ("schedule", "metadata"),
    "crons.search": ("assistant_id", "thread_id", "metadata", "limit", "offset"),
    "store.put": ("key", "value", "index"),
    "store.get": ("key",),
    "store.search": ("filter", "limit", "offset", "query"),
    "store.delete": ("key",),
    "store.list_namespaces": ("suffix", "max_depth", "limit", "offset"),
}
"""By event, the fields of its body or query that its value has, under the same names."""
RUN_FIELDS: Final = frozenset({"threads.create_run", "crons.create", "crons.update"})
DEFAULT_VALUE: Final[Mapping[str, AuthValue]] = {
    "threads.read": {"run_id": None},
    "threads.update": {"thread_id": None, "action": None},
    "threads.delete": {"thread_id": None, "run_id": None},
    "threads.create_run": {
        "assistant_id": None,
        "thread_id": None,
        "run_id": None,
        "status": "pending",
        "prevent_insert_if_inflight": False,
        "multitask_strategy": "enqueue",
        "if_not_exists": "reject",
        "after_seconds": 0,
    },
    "crons.create": {"cron_id": None, "thread_id": None, "user_id": None},
}
"""What a value holds in any case."""
NAMESPACES: Final = ("namespace", "namespace_prefix", "prefix")
"""How the bodies of the store call what handlers know as `namespace`."""
WRITABLE_FIELDS: Final = ("metadata", "key")
KWARGS: Final = tuple(GraphRunOptions.model_fields)

ModelT = TypeVar("ModelT", bound=BaseModel | None)


def auth_value(event: AuthEvent, ids: Mapping[str, UUID], body: BaseModel | None) -> AuthValue:
    """The value of an event: the ids of its path, and what its body or query says."""
    said = {name: _plain(getattr(body, name)) for name in EVENT_FIELDS.get(event, ()) if hasattr(body, name)}
    value: AuthValue = {**DEFAULT_VALUE.get(event, {}), **said}
    if event.startswith("store."):
        value["namespace"] = next((_labels(getattr(body, name)) for name in NAMESPACES if hasattr(body, name)), ())
        return {**value, **ids}
    value["metadata"] = value.get("metadata") or {}
    if event in RUN_FIELDS:
        spec = {name for name in KWARGS if name in (body.model_fields_set if body else ())}
        value["kwargs" if event == "threads.create_run" else "payload"] = {
            name: _plain(getattr(body, name)) for name in sorted(spec)
        }
    return {**value, **ids}


def apply_value(event: AuthEvent, value: AuthValue, body: ModelT) -> ModelT:
    """`body`, or a query, with what was changed in its value.

    Metadata that a handler writes for every event are those of a row or of a search for rows; where a body asks for
    something else by that name, such as the history's, they are nothing to it.
    """
    if body is None:
        return body
    own = [name for name in WRITABLE_FIELDS if name in EVENT_FIELDS.get(event, ()) and name in type(body).model_fields]
    changes = {name: value[name] for name in own if name in value}
    if changes.get("metadata") == {} and not getattr(body, "metadata", None):
        del changes["metadata"]  # what was not said stays unsaid
    for name in NAMESPACES:
        if "namespace" in value and name in type(body).model_fields:
            changes[name] = _checked(value["namespace"])
    said = cast("dict[str, Any]", value.get("kwargs") or value.get("payload") or {})
    known = [name for name in said if name in type(body).model_fields]
    changes |= {name: said[name] for name in known if not isinstance(getattr(body, name), BaseModel)}
    return body.model_copy(update=changes) if changes else body


def _plain(found: object) -> Any:
    return found.model_dump(exclude_unset=True) if isinstance(found, BaseModel) else found


def _checked(namespace: Sequence[str] | None) -> list[str]:
    """A namespace that a handler may have written; Invalid where a label is none, for it would stand for two."""
    labels = list(namespace or ())
    for label in labels:
        if not isinstance(label, str) or not label or "." in label:  # pyright: ignore[reportUnnecessaryIsInstance] - a handler's
            raise ValidationFailed(f"Namespace label {str(label)[:100]!r} must be a non-empty string without periods")
    return labels


def _labels(namespace: str | Sequence[str] | None) -> tuple[str, ...]:
    """A namespace as handlers know it; in a query it comes with periods."""
    if isinstance(namespace, str):
        return tuple(namespace.split(".")) if namespace else ()
    if namespace is None:
        return ()
    return tuple(label for part in namespace for label in part.split("."))
