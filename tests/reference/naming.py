"""Naming: ids and times, which differ at every request, become names by their order of appearance."""

import re
import uuid
from collections.abc import Mapping
from typing import Any

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d{4,5}")
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?"
PATTERN = re.compile(rf"(?P<time>{TIME})|(?P<before>/threads/|/runs/)?(?P<id>{UUID}|\b[0-9a-f]{{32}}\b)")
NAMESPACE = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""Of the ids that graphs' own assistants have on every server."""
KINDS = {"/threads/": "thread", "/runs/": "run"}
CLOCKS = ("__request_start_time_ms__",)
"""Keys whose numbers are times."""


class Names:
    """The names that ids have in one case on one server.

    Those of the graphs' own assistants and of the case's threads hold for the whole case, others for one answer.
    """

    def __init__(self, graphs: list[str], threads: list[str]) -> None:
        self._lasting = {str(uuid.uuid5(NAMESPACE, graph)): f"<assistant of {graph}>" for graph in graphs}
        self._lasting |= {thread: f"<thread {number}>" for number, thread in enumerate(threads, 1)}
        self._made = len(threads)
        self._given: dict[str, str] = {}
        self._count: dict[str, int] = {}

    def answer(self, answer: Mapping[str, Any]) -> Any:
        """An answer in names. Metadata gets its names last: what one server leaves out there must not shift the rest."""
        self._given, self._count = dict(self._lasting), {"thread": self._made}
        self.named(_without_metadata(answer))
        return self.named(answer)

    def named(self, value: Any, key: str = "") -> Any:
        """`value` with names in place of its ids; `key` is the field it stands in, and says what it is the id of."""
        if isinstance(value, Mapping):
            items = (
                sorted(value.items(), key=lambda item: PATTERN.sub("", str(item[1])))
                if _by_id(value)
                else value.items()
            )
            return {self._text(str(name), "id"): self.named(item, str(name)) for name, item in items}
        if isinstance(value, list):
            return [self.named(item, key) for item in value]
        if isinstance(value, str):
            kind = key.removesuffix("_id") if key.endswith("_id") else "id"
            return self._text(value, kind)
        return "<time>" if key in CLOCKS and isinstance(value, int | float) else value

    def _text(self, text: str, kind: str) -> str:
        def name(found: re.Match[str]) -> str:
            if found["time"]:
                return "<time>"
            before = found["before"] or ""
            return before + self._name(found["id"], KINDS.get(before, kind))

        return PATTERN.sub(name, ADDRESS.sub("<address>", text))

    def _name(self, identifier: str, kind: str) -> str:
        if identifier not in self._given:
            kind = kind.removeprefix("parent_")
            self._count[kind] = self._count.get(kind, 0) + 1
            self._given[identifier] = f"<{kind} {self._count[kind]}>"
        return self._given[identifier]


def _by_id(value: Mapping[Any, Any]) -> bool:
    """Its keys are ids, in no order that means something."""
    return bool(value) and all(PATTERN.fullmatch(str(key)) for key in value)


def _without_metadata(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_metadata(item) for key, item in value.items() if key not in {"metadata", "kwargs"}}
    return [_without_metadata(item) for item in value] if isinstance(value, list) else value
