"""Comparing: two servers' answers to the same steps, field by field."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from recording import Step

ABSENT = "(absent)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A field of an answer that the two servers do not fill alike."""

    step: str
    request: str
    field: str
    """Dotted: `body.0.kwargs.input`, `headers.location`, `events.3.data`."""
    reference: Any
    ours: Any


def compare(reference: Sequence[Step], ours: Sequence[Step]) -> Iterator[Difference]:
    """What differs, step by step; a step that one server never came to is a difference of its own."""
    answers = {step.name: step for step in ours}
    for step in reference:
        other = answers.pop(step.name, None)
        pairs = _answers(step.answer, other.answer) if other else iter([("step", "came to it", ABSENT)])
        for name, theirs, mine in pairs:
            yield Difference(step=step.name, request=step.request, field=name, reference=theirs, ours=mine)
    for step in answers.values():
        yield Difference(step=step.name, request=step.request, field="step", reference=ABSENT, ours="came to it")


def _answers(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Field by field; of answers with different statuses only these and the bodies as a whole."""
    if theirs.get("status") == mine.get("status"):
        yield from _fields("", theirs, mine)
        return
    yield "status", theirs.get("status", ABSENT), mine.get("status", ABSENT)
    yield "body", _content(theirs), _content(mine)


def _content(answer: Mapping[str, Any]) -> Any:
    return answer.get("body", answer.get("events", answer.get("stopped", ABSENT)))


def _fields(name: str, theirs: Any, mine: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        for key in dict.fromkeys([*theirs, *mine]):
            yield from _fields(f"{name}.{key}" if name else str(key), theirs.get(key, ABSENT), mine.get(key, ABSENT))
    elif isinstance(theirs, list) and isinstance(mine, list):
        for place, (first, second) in enumerate(_pairs(theirs, mine)):
            yield from _fields(f"{name}.{place}", first, second)
    elif theirs != mine or isinstance(theirs, bool) != isinstance(mine, bool):
        yield name, theirs, mine


def _pairs(theirs: list[Any], mine: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Items that belong together: events of one name, and else those at one place."""
    if all(isinstance(item, Mapping) and "event" in item for item in [*theirs, *mine]):
        yield from _aligned(theirs, mine)
        return
    for place in range(max(len(theirs), len(mine))):
        yield (theirs[place] if place < len(theirs) else ABSENT, mine[place] if place < len(mine) else ABSENT)


def _aligned(theirs: list[Any], mine: list[Any]) -> Iterator[tuple[Any, Any]]:
    matcher = SequenceMatcher(
        None, [_sort(event) for event in theirs], [_sort(event) for event in mine], autojunk=False
    )
    for kind, first, first_end, second, second_end in matcher.get_opcodes():
        if kind == "equal":
            yield from zip(theirs[first:first_end], mine[second:second_end], strict=True)
        else:
            yield from ((event, ABSENT) for event in theirs[first:first_end])
            yield from ((ABSENT, event) for event in mine[second:second_end])


def _sort(event: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an event is, but for its content; LangChain's own say it in their data."""
    data = event.get("data")
    return (
        (event["event"], *(data.get(key) for key in ("event", "type"))) if isinstance(data, dict) else (event["event"],)
    )
