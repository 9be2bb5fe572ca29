"""The project: what a `langgraph.json` becomes, and what it refuses."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from threadkeep import project
from threadkeep.base.problems import StartupError

WRITE = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> WRITE:
    """Write a langgraph.json with one graph and the keys given."""

    def write(**keys: object) -> Path:
        file = tmp_path / "langgraph.json"
        file.write_text(json.dumps({"graphs": {"agent": "./agent.py:graph"}, **keys}))
        return file

    return write


@pytest.fixture(autouse=True)
def _same_process() -> Iterator[None]:
    """Leave `sys.path` and the environment as they were."""
    path, environment = sys.path.copy(), dict(os.environ)
    yield
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)


def refusal(file: Path) -> str:
    with pytest.raises(StartupError) as refused:
        project.load_project(file)
    return str(refused.value).removeprefix(f"{file}: ")


def test_a_file_of_graphs_alone_has_a_default_for_everything_else(write: WRITE, tmp_path: Path) -> None:
    """Protocol: only `graphs` is needed."""
    read = project.load_project(write())

    assert read == project.Project(root=tmp_path, graphs={"agent": project.GraphTarget(path="./agent.py:graph")})
    assert not read.builtin
    assert read.checkpointer.ttl is None
    assert read.webhooks.url.disable_loopback
    assert not read.webhooks.url.disable_private_ips


def test_a_graph_may_have_a_description(write: WRITE) -> None:
    """Protocol: a graph is a target, or an object of a target and a description."""
    read = project.load_project(
        write(graphs={"a": "pkg.agent:graph", "b": {"path": "b.py:make", "description": "Books trips"}})
    )

    assert read.graphs == {
        "a": project.GraphTarget(path="pkg.agent:graph"),
        "b": project.GraphTarget(path="b.py:make", description="Books trips"),
    }


def test_every_section_is_read(write: WRITE) -> None:
    """Protocol: the keys of `store`, `checkpointer`, `http` and `webhooks`."""
    read = project.load_project(
        write(
            store={"index": {"dims": 3, "embed": "./e.py:embed", "fields": ["$"]}, "ttl": {"default_ttl": 60}},
            checkpointer={
                "backend": "default",
                "ttl": {"strategy": "keep_latest", "default_ttl": 43200, "sweep_limit": 10},
                "serde": {"allowed_msgpack_modules": [["app", "State"]], "pickle_fallback": False},
            },
            http={
                "app": "./web.py:app",
                "disable_mcp": True,
                "cors": {"allow_origins": ["https://a.example"], "max_age": 5},
                "mount_prefix": "/pre",
                "configurable_headers": {"includes": ["x-*"], "excludes": ["x-secret"]},
            },
            webhooks={
                "headers": {"authorization": "Bearer ${{ env.LG_WEBHOOK_TOKEN }}"},
                "url": {"allowed_ports": [443]},
            },
        )
    )

    assert read.store.index == project.StoreIndex(dims=3, embed="./e.py:embed", fields=("$",))
    assert read.store.ttl == project.StoreTTL(default_ttl=60)
    assert read.checkpointer.ttl == project.CheckpointerTTL(strategy="keep_latest", default_ttl=43200, sweep_limit=10)
    assert read.checkpointer.serde.allowed_msgpack_modules == (("app", "State"),)
    assert read.http == project.Http(
        app="./web.py:app",
        disable_mcp=True,
        cors=project.Cors(allow_origins=("https://a.example",), max_age=5),
        mount_prefix="/pre",
        configurable_headers=project.HeaderNames(includes=("x-*",), excludes=("x-secret",)),
    )
    assert read.webhooks.url == project.WebhookUrl(allowed_ports=(443,))


def test_a_null_is_as_good_as_nothing(write: WRITE) -> None:
    """Ours: tools write nulls for what they don't set."""
    read = project.load_project(write(store=None, auth=None, http={"app": None, "cors": None}))

    assert (read.store, read.http) == (project.Store(), project.Http())


