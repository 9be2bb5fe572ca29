"""The plan: the amounts of the measurement, and its results. Nothing here waits or sends."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from threadkeep_bench.client import Turn

SIMPLE, MIDDLE, COMPLEX = 0.3, 0.6, 1.0
"""The model's time for a question, as a share of the longest."""

QUESTIONS: tuple[tuple[str, float], ...] = (
    ("Say hello to a customer who has just signed up.", SIMPLE),
    ("Thank the customer for waiting.", SIMPLE),
    ("Put the customer's complaint into one sentence.", MIDDLE),
    ("Which of the two offers suits a family of five, and why?", MIDDLE),
    ("Write the answer to the letter of last week, point by point.", MIDDLE),
    ("Compare the three contracts and name every clause that differs.", COMPLEX),
    ("Plan the move of the office over four weeks, with who does what.", COMPLEX),
)
"""Seven turns of mixed complexity."""

NAMES = (
    *("Adelheid", "Bruno", "Clarissa", "Diego", "Edith", "Farida", "Gretchen", "Hubert", "Ingrid", "Jonas", "Keiko"),
    *("Lorenzo", "Mirjam", "Nuria", "Oskar", "Petronella", "Quentin", "Rosalind", "Stefan", "Tamara", "Ulrike"),
    *("Veronica", "Wanda", "Yusuf"),
)
"""The names that the threads get. No name is part of another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The amounts of the measurement. With the defaults a report takes about a minute."""

    latency_s: float = 1.5
    """Simulated latency in seconds of each of the seven equal answers."""
    rounds: int = 3
    """Rounds of seven turns at once. The median counts."""
    many: int = 200
    """Turns of the large burst."""
    many_share: float = 1 / 6
    """The latency of each turn of the burst, as a share of `latency_s`. It is short, because the burst runs in many waves."""

    @property
    def burst_rounds(self) -> int:
        """Return the rounds of fifteen turns at once: one less, because a round takes four times as long."""
        return max(1, self.rounds - 1)

    @property
    def mixed_latency_s(self) -> float:
        """Latency in seconds of the longest of the seven answers of mixed length."""
        return self.latency_s * 2 / 3

    @property
    def burst_latency_s(self) -> float:
        """Latency in seconds of each of the 15 turns. It is longer, because the server's own share is measured to 5 %."""
        return 2 * self.latency_s

    @property
    def many_latency_s(self) -> float:
        """Latency in seconds of each turn of the burst."""
        return self.many_share * self.latency_s


def span_s(turns: Sequence[Turn]) -> float:
    """Return the seconds from the first question to the last answer."""
    return max(turn.answered_s for turn in turns) - min(turn.sent_s for turn in turns)


def answered(turns: Sequence[Turn]) -> int:
    """Return the number of questions that got their own answer."""
    return sum(turn.answered for turn in turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """The same turns sequentially and at once."""

    shares: tuple[float, ...]
    """The latency of each turn, as a share of the longest."""
    in_turn: tuple[Turn, ...]
    at_once: tuple[tuple[Turn, ...], ...]
    """One tuple for each round."""

    @property
    def sequential_s(self) -> float:
        """Return the seconds of the sequential turns."""
        return span_s(self.in_turn)

    @property
    def concurrent_s(self) -> float:
        """Return the seconds of the turns at once, the median of the rounds."""
        return statistics.median(span_s(turns) for turns in self.at_once)

    @property
    def speed_up(self) -> float:
        """Return the speed-up: sequential seconds over seconds at once."""
        return self.sequential_s / self.concurrent_s

    @property
    def possible(self) -> float:
        """Return the speed-up of a server without any cost: the sum of the latencies over the longest."""
        return sum(self.shares) / max(self.shares)

    @property
    def complete(self) -> bool:
        """Return whether every turn got its answer."""
        return all(turn.answered for turns in (self.in_turn, *self.at_once) for turn in turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Fifteen equal turns at once, compared with one alone."""

    slots: int | None
    alone: Turn
    at_once: tuple[tuple[Turn, ...], ...]

    @property
    def alone_s(self) -> float:
        """Return the latency of one turn alone."""
        return self.alone.latency_s

    @property
    def mean_s(self) -> float:
        """Return the mean latency of the turns at once, the median of the rounds."""
        return statistics.median(statistics.fmean(turn.latency_s for turn in turns) for turns in self.at_once)

    @property
    def overhead(self) -> float:
        """Return the average overhead of the turns at once: 0.2 is 20 % more than alone."""
        return self.mean_s / self.alone_s - 1

    @property
    def allowed(self) -> float:
        """Return the allowed overhead: the second wave that the slots force, and 5 % for the server."""
        if self.slots is None:
            # Without the slots the waves can't be computed, so this is a guess for servers that tell no limits.
            return 0.25
        size = len(self.at_once[0])
        # Turn n runs in wave ceil(n / slots), and each wave takes as long as one turn alone.
        return statistics.fmean(math.ceil((place + 1) / self.slots) for place in range(size)) - 1 + 0.05

    @property
    def fewest_answered(self) -> int:
        """Return the number of answers in the worst round."""
        return min(answered(turns) for turns in self.at_once)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """Many turns at once, and the number of graphs that ran meanwhile."""

    latency_s: float
    turns: tuple[Turn, ...]
    samples: tuple[tuple[float, int], ...]
    """Pairs: the time on the clock of the turns, and the number of running graphs in the server's load."""

    @property
    def most_running(self) -> int | None:
        """Return the highest number of running graphs that the server reported. None if it reports no load."""
        return max((running for _, running in self.samples), default=None)

    @property
    def mean_running(self) -> float:
        """Return the average number of graphs at once, computed from the clock and `latency_s`, not from the server's report."""
        return answered(self.turns) * self.latency_s / span_s(self.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Threads that got a name each, and then a question about it."""

    names: tuple[str, ...]
    turns: tuple[Turn, ...]

    @property
    def remembered(self) -> int:
        """Return the number of threads that answered with their own name."""
        return sum(
            turn.answered and name in turn.conversation[-1] for name, turn in zip(self.names, self.turns, strict=True)
        )

    @property
    def leaked(self) -> int:
        """Return the number of threads with another thread's name anywhere."""
        return sum(
            # The whole conversation, because another thread's name may also be in a message before the answer.
            any(other in text for other in self.names if other != name for text in turn.conversation)
            for name, turn in zip(self.names, self.turns, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All measurements of one report."""

    url: str
    version: str
    started: bool
    """The report started the server itself, so it could kill it."""
    plan: Plan
    equal: Race
    mixed: Race
    burst: Burst
    roomy: Burst | None
    """The burst on a server with a slot for each turn. None if it was not measured."""
    flood: Flood
    isolation: Memory
    persistence: Memory | None
    """None if the server could not be killed."""

    @property
    def simulates(self) -> bool:
        """Return whether the server's agent took the requested latency."""
        # 1 % less, because the clocks of two processes differ a little.
        return self.burst.alone_s >= 0.99 * self.plan.burst_latency_s
