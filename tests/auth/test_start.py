"""The start, as a process: a clear line refuses a setup that can't load or that others could reach. Keys by command."""

import json
import os
import subprocess
from pathlib import Path

import anyio.to_thread
import pytest

from faults import forks
from threadkeep.auth import loading
from threadkeep.base.problems import StartupError
from threadkeep.project import Project, builtin_project
from threadkeep.settings import Settings

PROJECT = {"graphs": {"chain": "./graph.py:graph"}, "auth": {"path": "./door.py:auth"}}
EVERYWHERE = "0.0.0.0"  # noqa: S104 - it is to be refused
GRAPH = """
from langgraph.graph import START, StateGraph
graph = StateGraph(dict).add_node("same", lambda state: state).add_edge(START, "same").compile()
"""


def threadkeep(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`threadkeep` in a process of its own, ended."""
    environment = {**os.environ, "HOME": str(folder), "LOG_LEVEL": "error", "PORT": "0", **settings}
    return forks.run(*arguments, cwd=folder, env=environment)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"AUTH_TYPE": "oauth"}, "settings: AUTH_TYPE: Input should be 'none', 'api_key', 'jwt' or 'custom'"),
        ({"HOST": EVERYWHERE}, "HOST=0.0.0.0 is open to other machines, and authentication is off"),
        ({"HOST": EVERYWHERE, "AUTH_TYPE": "none"}, "or ALLOW_UNAUTHENTICATED=true"),
        ({"AUTH_TYPE": "custom"}, "AUTH_TYPE=custom needs auth.path in langgraph.json"),
        (
            {
                "AUTH_TYPE": "jwt",
                "THREADKEEP_JWT_ISSUER": "https://issuer.example",
                "THREADKEEP_JWT_AUDIENCE": "threadkeep",
                "THREADKEEP_JWT_JWKS_URL": "http://127.0.0.1:9/jwks",
            },
            "THREADKEEP_JWT_JWKS_URL: http://127.0.0.1:9/jwks: it can't be reached",
        ),
    ],
    ids=["unknown type", "public bind", "public bind, said", "no auth file", "no JWKS"],
)
def test_start_is_refused_in_a_line(tmp_path: Path, settings: dict[str, str], line: str) -> None:
    """Issue: each stops the start, before anything is opened."""
    ended = threadkeep(tmp_path, "serve", **settings)

    assert ended.returncode == 1
    assert line in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / ".local").exists()


@pytest.mark.parametrize(
    ("door", "settings", "line"),
    [
        ("raise RuntimeError('broken')", {}, "auth.path: ./door.py:auth: RuntimeError: broken"),
        ("auth = None", {}, "auth.path: ./door.py:auth: this is not a langgraph_sdk.Auth"),
        ("", {"AUTH_TYPE": "none"}, "AUTH_TYPE=none contradicts the auth of langgraph.json"),
    ],
    ids=["raises", "is none", "passed over"],
)
def test_auth_file_that_does_not_load_stops_the_start(
    tmp_path: Path, database: str, door: str, settings: dict[str, str], line: str
) -> None:
    """Issue: never open because the file was broken."""
    (tmp_path / "langgraph.json").write_text(json.dumps(PROJECT))
    (tmp_path / "graph.py").write_text(GRAPH)
    (tmp_path / "door.py").write_text(door)

    ended = threadkeep(tmp_path, "serve", DATABASE_URI=database, **settings)

    assert ended.returncode == 1
    assert line in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("host", "given", "refused"),
    [
        ("127.0.0.1", {}, False),
        ("127.0.0.2", {}, False),
        ("localhost", {}, False),
        ("::1", {}, False),
        (EVERYWHERE, {}, True),
        ("::", {}, True),
        ("", {}, True),
        ("192.168.1.2", {}, True),
        ("localhost.example.com", {}, True),
        (EVERYWHERE, {"allow_unauthenticated": True}, False),
        (EVERYWHERE, {"auth_type": "api_key"}, False),
    ],
)
def test_none_is_for_the_loopback_only(host: str, given: dict[str, object], refused: bool) -> None:
    """Issue: unless the operator says otherwise."""
    settings = Settings(host=host, **given)
    if not refused:
        loading.check_start(settings, builtin_project())
        return
    with pytest.raises(StartupError):
        loading.check_start(settings, builtin_project())


def test_a_project_with_an_auth_is_guarded_by_it_unless_told_otherwise(tmp_path: Path) -> None:
    """Ours: `auth` makes it custom; another type beside it is a contradiction."""
    project = Project.model_validate({"root": tmp_path, **PROJECT})

    assert loading.auth_type_of(Settings(), project) == "custom"
    assert loading.auth_type_of(Settings(), builtin_project()) == "none"
    with pytest.raises(StartupError, match="AUTH_TYPE=api_key contradicts"):
        loading.auth_type_of(Settings(auth_type="api_key"), project)


async def test_keys_are_made_listed_and_revoked_by_command(tmp_path: Path, database: str) -> None:
    """Issue: `threadkeep keys create|list|revoke`."""

    async def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await anyio.to_thread.run_sync(lambda: threadkeep(tmp_path, "keys", *arguments, DATABASE_URI=database))

    made = await command("create", "--identity", "ada", "--name", "laptop", "--scope", "threads.read")
    secret = made.stdout.strip()
    listed = (await command("list")).stdout
    revoked = await command("revoke", secret[:11])
    after = (await command("list")).stdout
    wrong = [await command("revoke", "tk_nothing0"), await command("create", "--identity", "a", "--scope", "x")]

    assert made.returncode == 0
    assert secret.startswith("tk_")
    assert len(secret) == 46
    assert secret not in listed
    assert secret[:11] in listed
    assert ("ada" in listed, "laptop" in listed, "threads.read" in listed, "valid" in listed) == (True,) * 4
    assert revoked.stdout == f"revoked {secret[:11]} of ada\n"
    assert "revoked" in after
    assert [one.returncode for one in wrong] == [1, 1]
