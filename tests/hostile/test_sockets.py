"""A WebSocket under frames that mean harm: each is answered or refused, and none breaks the server."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import anyio
import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from conftest import MakeKey, serving
from hostile.attackers import ANSWER_S, each_of
from hostile.corpus import BODIES, HEADERS, QUERIES, RUN, SEGMENTS, VALUES
from hostile.stored import PARTICULAR, respond_params, start_params
from threadkeep.settings import Settings

ALL_S = 400.0
HONEST_CODES = {1000, 1001, 1002, 1003, 1007, 1009, 1012, 1013}
"""How a server may close a socket that breaks the protocol, beside 4400 to 4499."""
SUBSCRIPTION = {"channels": ["values", "lifecycle"]}
DEEP = {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}}}}}
PARAMS: dict[str, tuple[str, ...]] = {
    "subscription.subscribe": ("channels", "namespaces", "depth", "since"),
    "subscription.unsubscribe": ("subscription_id",),
    "subscription.reconnect": ("subscriptions",),
    "agent.getTree": ("run_id",),
}
LISTS: tuple[Any, ...] = (
    ["unknown"],
    ["custom:"],
    ["custom:" + "x" * 10_000],
    ["values"] * 101,
    [["a"] * 51],
    [["\ud800"]],
    [[1]],
    ["not-a-uuid"],
    str(uuid4()),
    2**53,
    1.5,
)


def commands() -> Iterator[dict[str, Any]]:
    """Commands with parts that are none."""
    yield from ({"id": 1, "method": "run.start", "params": params} for params in start_params())
    yield from ({"id": 1, "method": "input.respond", "params": params} for params in respond_params())
    for method, names in PARAMS.items():
        good = SUBSCRIPTION if method == "subscription.subscribe" else {}
        for name in names:
            for value in (*VALUES, *LISTS):
                yield {"id": 1, "method": method, "params": {**good, name: value}}
    for value in (*VALUES, *LISTS):
        yield {"id": value, "method": "agent.getTree", "params": {}}
        yield {"id": 1, "method": value, "params": {}}
        yield {"id": 1, "method": "run.start", "params": value}
        yield {"id": 1, "method": "input.respond", "params": {"responses": [value, {"interrupt_id": value}]}}
    yield {"id": 1, "method": "run.start", "params": {**RUN, "config": PARTICULAR["config"]}}


class Client:
    """Sends frames on a socket, and opens another one where it is closed."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._address = f"{url.replace('http', 'ws')}/threads/{{}}/stream/events"
        self._headers = headers
        self._socket: ClientConnection | None = None
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def send(self, frame: bytes, *, text: bool = True) -> None:
        """Send one frame and judge what comes of it."""
        shown = f"{'text' if text else 'binary'} {frame[:300]!r}"
        try:
            with anyio.fail_after(ANSWER_S):
                socket = await self._opened()
                await socket.send(frame, text=text)
                while True:
                    told = json.loads(await socket.recv())
                    if told["type"] in {"success", "error"} and "step" not in told:
                        break
            self.answers[told.get("error", "success")] += 1
        except ConnectionClosed as closed:
            self._socket = None
            code = closed.rcvd.code if closed.rcvd else 1006
            self.answers[str(code)] += 1
            if code not in HONEST_CODES and not 4400 <= code < 4500:
                self.wrong.append(f"{code}: {shown}")
        except (TimeoutError, ValueError) as error:
            self._socket = None
            self.wrong.append(f"{type(error).__name__}: {shown}")

    async def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            await self._socket.close()

    async def _opened(self) -> ClientConnection:
        if self._socket is None:
            address = self._address.format(uuid4())
            self._socket = await connect(address, additional_headers=self._headers, max_size=None, proxy=None)
        return self._socket


async def test_no_frame_breaks_a_socket(patient: Settings, errors: list[str]) -> None:
    """Issue: whole bodies, bytes that are no text, and commands whose every part is no good."""
    async with serving(patient) as url:
        client = Client(url, {})
        with anyio.fail_after(ALL_S):
            for body in BODIES:
                await client.send(body)
                await client.send(body, text=False)
            for command in commands():
                await client.send(json.dumps(command).encode())
        await client.close()
        async with httpx.AsyncClient(base_url=url) as http:
            alive = await http.post("/runs/wait", json=RUN)

    assert "\n".join(client.wrong) == ""
    assert "\n".join(errors) == ""
    assert alive.status_code == 200
    assert client.answers["success"] > 100
    assert client.answers["invalid_argument"] > 200


async def test_no_frame_of_a_known_caller_breaks_a_socket(
    patient: Settings, errors: list[str], make_key: MakeKey
) -> None:
    """Ours: the same with API keys, where each command is authorized."""
    chosen = patient.model_copy(
        update={"auth_type": "api_key", "max_requests_per_principal": 0, "max_queued_per_principal": 0}
    )
    async with serving(chosen) as url:
        client = Client(url, {"x-api-key": await make_key("eve")})
        with anyio.fail_after(ALL_S):
            for command in list(commands())[::5]:
                await client.send(json.dumps(command).encode())
        await client.close()

    assert "\n".join(client.wrong) == ""
    assert "\n".join(errors) == ""


async def test_no_handshake_breaks_the_server(patient: Settings, errors: list[str]) -> None:
    """Issue: paths, queries and headers that mean harm."""
    codes: Counter[int] = Counter()
    wrong: list[str] = []
    path = f"/threads/{uuid4()}/stream/events"
    paths = [f"/threads/{segment}/stream/events" for segment in SEGMENTS]
    paths += [f"{path}?{name}={value.format(name=name)}" for name in ("unknown", "since") for value in QUERIES]
    cases: list[tuple[str, dict[str, str]]] = [(each, {}) for each in paths]
    cases += [(path, {name: value for name, value in each.items() if name != "expect"}) for each in HEADERS]
    async with serving(patient) as url:

        async def shake(case: tuple[str, dict[str, str]]) -> None:
            code = await _handshake(url, *case)
            codes[code] += 1
            if code >= 4500 or code in {500, 1006, 1011}:
                wrong.append(f"{code}: {case!r:.300}")

        await each_of(cases, shake)

    assert "\n".join(wrong) == ""
    assert "\n".join(errors) == ""
    assert codes[101] > 20


async def _handshake(url: str, path: str, headers: dict[str, str]) -> int:
    """The status of a refused handshake, the code with which an open socket is closed at once, or 101."""
    try:
        with anyio.fail_after(ANSWER_S):
            async with connect(url.replace("http", "ws") + path, additional_headers=headers, proxy=None) as socket:
                await socket.send(json.dumps({"id": 1, "method": "agent.getTree", "params": {}}))
                await socket.recv()
                try:
                    with anyio.move_on_after(0.1):
                        await socket.recv()
                except ConnectionClosed as closed:
                    return closed.rcvd.code if closed.rcvd else 1006
                return 101
    except InvalidStatus as refused:
        return refused.response.status_code
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006
