"""Graphs: every form of a target, every kind of object behind it, and what joining it with the server means."""

import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from anyio import to_thread

import threadkeep  # noqa: F401  # first: it turns strict msgpack on, which LangGraph reads when it is imported

# isort: split
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel.remote import RemoteGraph
from langgraph.store.memory import InMemoryStore

from threadkeep import graphs, project
from threadkeep.base.problems import StartupError
from threadkeep.graphs import Graphs, LoadedGraph

LOAD = Callable[..., Awaitable[Graphs]]

AGENT = """
from typing import TypedDict
from langgraph.graph import StateGraph

class State(TypedDict, total=False):
    said: str

def say(state: State) -> State:
    return {"said": __name__}

builder = StateGraph(State).add_node("say", say).set_entry_point("say")
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _same_process() -> Iterator[None]:
    """Leave `sys.path` and `sys.modules` as they were. Graph files that other tests loaded are out of the way meanwhile."""
    path, modules = sys.path.copy(), sys.modules.copy()
    for name in modules:
        if name.startswith("graph_file__"):
            del sys.modules[name]
    yield
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)


@pytest.fixture
def load(tmp_path: Path) -> LOAD:
    """Write files, `agent.py` from `source` among them, and load the graphs at the targets given.

    In a thread: a server loads its graphs before its event loop runs.
    """

    def load(source: str, files: dict[str, str], targets: dict[str, str]) -> Graphs:
        for name, text in {"agent.py": AGENT + dedent(source), **files}.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text))
        found = {name: project.GraphTarget(path=path) for name, path in targets.items()}
        read = project.Project(root=tmp_path, graphs=found)
        project.set_environment(read)
        return graphs.load_graphs(read)

    async def load_in_thread(source: str = "", files: dict[str, str] | None = None, **targets: str) -> Graphs:
        return await to_thread.run_sync(load, source, files or {}, targets)

    return load_in_thread


def thread(thread_id: str = "t", **configurable: object) -> Any:
    return {"configurable": {"thread_id": thread_id, **configurable}}


async def said(graph: LoadedGraph, **configurable: object) -> str:
    config = thread(**configurable)
    async with graph.open(config, durable=False) as opened:
        return (await opened.ainvoke({}, config))["said"]


@pytest.mark.parametrize("target", ["./agent.py:builder", "agent.py:builder"])
async def test_a_file_is_a_module_named_after_its_place(load: LOAD, tmp_path: Path, target: str) -> None:
    """Ours: checkpoints name types by module, so the name is the same after a restart and on every replica."""
    loaded = await load(a=target)

    assert await said(loaded["a"]) == "graph_file__agent"
    assert sys.modules["graph_file__agent"].__file__ == str(tmp_path / "agent.py")


async def test_a_module_is_imported_by_its_name(load: LOAD) -> None:
    """Protocol: `package.module:name`, from the project's folder."""
    loaded = await load(files={"bookings/__init__.py": "", "bookings/agent.py": AGENT}, a="bookings.agent:builder")

    assert await said(loaded["a"]) == "bookings.agent"


async def test_a_file_finds_its_siblings(load: LOAD) -> None:
    """Protocol: the folder of a file is importable."""
    files = {"src/deep/sibling.py": AGENT, "src/deep/main.py": "from sibling import builder"}

    assert await said((await load(files=files, a="./src/deep/main.py:builder"))["a"]) == "sibling"


async def test_a_file_with_two_graphs_is_run_once(load: LOAD) -> None:
    """Ours: two copies of its types would not be equal."""
    await load(
        "import counting\ncounting.runs += 1\nother = builder",
        {"counting.py": "runs = 0"},
        a="./agent.py:builder",
        b="agent.py:other",
    )

    assert sys.modules["counting"].runs == 1


async def test_two_files_whose_names_fall_together_are_two_modules(load: LOAD) -> None:
    """Ours: neither takes the place of the other."""
    loaded = await load(files={"a/b.py": AGENT, "a_b.py": AGENT}, a="./a/b.py:builder", b="./a_b.py:builder")

    assert await said(loaded["a"]) == "graph_file__a_b"
    assert (await said(loaded["b"])).startswith("graph_file__a_b_")


async def refusal(load: LOAD, source: str, target: str, **files: str) -> str:
    with pytest.raises(StartupError) as refused:
        await load(source, {f"{name}.py": text for name, text in files.items()}, a=target)
    return str(refused.value)


