"""Report: counts what a call of `threadkeep adopt` has taken over, and why it has left out the rest."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["assistants", "threads", "checkpoints", "store items", "crons"]
KINDS: Final[tuple[Kind, ...]] = ("assistants", "threads", "checkpoints", "store items", "crons")
MAX_EXAMPLES: Final = 5
"""The most ids that are told with one reason. A source may have millions of threads."""


@dataclass(slots=True)
class Reason:
    """The rows that were left out for one reason."""

    count: int = 0
    examples: list[str] = field(default_factory=list[str])


@dataclass(slots=True, kw_only=True)
class Report:
    """The result of one call."""

    source: str
    """The source in words."""
    dry_run: bool = False
    taken: Counter[Kind] = field(default_factory=Counter[Kind])
    here: Counter[Kind] = field(default_factory=Counter[Kind])
    """Rows that an earlier call has taken over."""
    skipped: dict[tuple[Kind, str], Reason] = field(default_factory=dict[tuple[Kind, str], Reason])
    notes: dict[tuple[Kind, str], Reason] = field(default_factory=dict[tuple[Kind, str], Reason])
    """Rows that were taken over, but not as a whole."""
    is_cut: bool = False
    """There is more to take over, because `--limit` has ended the call."""

    def skip(self, kind: Kind, name: str, reason: str) -> None:
        """Count a row that is left out."""
        _add(self.skipped, kind, name, reason)

    def note(self, kind: Kind, name: str, reason: str) -> None:
        """Count a row that is taken over without a part of it."""
        _add(self.notes, kind, name, reason)

    @property
    def lines(self) -> list[str]:
        """The report for a person."""
        verb = "would be taken over" if self.dry_run else "taken over"
        counts = ", ".join(f"{self.taken[kind]:,} {kind}" for kind in KINDS)
        lines = [f"{verb} from {self.source}: {counts}"]
        if self.here.total():
            lines.append(
                "already here: " + ", ".join(f"{self.here[kind]:,} {kind}" for kind in KINDS if self.here[kind])
            )
        lines += _reason_lines("not taken over", self.skipped)
        lines += _reason_lines("taken over in part", self.notes)
        if self.is_cut:
            lines.append("there is more: call the command again to go on")
        return lines


def _add(reasons: dict[tuple[Kind, str], Reason], kind: Kind, name: str, reason: str) -> None:
    entry = reasons.setdefault((kind, reason), Reason())
    entry.count += 1
    if len(entry.examples) < MAX_EXAMPLES:
        entry.examples.append(name)


def _reason_lines(title: str, reasons: dict[tuple[Kind, str], Reason]) -> list[str]:
    lines: list[str] = []
    for (kind, reason), entry in reasons.items():
        more = ", ..." if entry.count > len(entry.examples) else ""
        lines.append(f"{title}, {entry.count:,} {kind}: {reason} ({', '.join(entry.examples)}{more})")
    return lines
