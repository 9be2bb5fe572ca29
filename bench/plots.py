"""Plots: SVG as text, readable in light and dark and on a phone."""

from collections.abc import Sequence
from html import escape

WIDTH, PITCH = 480.0, 50.0
STYLE = (
    "text{font:15px system-ui,sans-serif;fill:#1f2328}rect{fill:#8b94a0}.ours{fill:#2f7ed8}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"
)


def bars(rows: Sequence[tuple[str, float]]) -> str:
    """Draw a bar a row, its title above it and its number after it."""
    highest = max(value for _, value in rows)
    parts: list[str] = []
    for place, (title, value) in enumerate(rows):
        top = place * PITCH
        # 60: the number after the longest bar needs room.
        length = max(1.0, (WIDTH - 60) * value / highest)
        ours = ' class="ours"' if title.startswith("Threadkeep") else ""
        parts += [
            f'<text x="0" y="{top + 16}">{escape(title)}</text>',
            f'<rect x="0" y="{top + 22}" width="{length:.1f}" height="18" rx="3"{ours}/>',
            f'<text x="{length + 8:.1f}" y="{top + 37}">{value:,.0f}</text>',
        ]
    height = len(rows) * PITCH
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" width="{WIDTH:.0f}" role="img">'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )
