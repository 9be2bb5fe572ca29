"""Known: the differences that are meant, each with its reason, from differences.toml."""

import json
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from comparing import ABSENT, Difference

FILE = Path(__file__).with_name("differences.toml")


@dataclass(slots=True, kw_only=True)
class Known:
    """A reason, and the fields that differ for it. `*` in a pattern fits anything."""

    reason: str
    fields: list[str]
    steps: list[str] = field(default_factory=lambda: ["*"])
    reference: str = "*"
    """A pattern for the reference's answer as JSON."""
    ours: str = "*"
    found: list[Difference] = field(default_factory=list)
    """What it explained in this comparison."""

    def explains(self, difference: Difference) -> bool:
        return (
            any(fnmatchcase(difference.field, pattern) for pattern in self.fields)
            and any(fnmatchcase(difference.step, pattern) for pattern in self.steps)
            and fnmatchcase(written(difference.reference), self.reference)
            and fnmatchcase(written(difference.ours), self.ours)
        )


def read() -> list[Known]:
    """The known differences, in the file's order: the first that fits explains."""
    return [Known(**entry) for entry in tomllib.loads(FILE.read_text())["difference"]]


def unexplained(differences: list[Difference], known: list[Known]) -> list[Difference]:
    """Those without a reason; the others are added to the one that explains them."""
    left: list[Difference] = []
    for difference in differences:
        reason = next((entry for entry in known if entry.explains(difference)), None)
        (reason.found if reason else left).append(difference)
    return left


def written(value: Any) -> str:
    """A value as JSON; what is not there as it is called."""
    return ABSENT if value == ABSENT else json.dumps(value, ensure_ascii=False)
