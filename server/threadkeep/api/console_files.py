"""Console files: those of the built-in page, as they are sent.

They are read and compressed once, when the application is made, so that a request for one reads no disk and no database.
"""

import gzip
import hashlib
import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from threadkeep.project import Http

FOLDER: Path = Path(__file__).parent.parent / "console"
"""The built page."""
INDEX: Final = "index.html"
HASHED: Final = re.compile(r".*[.-][A-Za-z0-9_]{8,}\.[a-z0-9]+")
"""A file whose name changes with its content."""
IMMUTABLE: Final = "public, max-age=31536000, immutable"
REVALIDATED: Final = "no-cache"
COMPRESSED: Final = frozenset({".html", ".js", ".mjs", ".css", ".svg", ".txt", ".json"})
PERMISSIONS: Final = (
    "accelerometer", "autoplay", "camera", "display-capture", "encrypted-media", "fullscreen", "geolocation", "gyroscope",
    "hid", "idle-detection", "magnetometer", "microphone", "midi", "payment", "picture-in-picture",
    "publickey-credentials-get", "screen-wake-lock", "serial", "usb", "web-share", "xr-spatial-tracking",
)  # fmt: skip
"""Features of a browser that the page never uses."""
SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify threadkeep",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": ", ".join(f"{feature}=()" for feature in PERMISSIONS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleFile:
    """A file of the page in the form in which it is sent."""

    body: bytes
    compressed: bytes | None
    """With gzip. None: it is not worth it."""
    headers: Mapping[str, str]
    """Headers of each response, including 304."""


def is_served(http: Http) -> bool:
    """Whether there is a page: it was built, and langgraph.json does not take it away."""
    return not http.disable_ui and (FOLDER / INDEX).is_file()


def read_files(http: Http) -> Mapping[str, ConsoleFile]:
    """Return the files of the page by name. Empty if the page was not built."""
    if not is_served(http):
        return {}
    paths = sorted(path for path in FOLDER.iterdir() if path.is_file() and not path.name.startswith("."))
    return {path.name: _file(path) for path in paths}


def _file(path: Path) -> ConsoleFile:
    body = path.read_bytes()
    # Without a time in the header, all processes send the same bytes.
    compressed = gzip.compress(body, 9, mtime=0) if path.suffix in COMPRESSED else None
    kind = mimetypes.types_map.get(path.suffix, "application/octet-stream")
    # Python 3.11 has another type for scripts, the outdated one.
    kind = {".js": "text/javascript", ".mjs": "text/javascript"}.get(path.suffix, kind)
    headers = {
        **SECURITY_HEADERS,
        "content-type": f"{kind}; charset=utf-8" if path.suffix in COMPRESSED else kind,
        "cache-control": IMMUTABLE if HASHED.fullmatch(path.name) else REVALIDATED,
        "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "vary": "Accept-Encoding",
    }
    return ConsoleFile(body=body, compressed=compressed, headers=headers)