def test_a_byte_order_mark_is_no_fault(write: WRITE) -> None:
    """Ours: some editors write one."""
    file = write()
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())

    assert set(project.load_project(file).graphs) == {"agent"}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"graphs": {}}, "graphs: Dictionary should have at least 1 item after validation, not 0"),
        ({"graphs": ["a.py:graph"]}, "graphs: Input should be a valid dictionary"),
        ({"graphs": {"a": 5}}, "graphs.a: Input should be a valid dictionary or instance of GraphTarget"),
        ({"graphs": {"a": {"description": "x"}}}, "graphs.a.path: Field required"),
        (
            {"graphs": {"a": "./a.ts:graph"}},
            "graphs.a.path: './a.ts:graph' must be ./file.py:name or package.module:name",
        ),
        (
            {"graphs": {"a": "./a.py"}},
            "graphs.a.path: './a.py' must be ./file.py:name or package.module:name",
        ),
        (
            {"http": {"disable_mcp": "perhaps"}},
            "http.disable_mcp: Input should be a valid boolean, unable to interpret input",
        ),
        ({"store": {"index": {"embed": "a:b"}}}, "store.index.dims: Field required"),
        (
            {"checkpointer": {"ttl": {"strategy": "keep"}}},
            "checkpointer.ttl.strategy: Input should be 'delete' or 'keep_latest'",
        ),
        ({"env": [".env"]}, "env: must be an object of strings or the path of a file"),
        ({"env": {"A": {}}}, "env: must be an object of strings or the path of a file"),
        ({"dependencies": "."}, "dependencies: must be a list"),
        ({"env": {"A=B": "1"}}, "env: 'A=B' can't be a variable: a name has no =, and nothing has a NUL"),
        ({"env": {"": "1"}}, "env: '' can't be a variable: a name has no =, and nothing has a NUL"),
        ({"env": {"A": "x\0y"}}, "env: 'A' can't be a variable: a name has no =, and nothing has a NUL"),
    ],
)
def test_a_wrong_value_stops_the_start_and_is_named(write: WRITE, keys: dict[str, object], reason: str) -> None:
    """Ours: nothing falls back to a default that was not asked for."""
    assert refusal(write(**keys)) == reason


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"auth": {"allow_langsmith_api_keys": True}}, "auth.allow_langsmith_api_keys: not supported"),
        ({"encryption": {"path": "./e.py:e"}}, "encryption: not supported"),
        ({"priority": "./p.py:p"}, "priority: not supported"),
        ({"checkpointer": {"serde": {"pickle_fallback": True}}}, "checkpointer.serde.pickle_fallback: not supported"),
    ],
)
def test_a_key_that_would_be_missed_stops_the_start(write: WRITE, keys: dict[str, object], reason: str) -> None:
    """Ours: a server without the auth, encryption or storage that was asked for does not run."""
    assert refusal(write(**keys)) == reason


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"store": {"path": "./s.py:s"}}, ["store.path"]),
        ({"checkpointer": {"path": "./c.py:c"}}, ["checkpointer.path"]),
        ({"checkpointer": {"backend": "mongo", "uri": "mongodb://h"}}, ["checkpointer.uri", "checkpointer.backend"]),
        ({"checkpointer": {"backend": "default"}, "store": {"path": ""}}, []),
    ],
)
def test_persistence_of_the_projects_own_is_replaced_by_postgres(
    write: WRITE, caplog: pytest.LogCaptureFixture, keys: dict[str, object], named: list[str]
) -> None:
    """Ours: the graphs run, and one line says what keeps their state. A setting makes it strict."""
    read = project.load_project(write(**keys))
    project.refuse_replaced(read, strict=False)

    assert [line.__dict__["keys"] for line in caplog.records] == ([named] if named else [])
    if named:
        with pytest.raises(StartupError, match=r"^" + ", ".join(named)):
            project.refuse_replaced(read, strict=True)


@pytest.mark.parametrize("section", ["configurable_headers", "logging_headers"])
def test_patterns_of_headers_have_older_names(write: WRITE, section: str, caplog: pytest.LogCaptureFixture) -> None:
    """Protocol: `include` and `exclude`; the present names go over them."""
    older = project.load_project(write(http={section: {"include": ["x-*"], "exclude": ["x-a"]}}))
    both = project.load_project(write(http={section: {"include": ["y-*"], "includes": ["x-*"], "exclude": ["x-a"]}}))

    names = project.HeaderNames(includes=("x-*",), excludes=("x-a",))
    assert (getattr(older.http, section), getattr(both.http, section)) == (names, names)
    assert caplog.records == []


def test_a_file_without_graphs_is_refused(tmp_path: Path) -> None:
    """Ours: the built-in agent is served where there is no file, not where the file names no graph."""
    file = tmp_path / "langgraph.json"
    file.write_text("{}")

    assert refusal(file) == "graphs: Field required"


