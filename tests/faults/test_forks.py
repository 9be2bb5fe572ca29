"""Forks: processes of the tests that are forked from a warm one."""

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from faults import forks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


def test_each_thread_that_waits_for_a_fork_gets_its_status() -> None:
    """Ours: the second question ended the process that forks, and with it every later test of the worker."""
    process = forks.start("no-such-command", stderr=subprocess.DEVNULL)
    _at_once(process.wait)
    server = forks.Forked._fork_server()

    assert process.returncode == 2
    assert server.ask({"wait": process.pid}) == server.ask({"wait": process.pid}) == 2 << 8


def test_threads_that_fork_at_once_share_the_process_that_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: with one for each, a fork was asked of the other, which does not know it."""
    monkeypatch.setattr(forks.Forked, "_server", None)
    codes: list[int] = []

    _at_once(lambda: codes.append(forks.run("version").returncode))
    forks.Forked._fork_server().close()

    assert codes == [0] * 4


def _at_once(call: Callable[[], object]) -> None:
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
