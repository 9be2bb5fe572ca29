"""The page on configuration: every setting and every key of langgraph.json is there, and none that is not."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import pytest
from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from threadkeep import project
from threadkeep.settings import Settings, environment_names

PAGE = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()
ROW = re.compile(r"^\| (?P<names>`[^|]+`) \| (?P<second>[^|]+) \|", re.MULTILINE)
NOT_KEYS = {"root"}
"""Fields of the project that langgraph.json does not have."""


def rows(heading: str) -> dict[tuple[str, ...], str]:
    """The tables under a heading of second rank: each row's names, and its second cell."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    return {tuple(re.findall(r"`([^`]+)`", row["names"])): row["second"].strip("` ") for row in ROW.finditer(text)}


def aliases(field: FieldInfo) -> tuple[str, ...]:
    alias = field.validation_alias
    return tuple(str(one) for one in alias.choices) if isinstance(alias, AliasChoices) else (str(alias),)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a key that is an object of keys; not of one whose keys are the user's own names."""
    if get_origin(annotation) not in {None, UnionType}:
        return None
    found = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type)]
    return next((each for each in found if issubclass(each, BaseModel)), None)


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of the keys that a model reads."""
    for name, field in model.model_fields.items():
        if name in NOT_KEYS:
            continue
        if (inner := section_of(field.annotation)) is not None and prefix + name not in project.NOT_SUPPORTED:
            yield from keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_setting_is_on_the_page_and_no_other() -> None:
    """Ours: what can be set can be found, under all of its names."""
    assert {name for names in rows("Settings") for name in names} == environment_names()
    assert set(rows("Settings")) == {aliases(field) for field in Settings.model_fields.values()}


FIXED = sorted(name for name, field in Settings.model_fields.items() if field.default_factory is None)
"""Settings whose default is the same on every machine."""


@pytest.mark.parametrize("name", FIXED)
def test_the_page_gives_the_default_of(name: str) -> None:
    """Ours: a figure on the page is the one in force."""
    field = Settings.model_fields[name]
    assert rows("Settings")[aliases(field)] == ("unset" if field.default is None else str(field.default))


def test_every_key_of_langgraph_json_is_on_the_page_and_no_other() -> None:
    """Ours: those that are read and those that stop the start; a key that only builds an image is named in the text."""
    documented = {name for names in rows("langgraph.json") for name in names}
    assert documented == {*keys(project.Project), *project.NOT_SUPPORTED}
    for key in project.IMAGE_BUILD_KEYS:
        assert f"`{key}`" in PAGE, key
