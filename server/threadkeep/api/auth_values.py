"""Auth values: the value of a request that authorization handlers get, and the request with their changes.

`langgraph_sdk.auth.types` defines the value of each event. A handler may change `metadata`, the `namespace` and `key` of
an item, and the contents of a run's `kwargs`. All other fields are read-only.
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
"""Event -> fields that are copied from the body or query to the value, with the same names."""
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
"""Event -> fields that its value always has."""
NAMESPACES: Final = ("namespace", "namespace_prefix", "prefix")
"""Names in the bodies of the store for the value's `namespace`."""
WRITABLE_FIELDS: Final = ("metadata", "key")
KWARGS: Final = tuple(GraphRunOptions.model_fields)

ModelT = TypeVar("ModelT", bound=BaseModel | None)


def auth_value(event: AuthEvent, ids: Mapping[str, UUID], body: BaseModel | None) -> AuthValue:
    """Return the value of an event, from the ids of the path and the body or query."""
    fields = {name: _plain(getattr(body, name)) for name in EVENT_FIELDS.get(event, ()) if hasattr(body, name)}
    value: AuthValue = {**DEFAULT_VALUE.get(event, {}), **fields}
    if event.startswith("store."):
        value["namespace"] = next((_labels(getattr(body, name)) for name in NAMESPACES if hasattr(body, name)), ())
        return {**value, **ids}
    # Handlers write the owner into this object, even if the request has no metadata.
    value["metadata"] = value.get("metadata") or {}
    if event in RUN_FIELDS:
        # Defaults are left out, so that a handler sees only the fields of the client.
        spec = {name for name in KWARGS if name in (body.model_fields_set if body else ())}
        value["kwargs" if event == "threads.create_run" else "payload"] = {
            name: _plain(getattr(body, name)) for name in sorted(spec)
        }
    return {**value, **ids}


def apply_value(event: AuthEvent, value: AuthValue, body: ModelT) -> ModelT:
    """Return `body` (or a query) with the handler's changes of its value.

    Metadata of a value is that of a row or of a search for rows. A body whose `metadata` has another meaning, such as
    that of the history, does not get it.
    """
    if body is None:
        return body
    fields = EVENT_FIELDS.get(event, ())
    writable = [name for name in WRITABLE_FIELDS if name in fields and name in type(body).model_fields]
    changes = {name: value[name] for name in writable if name in value}
    if changes.get("metadata") == {} and not getattr(body, "metadata", None):
        del changes["metadata"]  # an unset field stays unset
    for name in NAMESPACES:
        if "namespace" in value and name in type(body).model_fields:
            # `model_copy` validates nothing.
            changes[name] = _checked(value["namespace"])
    kwargs = cast("dict[str, Any]", value.get("kwargs") or value.get("payload") or {})
    names = [name for name in kwargs if name in type(body).model_fields]
    # Nested models were shown as plain objects. They stay as they are, because a copy would not parse them again.
    changes |= {name: kwargs[name] for name in names if not isinstance(getattr(body, name), BaseModel)}
    return body.model_copy(update=changes) if changes else body


def _plain(field: object) -> Any:
    return field.model_dump(exclude_unset=True) if isinstance(field, BaseModel) else field


def _checked(namespace: Sequence[str] | None) -> list[str]:
    """Check a namespace that a handler may have changed. Raise ValidationFailed for a label with a period: it means two."""
    labels = list(namespace or ())
    for label in labels:
        if not isinstance(label, str) or not label or "." in label:  # pyright: ignore[reportUnnecessaryIsInstance] - a handler may write any type
            raise ValidationFailed(f"Namespace label {str(label)[:100]!r} must be a non-empty string without periods")
    return labels


def _labels(namespace: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return a namespace as labels. A query has it as text with periods."""
    if isinstance(namespace, str):
        return tuple(namespace.split(".")) if namespace else ()
    if namespace is None:
        return ()
    return tuple(label for part in namespace for label in part.split("."))
