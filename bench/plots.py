"""Plots: SVG as text, that reads on light and on dark."""

from collections.abc import Sequence
from html import escape

LEFT, WIDTH, PITCH = 290.0, 720.0, 34.0


def bars(rows: Sequence[tuple[str, float]]) -> str:
    """A bar a row, its number behind it."""
    highest = max(value for _, value in rows)
    parts: list[str] = []
    for place, (title, value) in enumerate(rows):
        top = place * PITCH + 8
        length = max(1.0, (WIDTH - LEFT - 70) * value / highest)
        colour = "#2f7ed8" if title.startswith("Threadkeep") else "#8b94a0"
        parts += [
            f'<text x="{LEFT - 10}" y="{top + 16}" text-anchor="end">{escape(title)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="22" rx="3" fill="{colour}"/>',
            f'<text x="{LEFT + length + 8:.1f}" y="{top + 16}">{value:,.0f}</text>',
        ]
    height = len(rows) * PITCH + 10
    style = 'font-family="sans-serif" font-size="13" fill="#7a828c"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" {style}>'
        f"{''.join(parts)}</svg>\n"
    )