def test_what_is_no_json_object_is_refused(tmp_path: Path) -> None:
    """Ours: the text says what and where."""
    file = tmp_path / "langgraph.json"
    assert refusal(file) == "can't be read: No such file or directory"

    file.write_text('{"graphs": }')
    assert refusal(file) == "is not JSON: Expecting value: line 1 column 12 (char 11)"

    file.write_text("[]")
    assert refusal(file) == "is not a JSON object"


def test_keys_that_only_build_an_image_are_told_in_one_line(write: WRITE, caplog: pytest.LogCaptureFixture) -> None:
    """Ours: the file serves as it stands, and what has no effect is said once."""
    caplog.set_level(logging.INFO)
    project.load_project(
        write(python_version="3.12", dockerfile_lines=[], _INTERNAL_docker_tag="x", **{"$schema": "s"})
    )

    (line,) = caplog.records
    assert (line.levelname, line.getMessage()) == ("INFO", "keys that only build an image are ignored")
    assert line.__dict__["keys"] == ["_INTERNAL_docker_tag", "dockerfile_lines", "python_version"]


def test_keys_that_do_nothing_are_told_in_one_warning(write: WRITE, caplog: pytest.LogCaptureFixture) -> None:
    """Ours: a misspelt key is seen, however deep it stands."""
    project.load_project(write(ui={}, grpahs={}, http={"cors": {"allow_origin": ["*"]}}))

    (line,) = caplog.records
    assert (line.levelname, line.getMessage()) == ("WARNING", "keys without an effect on this server are ignored")
    assert line.__dict__["keys"] == ["grpahs", "http.cors.allow_origin", "ui"]


