"""The decoder of bodies: its refusals, and the exact value of each accepted body."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadkeep.api.body import MAX_CONTAINERS, MAX_KEYS, parse_json
from threadkeep.base.problems import ValidationFailed

REPEATED = {
    "plainly": b'{"a":1,"a":2}',
    "within": b'{"x":[{"a":1,"a":1}]}',
    "escaped": b'{"a":1,"\\u0061":2}',
    "with NUL": b'{"a\\u0000":1,"a\\ufffd":2}',
    "with spaces": b'{"a" :1,"a"\n:2}',
    "behind a backslash": b'{"a\\\\":1,"a\\\\":2}',
    "behind a quote": b'{"a\\"":1,"a\\"":2}',
    "hidden by a string": b'{"a":1,"a":2,"s":" \\u003a"}',
    "hidden by several": b'{"a":1,"a":2,"s":"\\u0022\\u003a","t":"x\\":"}',
}


@pytest.mark.parametrize("how", REPEATED)
def test_a_duplicate_key_is_refused(how: str) -> None:
    """Ours: readers differ in which of the two they take."""
    with pytest.raises(ValidationFailed, match="occurs twice in an object"):
        parse_json(REPEATED[how])


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**25, 10**300, -(10**19)])
@pytest.mark.parametrize("around", [b'{"a":%d}', b"[%d]", b"[1, %d]", b"[\n%d]", b"%d", b" %d "])
def test_integer_above_64_bits_is_read_exactly(number: int, around: bytes) -> None:
    """Issue: orjson would make a float of it, and the last digits would be lost."""
    assert json.dumps(parse_json(around % number)) == json.dumps(json.loads(around % number))


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"[1%s]" % (b"0" * 4300), "at most 4,300 digits"),
        (b'{"a": -1%s}' % (b"0" * 5_000_000), "at most 4,300 digits"),
        (b"[%s]" % b",".join([b"9" * 4000] * 501), "more than 2,000,000 digits in total"),
        (b"[%s1%s]" % (b"1," * 100_000, b"0" * 20), "at most 100,000 values"),
        (b'{"a": 1%s, "a": 2}' % (b"0" * 20), "occurs twice"),
        (b"[1%s, NaN]" % (b"0" * 20), "Invalid JSON"),
        (b"[1%s, 1e400]" % (b"0" * 400), "Invalid JSON"),
        (b'[1%s, "\\ud800"]' % (b"0" * 400), "Invalid JSON"),
        (b"\xef\xbb\xbf[1%s]" % (b"0" * 400), "Invalid JSON"),
        (b'[1%s, "\xff"]' % (b"0" * 400), "Invalid JSON"),
        (b"[1%s, 01]" % (b"0" * 400), "Invalid JSON"),
        (b"[1%s, %s]" % (b"0" * 400, b"[" * 101 + b"]" * 101), "nested more than 100"),
        (b"[1%s, %s]" % (b"0" * 400, b"[" * 100_000 + b"]" * 100_000), "Invalid JSON"),
    ],
)
def test_integers_that_would_cost_too_much_are_refused(body: bytes, detail: str) -> None:
    """Ours: Python reads and writes what orjson does not, and takes its time."""
    with pytest.raises(ValidationFailed, match=detail):
        parse_json(body)


def test_many_timestamps_in_nanoseconds_are_no_long_integers() -> None:
    """Ours: nineteen digits are looked at again, and are within 64 bits."""
    values = [1_700_000_000_000_000_000 + number for number in range(150_000)]
    assert parse_json(json.dumps(values).encode()) == values


KEPT: list[Any] = [
    {"n": [2**64 - 1, -(2**63), 0, -1]},
    {"id": "18446744073709551616", "text": "call 18446744073709551616: now", "f": 0.30000000000000004},
    {"arguments": json.dumps({"a": {"b": ":"}}), "url": "http://a:1/b", "time": " : 10:30 :"},
    {'k"': 1, "k\\": 2, "k:": 3, "": 4, " ": 5},
    {"line": "a\r\n\u2028\u2029\x7f", "emoji": "\N{SNOWMAN}\N{GRINNING FACE}"},
    [[{}], {"a": {"a": {"a": 1}}}],
]


@pytest.mark.parametrize("value", KEPT)
@pytest.mark.parametrize("options", [{}, {"indent": 1}, {"separators": (" , ", " : ")}, {"ensure_ascii": False}])
def test_an_accepted_body_is_decoded_unchanged(value: Any, options: dict[str, Any]) -> None:
    """Ours: however it was written."""
    assert parse_json(json.dumps(value, **options).encode()) == value


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (orjson.dumps({str(n): 0 for n in range(MAX_KEYS + 1)}), f"the body has more than {MAX_KEYS} keys"),
        (b"[" + b"[]," * MAX_CONTAINERS + b"[]]", f"the body has more than {MAX_CONTAINERS} objects and arrays"),
        (b"[" * 200_001 + b'"' * 3, f"the body has more than {MAX_CONTAINERS} objects and arrays"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "the body is nested more than 100 levels deep"),
    ],
    ids=["keys", "containers", "unended", "depth"],
)
def test_body_holds_a_bounded_number_of_things(body: bytes, detail: str) -> None:
    """Ours: two bytes of text are sixty of memory."""
    with pytest.raises(ValidationFailed) as caught:
        parse_json(body)
    assert caught.value.detail == detail


def test_text_that_is_full_of_brackets_and_colons_is_a_text() -> None:
    """Ours: what stands in a string is not counted."""
    value = {"code": '{"a":[' * 70_000}

    assert parse_json(orjson.dumps(value)) == value


class Pairs(list[Any]):
    """An object as its pairs, of which two may have one key."""


TEXTS = st.text(alphabet=st.sampled_from('ab\\":{}[] ,0\n\u2028é'), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(TEXTS, inner), max_size=4).map(Pairs),
    max_leaves=12,
)


def _written(value: Any) -> str:
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(key)}:{_written(inner)}" for key, inner in value) + "}"
    return "[" + ",".join(map(_written, value)) + "]" if isinstance(value, list) else json.dumps(value)


def _is_refused(value: Any) -> bool:
    if isinstance(value, Pairs):
        return len({key for key, _ in value}) < len(value) or any(_is_refused(inner) for _, inner in value)
    if isinstance(value, list):
        return any(map(_is_refused, value))
    return False


@given(value=VALUES)
@settings(max_examples=400, deadline=None, derandomize=True, database=None)
def test_the_decoder_refuses_only_values_that_would_change(value: Any) -> None:
    """Ours: against Python's own reader."""
    text = _written(value)
    try:
        found = parse_json(text.encode())
    except ValidationFailed:
        assert _is_refused(value)
    else:
        assert not _is_refused(value)
        assert found == json.loads(text)
