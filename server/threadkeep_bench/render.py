"""The report as a table for a terminal and as JSON for a program."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import orjson

from threadkeep_bench.client import Turn
from threadkeep_bench.plan import Burst, Measured, Memory, Race
from threadkeep_bench.verdicts import Verdict

HEAD = ("", "here", "promise", "original test", "")
NOT_SIMULATED = "The server's agent did not take as long as it was told to: the figures are of its own speed."


def word(verdict: bool | None) -> str:
    """Return the verdict in one or two words."""
    return {True: "held", False: "BROKEN", None: "not tested"}[verdict]


def table(verdicts: Sequence[Verdict]) -> str:
    """Return one line for each promise, in columns."""
    rows = [
        HEAD,
        *(
            (verdict.subject, verdict.measured, verdict.promise, verdict.original, word(verdict.held))
            for verdict in verdicts
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def as_json(measured: Measured, verdicts: Sequence[Verdict], at: datetime) -> bytes:
    """Return every figure and every turn. Times of turns are seconds after the first question of their group."""
    return orjson.dumps(
        {
            "measured_at": at,
            "server": {"url": measured.url, "version": measured.version, "started_for_this": measured.started},
            "plan": asdict(measured.plan) | {"latency_was_simulated": measured.simulates},
            "promises": [asdict(verdict) for verdict in verdicts],
            "seven_equal": _race(measured.equal),
            "seven_mixed": _race(measured.mixed),
            "fifteen": _burst(measured.burst),
            "fifteen_with_a_slot_each": None if measured.roomy is None else _burst(measured.roomy),
            "many": {
                "most_running": measured.flood.most_running,
                "mean_running": measured.flood.mean_running,
                "samples": len(measured.flood.samples),
                "turns": _turns(measured.flood.turns),
            },
            "isolation": _memory(measured.isolation),
            "persistence": None if measured.persistence is None else _memory(measured.persistence),
        },
        option=orjson.OPT_INDENT_2,
    )


def _race(race: Race) -> dict[str, object]:
    return {
        "sequential_s": race.sequential_s,
        "concurrent_s": race.concurrent_s,
        "speed_up": race.speed_up,
        "possible": race.possible,
        "in_turn": _turns(race.in_turn),
        "at_once": [_turns(turns) for turns in race.at_once],
    }


def _burst(burst: Burst) -> dict[str, object]:
    return {
        "slots": burst.slots,
        "alone_s": burst.alone_s,
        "mean_s": burst.mean_s,
        "overhead": burst.overhead,
        "allowed": burst.allowed,
        "at_once": [_turns(turns) for turns in burst.at_once],
    }


def _memory(memory: Memory) -> dict[str, object]:
    return {
        "threads": len(memory.names),
        "remembered": memory.remembered,
        "leaked": memory.leaked,
        "turns": _turns(memory.turns),
    }


def _turns(turns: Sequence[Turn]) -> list[dict[str, object]]:
    first = min(turn.sent_s for turn in turns)
    return [
        {
            "question": turn.question,
            "sent_s": round(turn.sent_s - first, 4),
            "answered_s": round(turn.answered_s - first, 4),
            "answer": turn.conversation[-1] if turn.conversation else None,
            "error": turn.error,
        }
        for turn in turns
    ]