async def test_a_missing_file_or_module_stops_the_start(load: LOAD, tmp_path: Path) -> None:
    """Ours: the text names the key, the target and the reason."""
    assert (
        await refusal(load, "", "./gone.py:graph")
        == f"graphs.a: ./gone.py:graph: the file {tmp_path / 'gone.py'} does not exist"
    )
    assert (
        await refusal(load, "", "gone.away:graph")
        == "graphs.a: gone.away:graph: ModuleNotFoundError: No module named 'gone'"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (broken.py, line 1)"),
        (
            "import no_such_module",
            "ModuleNotFoundError: No module named 'no_such_module' (broken.py, line 1): the server installs nothing, "
            "so install the package where the server runs",
        ),
        ("raise SystemExit(3)", "SystemExit: 3 (broken.py, line 1)"),
        ("def", "SyntaxError: invalid syntax (broken.py, line 1)"),
    ],
)
async def test_a_file_that_fails_stops_the_start(
    load: LOAD, caplog: pytest.LogCaptureFixture, source: str, reason: str
) -> None:
    """Ours: the reason in one line, no traceback unless the log level is debug, and no half of a module left."""
    assert await refusal(load, "", "./broken.py:graph", broken=source) == f"graphs.a: ./broken.py:graph: {reason}"
    assert "graph_file__broken" not in sys.modules
    assert [line.getMessage() for line in caplog.records if line.levelno > logging.DEBUG] == []


RELATIVE = "from .state import State\nfrom langgraph.graph import StateGraph\n" + AGENT[AGENT.index("def say") :]
STATE = AGENT[: AGENT.index("def say")]


@pytest.mark.parametrize(
    ("place", "packages", "module"),
    [
        ("my_agent/graph.py", ["my_agent"], "my_agent.graph"),
        ("my_agent/deep/graph.py", ["my_agent", "my_agent/deep"], "my_agent.deep.graph"),
        ("src/my_agent/graph.py", ["src/my_agent"], "my_agent.graph"),
        ("src/my_agent/graph.py", ["src", "src/my_agent"], "src.my_agent.graph"),
        ("my_agent/graph.py", [], "my_agent.graph"),
        ("src/my_agent/graph.py", [], "my_agent.graph"),
        ("my-agent/graph.py", ["my-agent"], "my-agent.graph"),
        ("v1.2/graph.py", ["v1.2"], "graph_file__v1_2.graph"),
        ("langgraph/graph.py", ["langgraph"], "graph_file__langgraph.graph"),
        ("json/graph.py", [], "graph_file__json.graph"),
    ],
)
async def test_a_file_in_a_package_is_imported_as_a_part_of_it(
    load: LOAD, place: str, packages: list[str], module: str
) -> None:
    """Protocol: relative imports work as by `python -m`, whatever the folder is called."""
    folder = place.rpartition("/")[0]
    files = {place: RELATIVE, f"{folder}/state.py": STATE} | {f"{package}/__init__.py": "" for package in packages}
    loaded = await load(files=files, a=f"./{place}:builder")

    assert await said(loaded["a"]) == module


async def test_a_project_that_is_a_package_itself(load: LOAD, tmp_path: Path) -> None:
    """Protocol: `__init__.py` beside langgraph.json. Without one the files are a package of the project's folder too."""
    regular = await load(files={"__init__.py": "", "a.py": RELATIVE, "state.py": STATE}, a="./a.py:builder")
    (tmp_path / "__init__.py").unlink()
    plain = await load(files={"b.py": RELATIVE}, b="./b.py:builder")

    assert await said(regular["a"]) == f"{tmp_path.name}.a"
    assert await said(plain["b"]) == f"{tmp_path.name}.b"


async def test_a_package_and_its_file_are_one_module(load: LOAD) -> None:
    """Ours: two copies of its types would not be equal."""
    files = {
        "bookings/__init__.py": "from .agent import builder",
        "bookings/agent.py": RELATIVE,
        "bookings/state.py": STATE,
    }
    await load(
        files=files, a="./bookings/agent.py:builder", b="bookings.agent:builder", c="./bookings/__init__.py:builder"
    )

    assert "graph_file__bookings_agent" not in sys.modules
    assert sys.modules["bookings"].builder is sys.modules["bookings.agent"].builder


async def test_relative_imports_reach_a_folder_above(load: LOAD) -> None:
    """Ours: folders without `__init__.py` are packages as far up as the file says."""
    source = RELATIVE.replace("from .state", "from ..state")
    loaded = await load(
        files={"teams/sales/graph.py": source, "teams/state.py": STATE}, a="./teams/sales/graph.py:builder"
    )

    assert await said(loaded["a"]) == "teams.sales.graph"


