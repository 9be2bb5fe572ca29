"""The verdicts: each promise beside the measurement and the result of the original test."""

from dataclasses import dataclass

from threadkeep_bench.plan import Burst, Flood, Measured, Memory, Race

ORIGINAL_SPEED_UP = 2.92
ORIGINAL_CONCURRENT_S = 11.26
ORIGINAL_SEQUENTIAL_S = 32.0
ORIGINAL_OVERHEAD = 0.546

SPEED_UP = 6.5
"""The speed-up of seven equal turns. A server without any cost would reach 7."""
NOT_TOLD = "not tested: the server tells no load"
NEEDS_A_KILL = "not tested: needs a restart"
NEEDS_SLOTS = "not tested: needs 15 slots"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One line of the report."""

    subject: str
    measured: str
    promise: str
    original: str
    held: bool | None
    """None if it could not be tested."""


def judge(measured: Measured) -> list[Verdict]:
    """Return the verdict on every promise, in the order of the scenarios."""
    return [
        _equal(measured.equal),
        _mixed(measured.mixed),
        _all_answered(measured.burst),
        _overhead(measured.burst),
        _roomy(measured.roomy),
        _flood_answered(measured.flood),
        _cap(measured),
        _isolation(measured.isolation),
        _remembered(measured.isolation),
        _persistence(measured.persistence),
    ]


def _equal(race: Race) -> Verdict:
    return Verdict(
        subject="7 at once, equal length: speed-up",
        measured=f"{race.speed_up:.2f}x",
        promise=f"at least {SPEED_UP}x",
        original=f"{ORIGINAL_SPEED_UP}x",
        # A server that refuses turns would be fast, so all of them must be answered.
        held=race.complete and race.speed_up >= SPEED_UP,
    )


def _mixed(race: Race) -> Verdict:
    """Return the verdict on mixed turns. The longest turn limits the speed-up, so the promise is the same share of the possible speed-up."""
    least = race.possible * SPEED_UP / len(race.shares)
    return Verdict(
        subject="7 at once, mixed length: speed-up",
        measured=f"{race.speed_up:.2f}x of {race.possible:.2f}x possible",
        promise=f"at least {least:.2f}x",
        original=f"{ORIGINAL_SPEED_UP}x",
        held=race.complete and race.speed_up >= least,
    )


def _all_answered(burst: Burst) -> Verdict:
    size = len(burst.at_once[0])
    return Verdict(
        subject=f"{size} at once: answered",
        measured=f"{burst.fewest_answered} of {size}",
        promise=f"{size} of {size}",
        original="15 of 15",
        held=burst.fewest_answered == size,
    )


def _overhead(burst: Burst) -> Verdict:
    slots = "" if burst.slots is None else f", {burst.slots} slots"
    return Verdict(
        subject=f"{len(burst.at_once[0])} at once: mean over one alone{slots}",
        measured=f"{burst.overhead:+.1%}",
        promise=f"at most {burst.allowed:+.0%}",
        original=f"{ORIGINAL_OVERHEAD:+.1%}",
        held=burst.overhead <= burst.allowed,
    )


def _roomy(burst: Burst | None) -> Verdict:
    if burst is not None:
        return _overhead(burst)
    return Verdict(
        subject="15 at once: mean over one alone, 15 slots",
        measured=NEEDS_SLOTS,
        promise="at most +5%",
        original=f"{ORIGINAL_OVERHEAD:+.1%}",
        held=None,
    )


def _flood_answered(flood: Flood) -> Verdict:
    size, answered = len(flood.turns), sum(turn.answered for turn in flood.turns)
    return Verdict(
        subject=f"{size} at once: answered, each its own question",
        measured=f"{answered} of {size}",
        promise=f"{size} of {size}",
        original="not tried",
        held=answered == size,
    )


def _cap(measured: Measured) -> Verdict:
    """Return the verdict on the slots, by the server's report and by the clock: with more graphs than slots, the burst would end too soon."""
    flood, slots = measured.flood, measured.burst.slots
    subject = f"{len(flood.turns)} at once: most graphs running"
    if slots is None or flood.most_running is None:
        return Verdict(subject=subject, measured=NOT_TOLD, promise="the slots", original="not tried", held=None)
    # Without the simulated latency the clock says nothing about the number of graphs.
    by_clock = flood.mean_running if measured.simulates else 0.0
    return Verdict(
        subject=subject,
        measured=f"{flood.most_running} ({flood.mean_running:.1f} by the clock)",
        promise=f"at most {slots}",
        original="not tried",
        # 2 % for the time between the end of a run and its answer at the client.
        held=flood.most_running <= slots and by_clock <= slots * 1.02,
    )


def _isolation(memory: Memory) -> Verdict:
    return Verdict(
        subject=f"{len(memory.names)} threads told a name: see another's",
        measured=str(memory.leaked),
        promise="0",
        original="none",
        held=memory.leaked == 0,
    )


def _remembered(memory: Memory) -> Verdict:
    size = len(memory.names)
    return Verdict(
        subject=f"{size} threads told a name: know their own",
        measured=f"{memory.remembered} of {size}",
        promise=f"{size} of {size}",
        original="had issues",
        held=memory.remembered == size,
    )


def _persistence(memory: Memory | None) -> Verdict:
    subject = "names known after kill -9 and a restart"
    if memory is None:
        return Verdict(subject=subject, measured=NEEDS_A_KILL, promise="all", original="failed", held=None)
    size = len(memory.names)
    return Verdict(
        subject=subject,
        measured=f"{memory.remembered} of {size}",
        promise=f"{size} of {size}",
        original="failed",
        held=memory.remembered == size and memory.leaked == 0,
    )
