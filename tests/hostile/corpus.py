"""Corpus: hostile requests, made from the table of routes: every route with every bad value."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args
from urllib.parse import quote

from pydantic import BaseModel

from threadkeep.api.operation import Operation
from threadkeep.api.routes import TABLE

JSON = {"content-type": "application/json"}
RUN = {"assistant_id": "chain", "input": {"items": []}}
DEEP = 100_000
BIG = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One request, its path already encoded."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


FITTING: Mapping[str, Any] = {
    "POST /assistants": {"graph_id": "chain"},
    "POST /assistants/{assistant_id}/latest": {"version": 1},
    "POST /threads/prune": {"thread_ids": []},
    "POST /threads/{thread_id}/state": {"values": {"items": ["x"]}},
    "POST /threads/{thread_id}/state/checkpoint": {"checkpoint": {}},
    "POST /threads/{thread_id}/runs": RUN,
    "POST /threads/{thread_id}/runs/stream": RUN,
    "POST /threads/{thread_id}/runs/wait": RUN,
    "POST /runs": RUN,
    "POST /runs/stream": RUN,
    "POST /runs/wait": RUN,
    "POST /runs/batch": [RUN],
    "POST /runs/cancel": {"status": "pending"},
    "POST /runs/crons": RUN | {"schedule": "0 0 1 1 *"},
    "POST /threads/{thread_id}/runs/crons": RUN | {"schedule": "0 0 1 1 *"},
    "PUT /store/items": {"namespace": ["hostile"], "key": "k", "value": {}},
    "DELETE /store/items": {"namespace": ["hostile"], "key": "k"},
    "POST /query": {"query": "hello"},
}
"""A body that each route takes; of the others, an empty object is one."""

BODIES: tuple[bytes, ...] = (
    b"",
    b" ",
    b"null",
    b"true",
    b"1",
    b'"text"',
    b"[]",
    b"[[]]",
    b"{",
    b"[",
    b'{"a":1',
    b'{"a":1}}',
    b'{"a":1} x',
    b"{'a':1}",
    b'{"a":1,}',
    b"{a:1}",
    b'{"metadata":{"n":NaN}}',
    b'{"metadata":{"n":Infinity}}',
    b'{"metadata":{"n":-Infinity}}',
    b'{"metadata":{"n":1e999}}',
    b'{"metadata":{"n":18446744073709551616}}',
    b'{"metadata":{"n":-9223372036854775809}}',
    b'{"metadata":{"n":' + b"9" * 5000 + b"}}",
    b'{"metadata":{"s":"\\ud800"}}',
    b'{"metadata":{"\\udfff":1}}',
    b'{"metadata":{"s":"a\\u0000b"}}',
    b'{"metadata":{"a\\u0000":1}}',
    b'{"metadata":{"s":"\x00"}}',
    b'{"metadata":{"s":"\n"}}',
    b'{"metadata":{"s":"\xff\xfe"}}',
    b'{"metadata":{"s":"\xed\xa0\x80"}}',
    b'{"metadata":{"s":"\xc0\xaf"}}',
    '{"metadata":{}}'.encode("utf-16"),
    '{"metadata":{}}'.encode("utf-16-be"),
    '{"metadata":{}}'.encode("utf-32"),
    b"\xef\xbb\xbf{}",
    b'{"metadata":{"a":1,"a":2}}',
    b'{"metadata":{"a":1,"\\u0061":2}}',
    b'{"metadata":{},"metadata":{"a":1}}',
    b'{"metadata":' + b'{"a":' * 101 + b"1" + b"}" * 102,
    b'{"metadata":' * DEEP,
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"metadata":{' + b",".join(b'"k%d":1' % n for n in range(100_001)) + b"}}",
    b'{"metadata":{' + b",".join(b'"k%d":1' % n for n in range(101)) + b"}}",
    b'{"values":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":1}}}}}}}}}}}}',
    b'{"input":{"lc":1,"type":"constructor","id":["os","system"],"kwargs":{"command":"true"}}}',
    b'{"input":{"lc":2,"type":"constructor","id":["builtins","eval"],"args":["1"]}}',
    b'{"metadata":{"__proto__":{"x":1},"constructor":{"prototype":{}}}}',
    b'{"config":{"configurable":{"thread_id":"00000000-0000-0000-0000-000000000000","checkpoint_ns":"x\\u0000"}}}',
    b'{"config":{"recursion_limit":1000000000}}',
)
"""Whole bodies that no route is to choke on; a few are good for some."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    BIG - 1,
    1e308,
    "",
    "\0",
    "' OR 1=1 --",
    "%_\\",
    "../../etc/passwd",
    "\u2028\r\nevent: end\r\n\r\n",
    "a" * 20_000,
    [],
    [None],
    [[[]]],
    {},
    {"": None},
    {"$gt": 1},
    {"a\0": "b\0"},
    {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}}}}},
)
"""What each field of each body is given in turn."""