async def test_paths_are_looked_up_in_the_working_directory_too(
    load: LOAD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol: first from the folder of langgraph.json, then from where the server was started."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "lib").mkdir(parents=True)
    (elsewhere / "only_here.py").write_text(dedent(AGENT))
    (elsewhere / "agent.py").write_text("raise RuntimeError('the project has one')")
    monkeypatch.chdir(elsewhere)
    loaded = await load(a="./only_here.py:builder", b="./agent.py:builder")

    assert (await said(loaded["a"])).startswith("graph_file__")
    assert await said(loaded["b"]) == "graph_file__agent"


async def test_a_missing_name_tells_of_near_ones(load: LOAD) -> None:
    """Ours: most of them are misspelt."""
    assert (
        await refusal(load, "", "./agent.py:buidler")
        == "graphs.a: ./agent.py:buidler: ./agent.py has no buidler: did you mean builder?"
    )
    assert await refusal(load, "", "./agent.py:qqqq") == "graphs.a: ./agent.py:qqqq: ./agent.py has no qqqq"


@pytest.mark.parametrize(
    "kind",
    [
        "graph = builder",
        "graph = builder.compile()",
        "graph = builder.compile().with_config(tags=['x'])",
        "def graph(): return builder",
        "def graph(): return builder.compile()",
        "async def graph(): return builder",
        "from functools import partial\ngraph = partial(lambda config, way: builder, way=1)",
        "class Maker:\n    def __call__(self, config): return builder\ngraph = Maker()",
        "from contextlib import contextmanager\n@contextmanager\ndef graph(): yield builder",
        "from contextlib import asynccontextmanager\n@asynccontextmanager\nasync def graph(): yield builder.compile()",
        "from contextlib import asynccontextmanager\n@asynccontextmanager\nasync def cm(): yield builder\nasync def graph(): return cm()",
    ],
)
async def test_every_kind_of_graph_runs(load: LOAD, kind: str) -> None:
    """Protocol: a graph, a builder, or a function or context manager that makes either."""
    assert await said((await load(kind, graph="./agent.py:graph"))["graph"]) == "graph_file__agent"


async def test_a_factory_may_read_configurable_whatever_it_is_called_for(load: LOAD) -> None:
    """Ours: the server calls it to describe the graph, too, when nobody has sent a config."""
    source = """
        def graph(config):
            name = config["configurable"].get("name", "nobody")
            return StateGraph(State).add_node("say", lambda _: {"said": name}).set_entry_point("say")
    """
    loaded = (await load(source, a="./agent.py:graph"))["a"]

    async with loaded.open({}, durable=False, access="assistants.read") as graph:
        assert await graph.ainvoke({}) == {"said": "nobody"}


async def test_an_entrypoint_runs_and_remembers(load: LOAD) -> None:
    """Protocol: the functional API."""
    source = """
        from langgraph.func import entrypoint

        @entrypoint()
        async def graph(add: int, *, previous: int | None = None) -> int:
            return (previous or 0) + add
    """
    loaded = (await load(source, a="./agent.py:graph"))["a"]
    loaded.bind(checkpointer=InMemorySaver(), store=None)

    async with loaded.open(thread(), durable=True) as graph:
        assert [await graph.ainvoke(2, thread()), await graph.ainvoke(3, thread())] == [2, 5]


async def test_a_remote_graph_passes_as_it_is(load: LOAD) -> None:
    """Ours: it keeps its threads where it runs."""
    source = "from langgraph.pregel.remote import RemoteGraph\ngraph = RemoteGraph('agent', client=object())"
    loaded = (await load(source, a="./agent.py:graph"))["a"]
    loaded.bind(checkpointer=InMemorySaver(), store=InMemoryStore())

    async with loaded.open(thread(), durable=True) as graph:
        assert isinstance(graph, RemoteGraph)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("graph = 5", "found an object of type int, which is neither a graph nor a function that makes one"),
        ("graph = None", "found an object of type NoneType, which is neither a graph nor a function that makes one"),
        ("graph = State", "found the class State, which is neither a graph nor a function that makes one"),
        (
            "from langchain_core.runnables import RunnableLambda\ngraph = RunnableLambda(say)",
            "found an object of type RunnableLambda, which is neither a graph nor a function that makes one",
        ),
        (
            "def graph(model: str, tools): ...",
            "found a function with the parameters model, tools: a factory gets only a RunnableConfig and a ServerRuntime",
        ),
        (
            "def graph(model: str): ...",
            "found a function with the parameters model: a factory gets only a RunnableConfig and a ServerRuntime",
        ),
        (
            "async def graph(): yield builder",
            "found a generator function: decorate it with contextlib.asynccontextmanager or contextmanager",
        ),
        (
            "graph = StateGraph(State)",
            "ValueError: Graph must have an entrypoint: add at least one edge from START to another node",
        ),
    ],
)
async def test_anything_else_stops_the_start(load: LOAD, source: str, reason: str) -> None:
    """Ours: the text says what was found."""
    assert await refusal(load, source, "./agent.py:graph") == f"graphs.a: ./agent.py:graph: {reason}"


