"""Browsers that the tests drive: Debian's Chromium."""

from pathlib import Path

_PLACES = ("/usr/bin/chromium-headless-shell", "/usr/bin/chromium")
CHROMIUM = next((path for path in map(Path, _PLACES) if path.exists()), None)
"""The package without windows if it is there, because it takes less time. None: none is installed."""
MISSING = "Debian's Chromium is missing: apt-get install chromium-headless-shell"
"""Why tests are skipped without it."""
