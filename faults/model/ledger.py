"""The ledger: every operation that a client sent, and the promise in its answer."""

import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NEVER = math.inf
RUNS = frozenset({"run", "fork_run", "resume"})
"""Kinds of operations that make a run."""
CHANGES = RUNS | {"update", "fork_update"}
"""Kinds of operations that add a token to a thread's log."""
JOURNAL_LINES = 24


@dataclass(slots=True, kw_only=True)
class Operation:
    """One request, or several with one Idempotency-Key."""

    kind: str
    thread_id: str
    client: int
    server: int
    token: str = ""
    sent: float = 0.0
    """Wall-clock seconds. Postgres on the same machine reads the same clock."""
    answered: float = NEVER
    status: int = 0
    """Of the answer. 0: the connection was lost, and the operation may or may not have happened."""
    settled: float = NEVER
    """An operation that is sent after this moment follows this one in the log."""
    run_id: str = ""
    about: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def refused(self) -> bool:
        """The answer says that nothing was done. A 503 does not say so."""
        return 400 <= self.status < 500

    @property
    def acknowledged(self) -> bool:
        """The answer says that it was done."""
        return 200 <= self.status < 300 and "error" not in self.about

    def line(self, began: float) -> str:
        """One line of a journal, with seconds since `began`."""
        took = "unanswered" if self.answered == NEVER else f"{self.status} at {self.answered - began:.3f}"
        about = " ".join(f"{key}={_short(value)}" for key, value in self.about.items())
        run = f" run {self.run_id[-6:]}" if self.run_id else ""
        return (
            f"{self.sent - began:9.3f} client {self.client} server {self.server} {self.kind} {self.token}{run}: "
            f"{took} {about}"
        ).rstrip()


def _short(value: object) -> str:
    text = f"[{len(value)}]" if isinstance(value, list) else str(value)
    return text if len(text) < 60 else text[:57] + "..."


@dataclass(slots=True, kw_only=True)
class Violation:
    """An invariant that does not hold."""

    invariant: str
    round: int
    thread_id: str
    text: str
    tokens: tuple[str, ...] = ()
    at: float = NEVER
    """When it happened, wall-clock seconds, if that is known."""
    journal: Sequence[str] = ()
    """The operations near that time on the thread."""

    def __str__(self) -> str:
        lines = "".join(f"\n      {line}" for line in self.journal)
        return f"[{self.invariant}] round {self.round}, thread {self.thread_id[-6:]}: {self.text}{lines}"


@dataclass(slots=True)
class Ledger:
    """Of one scenario."""

    only: frozenset[str] = frozenset()
    """Invariants to report. Empty: all."""
    began: float = field(default_factory=time.time)
    operations: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    """By thread, since it was last verified. Operations without a thread have an empty name."""
    of_token: dict[str, Operation] = field(default_factory=dict[str, Operation])
    of_thread: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Every token that was ever sent to a thread."""
    forked_at: set[str] = field(default_factory=set[str])
    """Checkpoints at which a client asked for a fork."""
    pruned: set[str] = field(default_factory=set[str])
    """Threads whose older checkpoints a client or a TTL may have removed."""
    copies: dict[str, Operation] = field(default_factory=dict[str, Operation])
    """By the id of the new thread."""
    missing: set[str] = field(default_factory=set[str])
    """Threads that were last reported as deleted: a hint for clients."""
    done: Counter[str] = field(default_factory=Counter[str])
    answers: Counter[str] = field(default_factory=Counter[str])
    violations: list[Violation] = field(default_factory=list[Violation])
    kills: int = 0
    round: int = 0
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def begin(self, operation: Operation, prefix: str = "") -> Operation:
        """Note an operation before it is sent. With `prefix` it gets a token that nobody else has."""
        if prefix:
            operation.token = f"{prefix}{next(self._numbers)}"
            self.of_token[operation.token] = operation
            self.of_thread[operation.thread_id].add(operation.token)
        # Last, so that everything of the operation is noted before any of its effects can be observed.
        operation.sent = time.time()
        # Reads promise nothing, and most operations are preceded by one.
        if operation.kind != "read":
            self.operations[operation.thread_id].append(operation)
        self.done[operation.kind] += 1
        return operation

    def unique(self, prefix: str) -> str:
        """A name that nobody else has."""
        return f"{prefix}{next(self._numbers)}"

    def report(self, invariant: str, thread_id: str, text: str, tokens: Iterable[str] = (), at: float = NEVER) -> None:
        """Note a violation. The same one is noted once."""
        if self.only and invariant not in self.only:
            return
        if not any((v.invariant, v.thread_id, v.text) == (invariant, thread_id, text) for v in self.violations):
            self.violations.append(
                Violation(
                    invariant=invariant,
                    round=self.round,
                    thread_id=thread_id,
                    text=text,
                    tokens=tuple(tokens),
                    at=at,
                )
            )

    def explain(self, recorded: Mapping[str, Sequence[tuple[float, str]]]) -> None:
        """Give each violation of this round its journal. `recorded` has Postgres's records by thread."""
        for violation in self.violations:
            if violation.round == self.round and not violation.journal:
                violation.journal = self._near(violation, recorded.get(violation.thread_id, []))

    def _near(self, violation: Violation, recorded: Sequence[tuple[float, str]]) -> Sequence[str]:
        operations = [*self.operations[violation.thread_id], *self.operations[""]]
        lines = [(operation.sent, operation.line(self.began)) for operation in operations]
        lines += [(at, f"{at - self.began:9.3f}   Postgres: {text}") for at, text in recorded]
        lines.sort()
        sent = [operation.sent for operation in operations if operation.token in violation.tokens]
        at = min([violation.at, *sent])
        first = max(0, sum(line[0] < at for line in lines) - JOURNAL_LINES // 2)
        # Half of the lines before the violation, and more of them if it is near the end.
        return [line for _, line in lines[max(0, min(first, len(lines) - JOURNAL_LINES)) :][:JOURNAL_LINES]]