async def test_a_factory_that_makes_no_graph_fails_the_run(load: LOAD) -> None:
    """Ours: it is called for a run, and its fault is the run's."""
    loaded = (await load("def graph(): return 5", a="./agent.py:graph"))["a"]

    with pytest.raises(TypeError, match="the factory of graph a made an object of type int, which is not a graph"):
        async with loaded.open(thread(), durable=True):
            pass


@pytest.mark.parametrize(
    "signature",
    [
        "config",
        "config: dict",
        "anything: dict[str, object]",
        "anything",
        "anything, /",
        "c: RunnableConfig",
        "c: 'RunnableConfig | None' = None",
        "c: 'RunnableConfig', other: 'OnlyForTheTypeChecker' = None",
        "*, config, other=1, **rest",
    ],
)
async def test_a_factory_gets_the_config(load: LOAD, signature: str) -> None:
    """Protocol: by annotation, then by name, and a single parameter without annotation."""
    source = f"""
        from langchain_core.runnables import RunnableConfig

        def graph({signature}):
            seen = dict(locals())
            got = [value for value in seen.values() if isinstance(value, dict) and "configurable" in value]
            return StateGraph(State).add_node("say", lambda _: {{"said": got[0]["configurable"]["tone"]}}).set_entry_point("say")
    """
    assert await said((await load(source, a="./agent.py:graph"))["a"], tone="kind") == "kind"


RUNTIME = """
    from __future__ import annotations
    from contextlib import asynccontextmanager
    from dataclasses import dataclass
    from langgraph.graph import StateGraph
    from langgraph_sdk.runtime import ServerRuntime

    seen = []

    @dataclass
    class Tone:
        tone: str

    @asynccontextmanager
    async def graph(run: ServerRuntime[Tone], config):
        execution = run.execution_runtime
        seen.append((run.access_context, run.user, run.store, execution and execution.context))
        yield StateGraph(dict).add_node("say", lambda state: state).set_entry_point("say")
        seen.append("closed")
"""


async def test_a_factory_gets_the_runtime(load: LOAD) -> None:
    """Protocol: `ServerRuntime` says why the graph is asked for, for whom, and brings the store and typed context."""
    loaded = (await load(files={"runtime.py": RUNTIME}, a="./runtime.py:graph"))["a"]
    module, store = sys.modules["graph_file__runtime"], InMemoryStore()
    loaded.bind(checkpointer=None, store=store)

    config = thread(langgraph_auth_user="ada")
    async with loaded.open(config, durable=False, context={"tone": "kind"}):
        assert module.seen == [("threads.create_run", "ada", store, module.Tone("kind"))]
    async with loaded.open(config, durable=True, access="threads.read", context={"tone": "kind"}):
        assert module.seen[1:] == ["closed", ("threads.read", "ada", store, None)]
    assert module.seen[3:] == ["closed"]


async def test_a_context_manager_is_left_when_the_run_fails(load: LOAD) -> None:
    """Ours: what a factory opened is closed on every way out."""
    source = """
        from contextlib import contextmanager
        left = []

        @contextmanager
        def graph():
            try:
                yield builder
            finally:
                left.append(True)
    """
    loaded = (await load(source, a="./agent.py:graph"))["a"]

    async def fail() -> None:
        async with loaded.open(thread(), durable=True):
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert sys.modules["graph_file__agent"].left == [True]


async def test_a_static_graph_is_joined_once(load: LOAD) -> None:
    """Ours: a run costs no copy; only durable runs have the checkpointer, all have the store."""
    loaded = (await load("graph = builder.compile()", a="./agent.py:graph"))["a"]
    saver, store = InMemorySaver(), InMemoryStore()
    loaded.bind(checkpointer=saver, store=store)

    async with loaded.open(thread(), durable=True) as one, loaded.open(thread(), durable=True) as two:
        assert one is two
        assert one.store is store
        await one.ainvoke({}, thread())
    async with loaded.open(thread(), durable=False) as stateless:
        assert (stateless.checkpointer, stateless.store) == (None, store)
        await stateless.ainvoke({}, thread("other"))
    assert set(saver.storage) == {"t"}


