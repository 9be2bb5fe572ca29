"""Values of a state come back from a checkpoint as they were, and nothing is made that a row merely names."""

import datetime as dt
import importlib.util
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import ormsgpack
import pytest
from langchain_core.agents import AgentAction, AgentFinish
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.prompt_values import ChatPromptValue
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt, Send
from pydantic import AnyUrl, HttpUrl, SecretStr

from threadkeep.persistence.encoding import NotKept
from threadkeep.persistence.project_types import ProjectTypes
from threadkeep.persistence.serializer import Serializer

FOLDER = Path(__file__).parents[1] / "project_types"
DELTA = dt.timedelta(days=-1, microseconds=3)


@pytest.fixture(scope="module")
def kinds() -> ModuleType:
    """The module of a project's types."""
    spec = importlib.util.spec_from_file_location("kinds_of_the_project", FOLDER / "kinds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def serializer() -> Serializer:
    """Of the project; nothing is listed."""
    return Serializer(types=ProjectTypes([FOLDER]))


def _same(serializer: Serializer, value: Any) -> Any:
    """The value, behind `Any`, in a list, and in a dictionary; its type is the very same."""
    for held in (value, [value], {"deep": {"er": value}}, (value, 1)):
        back = serializer.loads_typed(serializer.dumps_typed(held))
        assert back == held
        assert _types(back) == _types(held)
    return serializer.loads_typed(serializer.dumps_typed(value))


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return type(value), {key: (type(key), _types(part)) for key, part in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return type(value), [_types(part) for part in value]
    return type(value)


PLAIN: list[Any] = [
    None, True, 0, -1, 1.5, "text", b"\x00\xff", [1, [2]], {"a": {"b": 1}},
    2**63, 2**70, -(2**70), 10**5000, range(0, 10, 2), slice(1, None, 2), 1 + 2j, Decimal("1.10"), Decimal("Infinity"),
    UUID(int=7), DELTA, dt.date(2026, 1, 2), dt.time(1, 2, 3), dt.datetime(2026, 1, 2, tzinfo=dt.UTC), ZoneInfo("Europe/Rome"),
    {1, 2}, frozenset({(1, 2)}), {(1, (2, 3)), (4,)}, deque([1, 2]), (1, (2, 3)), (), OrderedDict(b=1, a=2), Counter("aab"), defaultdict(list, a=[1]),
    HttpUrl("https://example.com/a?b=c"), AnyUrl("ftp://example.com"), SecretStr("secret"), ip_address("::1"), Path("/a/b"),
    Fraction(1, 3), Fraction(2**70, 3), PurePosixPath("/a"), PureWindowsPath("C:/a"),
    {1: "a", None: "b", 1.5: "c", "d": "d", b"e": "e"}, {UUID(int=7): 1, dt.date(2026, 1, 2): 2, Decimal("1.5"): 3, (1, 2): 4},
    {"deep": [{UUID(int=7): {2**70: 1}}]},
    Interrupt(value={"ask": Decimal(1)}, id="1"), Send("node", {"amount": Decimal(1), "pair": (1, 2)}),
    AgentFinish({"a": 1}, "log"), AgentAction(tool="t", tool_input={"a": 1}, log="l"), ChatPromptValue(messages=[AIMessage("x")]),
    LLMResult(generations=[[ChatGeneration(message=AIMessage("x"))]]), ChatResult(generations=[]),
    Document(page_content="x", metadata={"at": dt.date(2026, 1, 2)}), AIMessage("x", additional_kwargs={"amount": 2**70}),
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_a_plain_value_is_restored_unchanged(serializer: Serializer, value: Any) -> None:
    """The same value, of the same type, however deep."""
    _same(serializer, value)


async def test_types_of_the_project_are_restored_unchanged(serializer: Serializer, kinds: Any) -> None:
    """Dataclasses, enums, models, NamedTuples and nested types, though nothing lists them."""
    box = kinds.Box(kinds.Colour.RED)
    values = [
        kinds.Colour.RED, kinds.Colour.PAIR, kinds.Colour.MADE, kinds.Level.LOW, kinds.Word.YES,
        kinds.Rights.READ | kinds.Rights.WRITE, kinds.Point(1, box), kinds.Name("ada"), kinds.Bag(a=box),
        box, kinds.Frozen("x", (box,)), kinds.Answer(city="Rome", box=box), kinds.Answer(city="Rome", box=kinds.Answer(city="Oslo")),
        kinds.Renamed(cityName="Rome"), kinds.Open(more=box), kinds.Numbers([1, 2]), kinds.Generically[int](value=1),
        kinds.Generically[kinds.Box](value=box), kinds.Checked(3), kinds.Outer.Inner(1), kinds.Outer.Kind.A,
        kinds.Priced("pen", box, 2), kinds.Fixed("x"), kinds.Money("1.50"), kinds.Share(1, 3), kinds.Old(city="Rome", box=1),
        ToolMessage("done", tool_call_id="1", artifact=kinds.Answer(city="Rome")),
        {kinds.Colour.RED: 1, kinds.Frozen("x"): 2, kinds.Point(1, 2): 3, kinds.Name("n"): 4},
    ]  # fmt: skip
    for value in values:
        _same(serializer, value)
    assert _same(serializer, kinds.Answer(city="Rome")).model_fields_set == {"city"}


async def test_the_result_of_a_constructor_is_not_constructed_twice(serializer: Serializer, kinds: Any) -> None:
    """Fields are restored, and other attributes are created again."""
    made = kinds.Made(1, seed=2)
    back = _same(serializer, made)
    assert (back.count, back.double) == (4, 8)
    assert back.lock is not None

    private = kinds.Private()
    private._seen = 3
    assert _same(serializer, private)._seen == 3
    strict = kinds.Strict.model_construct(even=3)
    assert _same(serializer, strict).even == 3
    locked = serializer.loads_typed(serializer.dumps_typed(kinds.Locked(city="Oslo")))
    assert (locked.city, type(locked._lock)) == ("Oslo", object)
    priced = kinds.Priced("pen")
    object.__setattr__(priced, "name", "as it was left")  # past the converter
    assert _same(serializer, priced).name == "as it was left"
    told = serializer.loads_typed(serializer.dumps_typed(kinds.Told(client=object())))
    assert told == kinds.Told(client="a client")


@pytest.mark.parametrize("zone", [None, ZoneInfo("Europe/Rome"), dt.UTC])
@pytest.mark.parametrize("fold", [0, 1])
def test_datetime_keeps_its_zone_and_which_of_two_hours_it_is(
    serializer: Serializer, zone: dt.tzinfo | None, fold: int
) -> None:
    """An offset is not a zone: a day later the clock may have changed."""
    back = _same(serializer, dt.datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=fold))

    assert (back.tzinfo, back.fold) == (zone, fold)


def test_lone_surrogate_in_a_key_is_replaced_as_in_a_value(serializer: Serializer) -> None:
    """No UTF-8 holds it."""
    assert serializer.loads_typed(serializer.dumps_typed({"a\ud800": {"b\udc00": "c\ud800"}})) == {"a?": {"b?": "c?"}}


@pytest.mark.parametrize(
    "value",
    [object(), lambda: 1, 1 << 400_001, defaultdict(lambda: 1), iter(()), sys],
    ids=lambda value: type(value).__name__,
)
def test_value_without_a_form_is_refused(serializer: Serializer, value: Any) -> None:
    """Not half of it, and not as something else."""
    for held in (value, [value], {"a": (value,)}):
        with pytest.raises(NotKept):
            serializer.dumps_typed(held)


def test_value_that_contains_itself_is_refused(serializer: Serializer) -> None:
    """It has no end."""
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(NotKept):
        serializer.dumps_typed(endless)


@pytest.mark.parametrize("value", [{"a": [1, Decimal(1)]}, range(3), 2**70, 1j, (1, 2), HttpUrl("https://example.com")])
def test_the_stock_serializer_reads_our_values(serializer: Serializer, value: Any) -> None:
    """A database can go to the stock saver: its reader makes the same values if it allows all."""
    assert JsonPlusSerializer(allowed_msgpack_modules=True).loads_typed(serializer.dumps_typed(value)) == value


POISON: list[tuple[str, str]] = [
    ("os", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "open"),
    ("importlib", "import_module"),
    ("pydantic.networks", "import_email_validator"),
    ("pydantic.types", "create_model"),
    ("numpy", "load"),
    ("pandas", "read_pickle"),
    ("threadkeep.cli", "main"),
    ("threadkeep.settings", "Settings"),
    ("kinds_of_the_project", "not_a_type"),
    ("kinds_of_the_project", "Service"),
    ("kinds_of_the_project", "BaseModel"),
    ("kinds_of_the_project", "enum.Enum"),
    ("kinds_of_the_project", "Answer.model_validate"),
    ("kinds_of_the_project", "Answer.__init__.__globals__"),
    ("script_of_the_project", "Anything"),
    ("no_such_module", "Anything"),
    ("..", "Anything"),
    ("conftest", "Gate"),
]


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize("place", POISON, ids=".".join)
@pytest.mark.parametrize("code", range(8))
def test_a_row_that_names_another_object_creates_nothing(
    serializer: Serializer, place: tuple[str, str], code: int
) -> None:
    """Code of other packages is refused. So are objects that the project only imports, or that hold no values."""
    for payload in ("echo", ["echo"], {"command": "echo"}):
        for further in ([], ["RED"], ["__init__", {"whole": True, "set": [], "extra": [], "private": {}}]):
            row = ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb([*place, payload, *further])))

            made = serializer.loads_typed(("msgpack", row))

            assert made in (payload, None) or code == 7


