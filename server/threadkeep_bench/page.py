"""The report as one HTML page without scripts, fonts or pictures from elsewhere."""

import statistics
from collections.abc import Sequence
from datetime import datetime
from html import escape

from threadkeep_bench import charts
from threadkeep_bench.charts import Pair, Span
from threadkeep_bench.client import Turn
from threadkeep_bench.plan import Burst, Flood, Measured
from threadkeep_bench.render import NOT_SIMULATED, word
from threadkeep_bench.verdicts import (
    ORIGINAL_CONCURRENT_S,
    ORIGINAL_OVERHEAD,
    ORIGINAL_SEQUENTIAL_S,
    ORIGINAL_SPEED_UP,
    Verdict,
)

STYLE = """
:root { color-scheme: light dark; --ground: #f7f8fa; --card: #fff; --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea;
  --accent: #2266c8; --quiet: #b4bec9; --pale: #f0b75e; --good: #1b7f4b; --bad: #c0312b; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161c; --card: #1a2028; --ink: #e8ecf1; --soft: #9aa6b4;
  --line: #2d3641; --accent: #5b9bf5; --quiet: #55616f; --pale: #c98d35; --good: #4cc38a; --bad: #ff7a70; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 20px 60px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 0 0 4px; }
p { margin: 0 0 14px; color: var(--soft); max-width: 74ch; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px;
  margin-top: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin-top: 22px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; }
.tile b { display: block; font-size: 30px; line-height: 1.15; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 14px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 13px; }
th, td { padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
.held { color: var(--good); font-weight: 600; white-space: nowrap; }
.broken { color: var(--bad); font-weight: 700; white-space: nowrap; }
.untested { color: var(--soft); white-space: nowrap; }
.key i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 6px 0 14px;
  vertical-align: -1px; }
.key i:first-child { margin-left: 0; }
svg { display: block; width: 100%; min-width: 640px; height: auto; }
text { fill: var(--ink); font-size: 14px; font-variant-numeric: tabular-nums; }
.number, .small { fill: var(--soft); } .small { font-size: 12px; } .strong { font-weight: 700; }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.accent { fill: var(--accent); background: var(--accent); } .quiet { fill: var(--quiet); background: var(--quiet); }
.pale { fill: var(--pale); background: var(--pale); } .area { fill-opacity: 0.75; }
.grid { stroke: var(--line); } .cap { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 6 4; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


def page(measured: Measured, verdicts: Sequence[Verdict], at: datetime) -> str:
    """Return the whole page."""
    body = [
        _head(measured, verdicts, at),
        _tiles(measured),
        _promises(verdicts),
        _section("Seven at once", _SEVEN, _pairs(measured)),
        _bursts(measured),
        _flood(measured.flood, measured.burst.slots),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Concurrency report</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


_SEVEN = (
    "The same seven turns one after the other and at once, each pair drawn to the length of its own sequential time. "
    "A mixed set can't be faster than its longest turn."
)


def _head(measured: Measured, verdicts: Sequence[Verdict], at: datetime) -> str:
    broken = sum(verdict.held is False for verdict in verdicts)
    untested = sum(verdict.held is None for verdict in verdicts)
    outcome = f"{broken} of {len(verdicts)} promises broke" if broken else "Every promise that was tested held"
    rest = f"; {untested} could not be tested" if untested else ""
    server = "a server started for this report" if measured.started else measured.url
    note = "" if measured.simulates else f"<p><strong>{NOT_SIMULATED}</strong></p>"
    return (
        f"<h1>{outcome}{rest}</h1><p>Many conversations at once on {escape(server)}, version {escape(measured.version)}, "
        f"measured over HTTP on {at:%d %B %Y, %H:%M} UTC. An answer of the model was simulated to take "
        f"{measured.plan.many_latency_s:.3g} to {measured.plan.burst_latency_s:.3g} s.</p>{note}"
    )


def _tiles(measured: Measured) -> str:
    burst, flood, memory = measured.burst, measured.flood, measured.persistence
    answered = sum(turn.answered for turn in flood.turns)
    remembered = "not tested" if memory is None else f"{memory.remembered} of {len(memory.names)}"
    tiles = (
        (f"{measured.equal.speed_up:.2f}x", f"speed-up of 7 at once; the original test: {ORIGINAL_SPEED_UP}x"),
        (
            f"{burst.overhead:+.0%}",
            f"mean latency of 15 at once over one alone; the original test: {ORIGINAL_OVERHEAD:+.1%}",
        ),
        (f"{answered} of {len(flood.turns)}", "answered, all sent at once"),
        (remembered, "conversations kept through kill -9; the original test: failed"),
    )
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{figure}</b><span>{label}</span></div>' for figure, label in tiles)
        + "</div>"
    )


def _promises(verdicts: Sequence[Verdict]) -> str:
    classes = {True: "held", False: "broken", None: "untested"}
    rows = "".join(
        f"<tr><td>{escape(verdict.subject)}</td><td>{escape(verdict.measured)}</td><td>{escape(verdict.promise)}</td>"
        f'<td>{escape(verdict.original)}</td><td class="{classes[verdict.held]}">{word(verdict.held)}</td></tr>'
        for verdict in verdicts
    )
    head = "<tr><th></th><th>here</th><th>promise</th><th>original test</th><th></th></tr>"
    return f'<section><h2>Promises</h2><div class="wide"><table>{head}{rows}</table></div></section>'


def _section(title: str, text: str, drawing: str) -> str:
    return f'<section><h2>{title}</h2><p>{text}</p><div class="wide">{drawing}</div></section>'


def _pairs(measured: Measured) -> str:
    rows = [
        *(
            Pair(label, race.sequential_s, race.concurrent_s, race.speed_up)
            for label, race in (("Equal length", measured.equal), ("Mixed length", measured.mixed))
        ),
        Pair("The original test", ORIGINAL_SEQUENTIAL_S, ORIGINAL_CONCURRENT_S, ORIGINAL_SPEED_UP),
    ]
    key = '<p class="key"><i class="quiet"></i>one after the other<i class="accent"></i>at once</p>'
    return key + charts.pairs(rows, "Seconds for seven turns one after the other and at once")


def _bursts(measured: Measured) -> str:
    sections = [_burst(measured.burst)]
    if measured.roomy is not None:
        sections.append(_burst(measured.roomy))
    return "".join(sections)


def _burst(burst: Burst) -> str:
    """Draw the last round. A client can't see the start of a run, so each run gets the length of a run alone."""
    # The last round has the warmest caches, and a picture of all rounds would show nothing.
    turns = burst.at_once[-1]
    first = min(turn.sent_s for turn in turns)
    ordered = sorted(turns, key=lambda turn: turn.answered_s)
    spans = [
        Span(
            str(place + 1),
            turn.sent_s - first,
            _began_s(turn, burst.alone_s) - first,
            turn.answered_s - first,
        )
        for place, turn in enumerate(ordered)
    ]
    slots = "" if burst.slots is None else f", {burst.slots} slots"
    text = (
        f"One alone took {burst.alone_s:.2f} s, these on average {burst.mean_s:.2f} s ({burst.overhead:+.1%}). The time "
        "above that of one alone is drawn as waiting."
    )
    key = '<p class="key"><i class="pale"></i>waiting for a slot<i class="accent"></i>running</p>'
    title = f"{len(turns)} at once{slots}"
    return _section(title, text, key + charts.time_line(spans, f"When each of {title} waited and ran"))


