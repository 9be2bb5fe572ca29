"""State delta: the difference of two states as a JSON Patch (RFC 6902)."""

from typing import Any, TypeAlias, cast

Operation: TypeAlias = dict[str, Any]


def state_delta(before: Any, after: Any) -> list[Operation]:
    """The operations that turn `before` into `after`. Empty if they are equal."""
    operations: list[Operation] = []
    _compare(before, after, "", operations)
    return operations


def _compare(before: Any, after: Any, path: str, operations: list[Operation]) -> None:
    if isinstance(before, dict) and isinstance(after, dict):
        _compare_objects(cast("dict[str, Any]", before), cast("dict[str, Any]", after), path, operations)
    elif isinstance(before, list) and isinstance(after, list):
        _compare_arrays(cast("list[Any]", before), cast("list[Any]", after), path, operations)
    elif _is_other(cast("object", before), cast("object", after)):
        operations.append({"op": "replace", "path": path, "value": after})


def _compare_objects(before: dict[str, Any], after: dict[str, Any], path: str, operations: list[Operation]) -> None:
    operations.extend({"op": "remove", "path": f"{path}/{_escaped(key)}"} for key in before if key not in after)
    for key, value in after.items():
        below = f"{path}/{_escaped(key)}"
        if key in before:
            _compare(before[key], value, below, operations)
        else:
            operations.append({"op": "add", "path": below, "value": value})


def _compare_arrays(before: list[Any], after: list[Any], path: str, operations: list[Operation]) -> None:
    common = min(len(before), len(after))
    for index in range(common):
        _compare(before[index], after[index], f"{path}/{index}", operations)
    # From the end, because each removal moves the items after it.
    operations.extend({"op": "remove", "path": f"{path}/{index}"} for index in range(len(before) - 1, common - 1, -1))
    operations.extend({"op": "add", "path": f"{path}/-", "value": value} for value in after[common:])


def _is_other(before: object, after: object) -> bool:
    return type(before) is not type(after) or before != after  # True equals 1, but is another value in JSON


def _escaped(key: str) -> str:
    """A key as a part of a JSON Pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