def test_file_of_the_project_is_imported_only_for_a_class_that_it_defines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph may import a module only in its nodes; a script that defines no such class is not run."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lazy_kinds.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Box:\n    width: int\n"
    )
    (tmp_path / "drop_all.py").write_text("raise SystemExit\n")
    types = ProjectTypes([tmp_path])

    assert types.find("drop_all", "Box") is None
    found = types.find("lazy_kinds", "Box")
    assert found is not None
    assert found(1).width == 1
    assert ProjectTypes([tmp_path / "elsewhere"]).find("lazy_kinds", "Box") is None
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "library_kinds.py").write_text((tmp_path / "lazy_kinds.py").read_text())
    monkeypatch.syspath_prepend(installed)
    assert types.find("library_kinds", "Box") is None
    assert ProjectTypes(packages=["library_kinds"]).find("library_kinds", "Box") is not None


def test_no_package_from_elsewhere_is_imported_to_look_a_class_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python imports the packages around a module before it finds it."""
    project, elsewhere = (tmp_path / "project", tmp_path / "elsewhere")
    for folder, package in ((project, "own_package"), (elsewhere, "strange_package")):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("")
        (folder / package / "kinds.py").write_text("import enum\nclass Kind(enum.Enum):\n    A = 1\n")
        monkeypatch.syspath_prepend(folder)
    types = ProjectTypes([project])

    assert types.find("strange_package.kinds", "Kind") is None
    assert "strange_package" not in sys.modules
    assert types.find("own_package.kinds", "Kind") is not None
