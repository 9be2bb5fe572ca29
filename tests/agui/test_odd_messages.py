"""Messages that a graph has made up: plain dicts, and fields with values of other types."""

import httpx
import pytest

from agui.pages import Page, of_type
from openai_graphs import LONG, ODD_FIELDS


async def test_call_of_a_plain_dict_has_its_name_and_arguments(http: httpx.AsyncClient) -> None:
    """Ours: a node may return the message of OpenAI's own client, whose calls have another form."""
    page = Page(http, "plain-call")
    events = await page.say("hello")
    [start], arguments = of_type(events, "TOOL_CALL_START"), of_type(events, "TOOL_CALL_ARGS")

    assert (start["toolCallId"], start["toolCallName"]) == ("call-1", "weather")
    assert "".join(event["delta"] for event in arguments) == '{"city":"Oslo"}'
    assert events[-1]["type"] == "RUN_FINISHED"


async def test_integers_of_any_size_are_read(http: httpx.AsyncClient) -> None:
    """Ours: a node that returned a long integer."""
    page = Page(http, "long")
    events = await page.say("hello")

    assert events[-1]["type"] == "RUN_FINISHED"
    assert page.state == {"long": LONG}


@pytest.mark.parametrize("number", range(len(ODD_FIELDS)))
async def test_odd_fields_fail_no_run(http: httpx.AsyncClient, number: int) -> None:
    """Ours: a field with a value of another type broke the stream."""
    events = await Page(http, "odd").say(str(number))

    assert events[-1]["type"] == "RUN_FINISHED"
