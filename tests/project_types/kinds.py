"""A project's own types, of every kind that a state may hold."""

import enum
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import attrs
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, field_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.v1 import BaseModel as BaseModelV1

Value = TypeVar("Value")


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)
    MADE = object()


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Point(NamedTuple):
    x: int
    y: Any


class Name(str):
    __slots__ = ()


class Money(Decimal):
    """An amount."""


class Share(Fraction):
    """A part of one."""


class Old(BaseModelV1):
    """A model of pydantic's first version."""

    city: str
    box: Any = None


class Bag(dict[str, Any]):
    """A dictionary of its own class."""


@dataclass
class Box:
    width: Any
    pair: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    boxes: tuple[Box, ...] = ()


@dataclass
class Made:
    """One whose constructor changes what it is given, and makes more."""

    count: int
    seed: InitVar[int] = 0
    double: int = field(init=False, default=0)

    def __post_init__(self, seed: int) -> None:
        self.count += 1 + seed
        self.double = self.count * 2
        self.lock = object()


class Answer(BaseModel):
    city: str
    box: Any = None
    pair: tuple[int, int] = (1, 2)


class Renamed(BaseModel):
    city: str = Field(alias="cityName")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    city: str = "Rome"


class Private(BaseModel):
    city: str = "Rome"
    _seen: int = PrivateAttr(default=0)


class Locked(BaseModel):
    city: str = "Rome"
    _lock: Any = PrivateAttr(default_factory=object)


class Strict(BaseModel):
    """One that refuses what it holds by now."""

    even: Annotated[int, Field(multiple_of=2)] = 2


class Told(BaseModel):
    """One that has another form for what can't be written."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    client: Any = None

    @field_serializer("client")
    def _as_text(self, _: Any) -> str:
        return "a client"


class Numbers(RootModel[list[int]]):
    """A model that is a list."""


class Generically(BaseModel, Generic[Value]):
    value: Value


@pydantic_dataclass
class Checked:
    width: int


@attrs.define
class Priced:
    """A class that attrs made, with slots and a converter."""

    name: str = attrs.field(converter=str.upper)
    box: Any = None
    _hidden: int = 1


@attrs.frozen
class Fixed:
    name: str


class Outer:
    """What holds a type of its own."""

    @dataclass
    class Inner:
        depth: int

    class Kind(enum.Enum):
        A = 1


def not_a_type(*_: Any) -> str:
    """What no row may call."""
    raise AssertionError


class Service:
    """No type of a value."""

    def __init__(self, *_: Any) -> None:
        raise AssertionError
