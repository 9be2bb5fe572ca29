"""The plan: how much is asked for, and what was measured when it had been done. Nothing here waits or sends."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from threadkeep_bench.client import Turn

SIMPLE, MIDDLE, COMPLEX = 0.3, 0.6, 1.0
"""How long a question takes the model, as a share of the longest."""

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
"""What the threads are told; no name is part of another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The amounts. With the defaults a report takes about a minute."""

    latency_s: float = 1.5
    """The simulated latency of each of the seven answers of equal length."""
    rounds: int = 3
    """How often seven at once are measured; the median counts."""
    many: int = 200
    """Turns of the large burst."""
    many_share: float = 1 / 6
    """How long each of those takes, as a share of `latency_s`; short, for they come in many waves."""

    @property
    def burst_rounds(self) -> int:
        """How often fifteen at once are measured: once less, for a round takes four times as long."""
        return max(1, self.rounds - 1)

    @property
    def mixed_latency_s(self) -> float:
        """Of the longest of the seven answers of mixed length."""
        return self.latency_s * 2 / 3

    @property
    def burst_latency_s(self) -> float:
        """Of each of the 15: longer, for the share that is the server's own is looked for to 5 %."""
        return 2 * self.latency_s

    @property
    def many_latency_s(self) -> float:
        """Of each of the many."""
        return self.many_share * self.latency_s


def span_s(turns: Sequence[Turn]) -> float:
    """From the first question sent to the last answer."""
    return max(turn.answered_s for turn in turns) - min(turn.sent_s for turn in turns)


def answered(turns: Sequence[Turn]) -> int:
    """How many questions got their own answer."""
    return sum(turn.answered for turn in turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """The same turns one after the other, and at once."""

    shares: tuple[float, ...]
    """How long each takes, as a share of the longest."""
    in_turn: tuple[Turn, ...]
    at_once: tuple[tuple[Turn, ...], ...]
    """One tuple a round."""

    @property
    def sequential_s(self) -> float:
        """One after the other."""
        return span_s(self.in_turn)

    @property
    def concurrent_s(self) -> float:
        """At once; the median of the rounds."""
        return statistics.median(span_s(turns) for turns in self.at_once)

    @property
    def speed_up(self) -> float:
        """How much sooner all are done."""
        return self.sequential_s / self.concurrent_s

    @property
    def possible(self) -> float:
        """The speed-up of a server that costs nothing: the sum over the longest."""
        return sum(self.shares) / max(self.shares)

    @property
    def complete(self) -> bool:
        """Every turn got its answer."""
        return all(turn.answered for turns in (self.in_turn, *self.at_once) for turn in turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Fifteen equal turns at once, beside one alone."""

    slots: int | None
    alone: Turn
    at_once: tuple[tuple[Turn, ...], ...]

    @property
    def alone_s(self) -> float:
        """The latency of one alone."""
        return self.alone.latency_s

    @property
    def mean_s(self) -> float:
        """The mean latency of those at once; the median of the rounds."""
        return statistics.median(statistics.fmean(turn.latency_s for turn in turns) for turns in self.at_once)

    @property
    def overhead(self) -> float:
        """What company costs on average: 0.2 is 20 % more than alone."""
        return self.mean_s / self.alone_s - 1

    @property
    def allowed(self) -> float:
        """What the slots alone cost, where some must wait for a second wave, and 5 % for the server."""
        if self.slots is None:
            return 0.25
        size = len(self.at_once[0])
        return statistics.fmean(math.ceil((place + 1) / self.slots) for place in range(size)) - 1 + 0.05

    @property
    def fewest_answered(self) -> int:
        """In the worst round."""
        return min(answered(turns) for turns in self.at_once)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """Many turns at once, and how many graphs ran meanwhile."""

    latency_s: float
    turns: tuple[Turn, ...]
    samples: tuple[tuple[float, int], ...]
    """When, on the clock of the turns, and how many graphs the server told were running."""

    @property
    def most_running(self) -> int | None:
        """By the server's word; None where it tells no load."""
        return max((running for _, running in self.samples), default=None)

    @property
    def mean_running(self) -> float:
        """By the clock: so many graphs of `latency_s` seconds ran at once on average, whatever the server tells."""
        return answered(self.turns) * self.latency_s / span_s(self.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Threads that were each told a name, and then asked for it."""

    names: tuple[str, ...]
    asked: tuple[Turn, ...]

    @property
    def remembered(self) -> int:
        """Threads whose answer says their own name."""
        return sum(
            turn.answered and name in turn.conversation[-1] for name, turn in zip(self.names, self.asked, strict=True)
        )

    @property
    def leaked(self) -> int:
        """Threads in which another's name is found anywhere."""
        return sum(
            any(other in text for other in self.names if other != name for text in turn.conversation)
            for name, turn in zip(self.names, self.asked, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that one report measured."""

    url: str
    version: str
    started: bool
    """The report started the server itself, and so could kill it."""
    plan: Plan
    equal: Race
    mixed: Race
    burst: Burst
    roomy: Burst | None
    """The burst on a server with a slot for each turn; None where there was none."""
    flood: Flood
    isolation: Memory
    persistence: Memory | None
    """None where the server could not be killed."""

    @property
    def simulates(self) -> bool:
        """The server's agent took as long as it was told to."""
        return self.burst.alone_s >= 0.99 * self.plan.burst_latency_s
