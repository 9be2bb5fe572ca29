"""Limits of search conditions, so that no condition is expensive to search for."""

from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from threadkeep.api.body import children

MAX_CONDITION_KEYS = 100
MAX_CONDITION_DEPTH = 10
MAX_IDS = 1000
"""Largest number of ids in one request."""


def _bounded(condition: dict[str, Any]) -> dict[str, Any]:
    keys = 0
    level: list[object] = [condition]
    for _ in range(MAX_CONDITION_DEPTH):
        keys += sum(len(children(container)) for container in level)
        # Checked at each level, so that a large condition is not read to its end.
        if keys > MAX_CONDITION_KEYS:
            # pydantic would put "Value error" before the text of a ValueError.
            raise PydanticCustomError(
                "too_many_conditions",
                "must not have more than {limit} keys and elements",
                {"limit": MAX_CONDITION_KEYS},
            )
        level = [child for container in level for child in children(container) if isinstance(child, (dict, list))]
        if not level:
            return condition
    raise PydanticCustomError(
        "too_deep", "must not be nested more than {limit} levels deep", {"limit": MAX_CONDITION_DEPTH}
    )


MetadataCondition: TypeAlias = Annotated[dict[str, Any], AfterValidator(_bounded)]
"""JSON that matching rows contain."""
