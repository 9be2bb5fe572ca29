"""Notifications: the connection that listens comes back, whatever ended it."""

import anyio
import anyio.abc
import pytest

from threadkeep.postgres import listen


async def test_a_server_that_accepts_and_never_answers_does_not_end_the_listener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ours: the limit of the whole opening raised TimeoutError, which stopped the process."""
    monkeypatch.setattr(listen, "CONNECT_S", 0.2)
    monkeypatch.setattr(listen, "RECONNECT_S", 0.0)
    again = anyio.Event()
    attempts = 0

    async def swallow(stream: anyio.abc.SocketStream) -> None:
        nonlocal attempts
        async with stream:
            attempts += 1
            if attempts == 2:
                again.set()
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as silent, anyio.create_task_group() as tasks:
        tasks.start_soon(silent.serve, swallow)
        port = silent.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no Django
        async with listen.run_listener(f"postgresql://127.0.0.1:{port}/db?sslmode=disable"):
            with anyio.fail_after(10):
                await again.wait()
        tasks.cancel_scope.cancel()
