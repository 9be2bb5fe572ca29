"""The agent's calculator and clock, called by themselves with what a hostile or careless model sends."""

import time

import pytest
from langchain_core.messages import ToolCall

from threadkeep import agent


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * -3", "-9"),
        ("7 / 2", "3.5"),
        ("7 // 2", "3"),
        ("-7 % 3", "2"),
        ("2 ** 10", "1024"),
        ("2 ** -1", "0.5"),
        ("0.1 + 0.2", "0.3"),
        ("1e3 * 2", "2000"),
        ("1_000 + 1", "1001"),
        ("0 ** 999999999", "0"),
    ],
)
async def test_the_calculator_calculates(expression: str, value: str) -> None:
    """Ours."""
    assert await agent.calculator.ainvoke({"expression": expression}) == value


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "9**9**9**9",
        "2**4097",
        "(2**4000)*(2**4000)",
        "(-8)**0.5",
        "1e308*10",
        "10.0**400",
        "(10**400)**-1",
        "1/0",
        "5 % 0",
        "0**-1",
        "1 +",
        "()",
        "1(2)",
        "1,2",
        "__import__('os')",
        "e",
        "1 if 1 else 2",
        "(" * 199 + "1",
        "-" * 199 + "1" + "+",
        "1+" * 500 + "1",
        "",
        "\x00",
        "1\n+\n2)",
    ],
)
async def test_a_hostile_expression_is_refused_at_once(expression: str) -> None:
    """Ours: the calculator runs in the event loop, so no input may hold it."""
    call = ToolCall(name="calculator", args={"expression": expression}, id="c", type="tool_call")
    began = time.perf_counter()
    told = await agent.calculator.ainvoke(call)

    assert told.status == "error"
    assert time.perf_counter() - began < 0.5


async def test_a_long_unary_expression_is_calculated() -> None:
    """Ours: depth within the length limit is no danger."""
    assert await agent.calculator.ainvoke({"expression": "-" * 198 + "1"}) == "1"


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "../../etc/passwd", "/etc/passwd", "Europe", "", "a\x00b", "x" * 5000]
)
async def test_an_unknown_zone_is_an_error_for_the_model(zone: str) -> None:
    """Ours: no path leads out of the zone files."""
    told = await agent.clock.ainvoke(ToolCall(name="clock", args={"zone": zone}, id="c", type="tool_call"))

    assert told.status == "error"
    assert "is not known: use an IANA name" in told.text