QUERIES: tuple[str, ...] = ("", "-1", "1e9", str(BIG), "%00", "%ff%fe", "[]", "x" * 4000, "a&{name}=b", "true,false")
SEGMENTS: tuple[str, ...] = (
    "%00",
    "..%2f..%2fetc%2fpasswd",
    "%0d%0aX-Injected:%201",
    "x" * 8000,
    "'%20OR%201=1--",
    "%f0%9f%92%a9",
    "%ff%fe",
    "00000000-0000-0000-0000-000000000000",
    "%7b00000000-0000-0000-0000-000000000000%7d",
    "-1",
    "%2e%2e",
    "null",
)
HEADERS: tuple[Mapping[str, str], ...] = (
    {"content-encoding": "gzip"},
    {"content-encoding": "br, gzip"},
    {"content-type": "text/plain; charset=utf-16"},
    {"x-request-id": "x" * 5000},
    {"x-request-id": "a\tb"},
    {"last-event-id": "9" * 400},
    {"last-event-id": "\xff-1"},
    {"prefer": "return=minimal;" * 100},
    {"origin": "null", "access-control-request-method": "EVIL"},
    {"accept": "application/xml"},
    {"authorization": "Bearer " + "x" * 4000},
    {"x-api-key": "\xe9"},
    {"idempotency-key": "k" * 5000},
    {"idempotency-key": "\xff"},
    {"expect": "a-miracle"},
)


def attacks(ids: Mapping[str, str]) -> Iterator[Attack]:
    """All of them; `ids` are of what is there, and may be lost. What deletes comes last."""
    for operation in sorted(TABLE, key=lambda one: one.method == "DELETE"):
        yield from _by_path(operation, ids)
        yield from _by_query(operation, ids)
        yield from _by_header(operation, ids)
        yield from _by_body(operation, ids)


def fitting(operation: Operation) -> bytes | None:
    """A body that the route takes."""
    if not operation.documented_body:
        return None
    return json.dumps(FITTING.get(f"{operation.method} {operation.path}", {})).encode()


def _by_path(operation: Operation, ids: Mapping[str, str]) -> Iterator[Attack]:
    names = [name for name in ids if f"{{{name}}}" in operation.path]
    for name in names:
        for segment in SEGMENTS:
            path = _filled(operation, {**ids, name: segment})
            yield Attack(method=operation.method, path=path, body=fitting(operation), headers=JSON)


def _by_query(operation: Operation, ids: Mapping[str, str]) -> Iterator[Attack]:
    fields = operation.query.model_fields if operation.query else {"unknown": None}
    for name in fields:
        for value in QUERIES:
            path = f"{_filled(operation, ids)}?{name}={value.format(name=name)}"
            yield Attack(method=operation.method, path=path, body=fitting(operation), headers=JSON)


def _by_header(operation: Operation, ids: Mapping[str, str]) -> Iterator[Attack]:
    for headers in HEADERS:
        yield Attack(
            method=operation.method, path=_filled(operation, ids), body=fitting(operation), headers={**JSON, **headers}
        )


def _by_body(operation: Operation, ids: Mapping[str, str]) -> Iterator[Attack]:
    if not operation.documented_body:
        return
    path = _filled(operation, ids)
    for body in BODIES:
        yield Attack(method=operation.method, path=path, body=body, headers=JSON)
    good = FITTING.get(f"{operation.method} {operation.path}", {})
    for name in fields_of(operation.documented_body):
        for value in VALUES:
            bad = [{**good[0], name: value}] if isinstance(good, list) else {**good, name: value}
            yield Attack(method=operation.method, path=path, body=json.dumps(bad).encode(), headers=JSON)


def fields_of(model: Any) -> list[str]:
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return next((names for inner in get_args(model) if (names := fields_of(inner))), [])


def _filled(operation: Operation, ids: Mapping[str, str]) -> str:
    path = operation.path
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    return path if path.isascii() else quote(path)