def _began_s(turn: Turn, alone_s: float) -> float:
    """Return the start of the run. A wait below a tenth of a run is the server's own work and not its queue."""
    waited_s = turn.latency_s - alone_s
    return turn.sent_s + waited_s if waited_s > alone_s / 10 else turn.sent_s


def _flood(flood: Flood, slots: int | None) -> str:
    size = len(flood.turns)
    latencies = [turn.latency_s for turn in flood.turns if turn.answered]
    # Nothing was answered: the table of promises says so, and a histogram can't be drawn.
    if not latencies:
        return ""
    text = (
        f"Latency of each, seen by its client: median {statistics.median(latencies):.2f} s, longest "
        f"{max(latencies):.2f} s, for answers that take the model {flood.latency_s:.3g} s."
    )
    drawing = charts.histogram(latencies, f"How many of {size} answers came after how many seconds")
    section = _section(f"{size} at once", text, drawing)
    if slots is None or not flood.samples:
        return section
    first = min(turn.sent_s for turn in flood.turns)
    points = [(when - first, running) for when, running in flood.samples if when >= first]
    text = (
        f"Read from the server {len(points)} times: at most {flood.most_running}. By the clock, on average "
        f"{flood.mean_running:.1f}."
    )
    return section + _section("Graphs running meanwhile", text, charts.level(points, slots, "Graphs running over time"))