async def test_what_the_user_compiled_is_left_alone(load: LOAD, caplog: pytest.LogCaptureFixture) -> None:
    """Ours: the server's checkpointer takes the place of the graph's own, and that is told once."""
    source = (
        "from langgraph.checkpoint.memory import InMemorySaver\ngraph = builder.compile(checkpointer=InMemorySaver())"
    )
    loaded = (await load(source, a="./agent.py:graph"))["a"]
    saver = InMemorySaver()
    loaded.bind(checkpointer=saver, store=None)

    own = sys.modules["graph_file__agent"].graph.checkpointer
    async with loaded.open(thread(), durable=True) as graph:
        await graph.ainvoke({}, thread())
    assert (set(own.storage), set(saver.storage)) == (set(), {"t"})
    (line,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert line.getMessage() == "a graph's own persistence is replaced by Postgres"
    assert (line.__dict__["graph_id"], line.__dict__["replaced"]) == ("a", ["InMemorySaver"])


async def test_a_factory_is_joined_for_each_use(load: LOAD) -> None:
    """Ours: whatever it returns, the same graph each time or a new one."""
    loaded = (await load("once = builder.compile()\ndef graph(): return once", a="./agent.py:graph"))["a"]
    saver, store = InMemorySaver(), InMemoryStore()
    loaded.bind(checkpointer=saver, store=store)

    async with loaded.open(thread(), durable=True) as durable, loaded.open(thread(), durable=False) as stateless:
        assert (durable.store, stateless.store, stateless.checkpointer) == (store, store, None)
        await durable.ainvoke({}, thread())
        assert (await durable.aget_state(thread())).values == {"said": "graph_file__agent"}
    assert sys.modules["graph_file__agent"].once.checkpointer is None


TYPES = """
    from dataclasses import dataclass
    from enum import Enum
    from typing import TypedDict
    from langgraph.graph import StateGraph
    from pydantic import BaseModel

    class Colour(Enum):
        RED = "red"

    @dataclass
    class Seat:
        row: int

    class Trip(BaseModel):
        seats: list[Seat]

    @dataclass
    class Inner:
        depth: int

    class State(TypedDict, total=False):
        colour: Colour
        trip: Trip
        depth: int

    class SubState(TypedDict, total=False):
        inner: Inner
        depth: int

    sub = StateGraph(SubState).add_node("dive", lambda _: {"inner": Inner(1), "depth": 1})
    sub = sub.add_node("rise", lambda state: {"depth": state["inner"].depth + 1}).add_edge("dive", "rise")
    sub = sub.set_entry_point("dive").compile(interrupt_before=["rise"]).with_config(tags=["sub"])

    builder = StateGraph(State).add_node("book", lambda _: {"colour": Colour.RED, "trip": Trip(seats=[Seat(4)])})
    builder = builder.add_node("sub", sub).add_edge("book", "sub").set_entry_point("book")
    plain = builder.compile()
    configured = plain.with_config(tags=["x"])

    def factory():
        return configured
"""


@pytest.mark.parametrize("name", ["builder", "plain", "configured", "factory"])
async def test_types_of_the_state_come_back_from_a_checkpoint(load: LOAD, name: str) -> None:
    """Ours: strict msgpack lets the graph's own types through, and its subgraphs', after `with_config` too.

    LangGraph forgets them there, and `create_agent` ends with it.
    """
    loaded = (await load(files={"types_.py": TYPES}, a=f"./types_.py:{name}"))["a"]
    types = sys.modules["graph_file__types_"]
    saver = InMemorySaver()
    loaded.bind(checkpointer=saver, store=None)

    async with loaded.open(thread(), durable=True) as graph:
        await graph.ainvoke({}, thread())
    async with loaded.open(thread(), durable=True) as graph:
        state = await graph.aget_state(thread(), subgraphs=True)
        assert state.values == {"colour": types.Colour.RED, "trip": types.Trip(seats=[types.Seat(4)])}
        assert state.tasks[0].state.values == {"inner": types.Inner(1), "depth": 1}
        assert (await graph.ainvoke(None, thread()))["depth"] == 2

    unbound = await saver.aget(thread())
    assert unbound is not None
    assert unbound["channel_values"]["colour"] == "red", "only the graph that owns a type may load it"


async def test_the_types_are_those_that_langgraph_finds(load: LOAD) -> None:
    """Ours: what we derive anew is what LangGraph derives when it compiles."""
    await load(files={"types_.py": TYPES}, a="./types_.py:builder")
    types = sys.modules["graph_file__types_"]

    assert graphs.state_types(types.plain) == types.plain._serde_allowlist | {("graph_file__types_", "Inner")}
    assert graphs.state_types(types.configured) == graphs.state_types(types.plain)
