"""Charts: small SVG drawings as text. The page's CSS classes colour them, so that the page alone decides light or dark.

Lengths are in the drawing's own units, and a full line has `WIDTH` of them. The page scales the drawing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 880.0
RIGHT = 24.0
AXIS = 26.0
"""The height of the numbers of an axis."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The same work done in two ways, in seconds."""

    label: str
    sequential_s: float
    concurrent_s: float
    speed_up: float
    """The ratio from its source. The quotient of the rounded seconds may differ."""


@dataclass(frozen=True, slots=True)
class Span:
    """One request on the time line: the seconds at which it was sent, began to run and was answered."""

    label: str
    sent_s: float
    began_s: float
    answered_s: float


@dataclass(frozen=True, slots=True)
class Axis:
    """Turns seconds into positions in the drawing."""

    left: float
    highest: float

    def at(self, value: float) -> float:
        """Return the position of `value`."""
        return self.left + (WIDTH - RIGHT - self.left) * value / self.highest

    def ticks(self) -> list[float]:
        """Return four to eight round numbers from 0 on."""
        # Rounded up below to 1, 2, 2.5 or 5 of its power of ten, because people read those easily.
        rough = self.highest / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough)
        # 1e-9: a division such as 0.6 / 0.2 gives a little less than 3, and the last tick would be missing.
        return [step * place for place in range(int(self.highest / step + 1e-9) + 1)]


def pairs(rows: Sequence[Pair], name: str) -> str:
    """Draw two bars in a row: the sequential time with the full length, and the concurrent time as its share."""
    start, full, height = 190.0, WIDTH - 190.0 - 150.0, 74.0
    parts: list[str] = []
    for place, row in enumerate(rows):
        top = place * height
        short = full * row.concurrent_s / row.sequential_s
        parts += [
            _text(0, top + 33, row.label, "label"),
            _bar(start, top + 8, full, 20, "quiet", f"one after the other: {_seconds(row.sequential_s)}"),
            _text(start + full + 10, top + 23, _seconds(row.sequential_s), "number"),
            _bar(start, top + 32, short, 20, "accent", f"at once: {_seconds(row.concurrent_s)}"),
            _text(start + short + 10, top + 47, _seconds(row.concurrent_s), "number"),
            _text(start + short + 78, top + 47, f"{row.speed_up:.2f}x", "strong"),
        ]
    return _drawing(parts, len(rows) * height, name)


def time_line(rows: Sequence[Span], name: str) -> str:
    """Draw a row for each request: pale while it waits for a slot, full while it runs."""
    pitch = 22.0
    axis = Axis(left=60, highest=max(row.answered_s for row in rows))
    bottom = len(rows) * pitch + 6
    parts = _grid(axis, bottom)
    for place, row in enumerate(rows):
        top = place * pitch + 5
        waited, ran = row.began_s - row.sent_s, row.answered_s - row.began_s
        parts.append(_text(0, top + 12, row.label, "number"))
        if waited > 0:
            parts.append(
                _bar(
                    axis.at(row.sent_s),
                    top,
                    axis.at(row.began_s) - axis.at(row.sent_s),
                    14,
                    "pale",
                    f"waited {waited:.2f} s",
                )
            )
        parts.append(
            _bar(
                axis.at(row.began_s),
                top,
                axis.at(row.answered_s) - axis.at(row.began_s),
                14,
                "accent",
                f"ran {ran:.2f} s",
            )
        )
    return _drawing(parts, bottom + AXIS, name)


def histogram(values: Sequence[float], name: str) -> str:
    """Draw a histogram: forty equal intervals from 0 to the highest value."""
    bins, height = 40, 170.0
    axis = Axis(left=40, highest=max(values))
    counts = [0] * bins
    for value in values:
        # The highest value is at the end of the last interval, not at the beginning of one more.
        counts[min(bins - 1, int(value / axis.highest * bins))] += 1
    parts = _grid(axis, height)
    for place, count in enumerate(counts):
        start, end = axis.highest * place / bins, axis.highest * (place + 1) / bins
        tall = (height - 22) * count / max(counts)
        if count:
            parts += [
                _bar(
                    axis.at(start) + 1,
                    height - tall,
                    axis.at(end) - axis.at(start) - 2,
                    tall,
                    "accent",
                    f"{count} between {start:.2f} and {end:.2f} s",
                ),
                _text((axis.at(start) + axis.at(end)) / 2, height - tall - 5, str(count), "small middle"),
            ]
    return _drawing(parts, height + AXIS, name)


def level(points: Sequence[tuple[float, int]], cap: int, name: str) -> str:
    """Draw a number over time as steps, and the limit that it must not exceed."""
    height, top = 150.0, 24.0
    # One sample alone has the time 0, which would be a division by zero.
    axis = Axis(left=40, highest=max(0.001, points[-1][0]))
    highest = max(cap, *(value for _, value in points))

    def up(value: float) -> float:
        return height - (height - top) * value / highest

    stair = f"M{axis.at(points[0][0]):.1f} {height:.1f}"
    for when, value in points:
        stair += f"H{axis.at(when):.1f}V{up(value):.1f}"
    parts = [
        *_grid(axis, height),
        f'<path class="accent area" d="{stair}V{height:.1f}Z"><title>{escape(name)}</title></path>',
        f'<line class="cap" x1="{axis.left}" x2="{WIDTH - RIGHT}" y1="{up(cap):.1f}" y2="{up(cap):.1f}"/>',
        _text(0, up(cap) + 4, str(cap), "number"),
        _text(0, height + 4, "0", "number"),
        _text(WIDTH - RIGHT, up(cap) - 7, f"{cap} slots", "small end"),
    ]
    return _drawing(parts, height + AXIS, name)


def _grid(axis: Axis, bottom: float) -> list[str]:
    """Draw a faint line and a number at each tick."""
    parts: list[str] = []
    for tick in axis.ticks():
        x = axis.at(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom:.1f}"/>')
        parts.append(_text(x, bottom + 18, f"{tick:g} s", "small middle"))
    return parts


def _bar(x: float, y: float, width: float, height: float, kind: str, hint: str) -> str:
    # A bar of no width could not be seen, nor pointed at for its title.
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{max(1.0, width):.1f}" height="{height:.1f}" rx="3"'
    return f'<rect class="{kind}" {shape}><title>{escape(hint)}</title></rect>'


def _seconds(value: float) -> str:
    """Return the number with hundredths if it has any."""
    return f"{value:.2f}".rstrip("0").rstrip(".") + " s"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _drawing(parts: Sequence[str], height: float, name: str) -> str:
    box = f'viewBox="0 0 {WIDTH:.0f} {height:.0f}"'
    return f'<svg {box} role="img" aria-label="{escape(name, quote=True)}">{"".join(parts)}</svg>'