def test_variables_are_set_unless_the_process_has_them(write: WRITE, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: the process environment wins, an empty value too."""
    monkeypatch.setenv("TAKEN", "by the process")
    monkeypatch.setenv("EMPTY", "")
    project.set_environment(project.load_project(write(env={"TAKEN": "x", "EMPTY": "x", "FREE": "set", "NUMBER": 7})))

    found = [os.environ[name] for name in ("TAKEN", "EMPTY", "FREE", "NUMBER")]
    assert found == ["by the process", "", "set", "7"]


def test_variables_are_read_from_a_file(write: WRITE, tmp_path: Path) -> None:
    """Protocol: `env` may be the path of a .env, from the folder of langgraph.json."""
    (tmp_path / ".env").write_text('# keys\nexport ONE=1\nTWO="two ${ONE}"\nNOTHING\n')
    project.set_environment(project.load_project(write(env=".env")))

    assert (os.environ["ONE"], os.environ["TWO"], "NOTHING" in os.environ) == ("1", "two 1", False)


def test_a_missing_env_file_is_a_warning(write: WRITE, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ours: where the process brings its secrets, the file is not deployed."""
    project.set_environment(project.load_project(write(env=".env")))

    (line,) = caplog.records
    assert line.getMessage() == "the project's env file does not exist"
    assert line.__dict__["env_file"] == str(tmp_path / ".env")


def test_folders_of_dependencies_become_importable_behind_the_rest(write: WRITE, tmp_path: Path) -> None:
    """Ours: with their src folder; a user's module never takes the place of an installed one."""
    (tmp_path / "lib" / "src").mkdir(parents=True)
    (tmp_path / "bare").mkdir()
    before = sys.path.copy()
    project.set_environment(project.load_project(write(dependencies=[".", "./lib", "bare"])))

    added = [str(tmp_path / name) for name in ("", "lib", "lib/src", "bare")]
    assert sys.path == [*before, *added]

    project.set_environment(project.load_project(write(dependencies=["."])))
    assert sys.path == [*before, *added]


def test_a_missing_folder_stops_the_start(write: WRITE, tmp_path: Path) -> None:
    """Ours: its modules would be missing later, in a run."""
    with pytest.raises(StartupError) as refused:
        project.set_environment(project.load_project(write(dependencies=["./gone"])))

    assert str(refused.value) == f"{tmp_path / 'langgraph.json'}: dependencies: the folder ./gone does not exist"


def test_distributions_that_are_not_installed_are_named(write: WRITE, caplog: pytest.LogCaptureFixture) -> None:
    """Ours: nothing is installed by the server."""
    wanted = ["langgraph", "langchain_core>=1", "pydantic[email] >= 2", "dotenv", "no-such-thing==1", "git+https://h/x"]
    project.set_environment(project.load_project(write(dependencies=wanted)))

    (line,) = caplog.records
    assert line.getMessage() == "dependencies of the project are not installed"
    assert line.__dict__["dependencies"] == ["no-such-thing==1", "git+https://h/x"]


def test_without_a_file_there_is_a_project_without_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: the built-in agent takes the place of graphs."""
    monkeypatch.chdir(tmp_path)
    read = project.builtin_project()

    assert (read.builtin, read.root, read.graphs, read.http) == (True, tmp_path, {}, project.Http())
    project.set_environment(read)


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("./src/agent.py:graph", ("./src/agent.py", "graph")),
        ("agent.py:make_graph", ("agent.py", "make_graph")),
        ("C:\\app\\agent.py:graph", ("C:\\app\\agent.py", "graph")),
        ("pkg.agent:graph", ("pkg.agent", "graph")),
    ],
)
def test_a_target_is_a_place_and_a_name(target: str, parts: tuple[str, str]) -> None:
    """Protocol: the forms of a target."""
    assert project.split_target(target) == parts


@pytest.mark.parametrize(
    "target", ["", "agent", "agent.py", ":graph", "agent.py:", "a-b:graph", "./agent.js:g", "a.py:b.c"]
)
def test_other_forms_are_no_target(target: str) -> None:
    """Ours: refused when the file is read."""
    with pytest.raises(ValueError, match=r"must be \./file\.py:name or package\.module:name"):
        project.split_target(target)


def test_an_image_of_the_platform_has_the_project_in_its_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol: `LANGSERVE_GRAPHS` and its like; what is not supported stops the start here too."""
    monkeypatch.chdir(tmp_path)
    assert project.from_environment() is None

    monkeypatch.setenv("LANGSERVE_GRAPHS", json.dumps({"agent": "/deps/app/agent.py:graph"}))
    monkeypatch.setenv("LANGGRAPH_AUTH", json.dumps({"path": "/deps/app/auth.py:auth"}))
    monkeypatch.setenv("LANGGRAPH_HTTP", json.dumps({"mount_prefix": "/pre"}))
    read = project.from_environment()
    assert read == project.Project(
        root=tmp_path,
        graphs={"agent": project.GraphTarget(path="/deps/app/agent.py:graph")},
        auth=project.Auth(path="/deps/app/auth.py:auth"),
        http=project.Http(mount_prefix="/pre"),
    )

    monkeypatch.setenv("LANGGRAPH_ENCRYPTION", json.dumps({"path": "./e.py:e"}))
    with pytest.raises(StartupError, match="LANGSERVE_GRAPHS: encryption: not supported"):
        project.from_environment()
    monkeypatch.setenv("LANGGRAPH_STORE", "{")
    with pytest.raises(StartupError, match="LANGGRAPH_STORE: is not JSON"):
        project.from_environment()


def test_the_platforms_prefix_and_origins_are_those_of_http(write: WRITE) -> None:
    """Protocol: `MOUNT_PREFIX` goes over the file, `CORS_ALLOW_ORIGINS` does not."""
    own = project.load_project(
        write(http={"mount_prefix": "/own", "cors": {"allow_origins": ["https://a"], "max_age": 5}})
    )
    none = project.load_project(write(http={"cors": {"max_age": 5}}))

    named = project.with_mount(none, "/pre", "https://b, https://c").http
    assert (named.mount_prefix, named.cors) == (
        "/pre",
        project.Cors(allow_origins=("https://b", "https://c"), max_age=5),
    )
    assert project.with_mount(own, "/pre", "https://b").http.cors == own.http.cors
    assert project.with_mount(own, None, None) is own


@pytest.mark.parametrize(
    ("pyproject", "identity"),
    [
        (None, "zoo"),
        ('[project]\nname = "animals"\n', "animals"),
        ("[tool.ruff]\n", "zoo"),
        ("no TOML", "zoo"),
        ("[project]\nname = 7\n", "zoo"),
    ],
)
def test_a_project_is_known_by_its_package_or_else_its_folder(
    tmp_path: Path, pyproject: str | None, identity: str
) -> None:
    """Ours: the name that its rows have in a database."""
    root = tmp_path / "zoo"
    root.mkdir()
    if pyproject is not None:
        (root / "pyproject.toml").write_text(pyproject)

    found = project.Project(root=root, graphs={"agent": project.GraphTarget(path="./agent.py:graph")})

    assert project.identity(found) == identity
    assert project.identity(project.builtin_project()) == "threadkeep"
