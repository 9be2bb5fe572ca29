"""Crons: runs on a schedule; make one, change it, find it, delete it."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import BadRequestError, NotFoundError, UnprocessableEntityError

from threadkeep.tables.assistants import system_id


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


NEW_YEAR = "0 0 1 1 *"
CHAIN = str(system_id("chain"))


def _cron(made: Any) -> dict[str, Any]:
    """The SDK calls a new cron a run."""
    return dict(made)


def _next_new_year(zone: ZoneInfo | None = None) -> str:
    now = datetime.now(UTC).astimezone(zone or UTC)
    return datetime(now.year + 1, 1, 1, tzinfo=zone or UTC).astimezone(UTC).isoformat()


async def test_a_new_cron_has_its_next_date_and_its_payload(client: LangGraphClient) -> None:
    """Protocol: POST /runs/crons answers with the cron."""
    made = _cron(
        await client.crons.create(
            "chain",
            schedule=NEW_YEAR,
            input={"items": []},
            metadata={"team": "a"},
            timezone=ZoneInfo("Europe/Berlin"),
            end_time=datetime(2999, 1, 1, tzinfo=UTC),
            durability="exit",
        )
    )

    times = {name: made.pop(name) for name in ("created_at", "updated_at")}
    assert uuid.UUID(made.pop("cron_id")).version == 7
    assert times["created_at"] == times["updated_at"]
    assert made == {
        "assistant_id": CHAIN,
        "thread_id": None,
        "user_id": None,
        "end_time": "2999-01-01T00:00:00+00:00",
        "schedule": NEW_YEAR,
        "timezone": "Europe/Berlin",
        "payload": {
            "assistant_id": CHAIN,
            "schedule": NEW_YEAR,
            "timezone": "Europe/Berlin",
            "input": {"items": []},
            "metadata": {"team": "a"},
            "end_time": "2999-01-01T00:00:00Z",
            "durability": "exit",
        },
        "next_run_date": _next_new_year(ZoneInfo("Europe/Berlin")),
        "metadata": {"team": "a"},
        "on_run_completed": "delete",
        "enabled": True,
    }


async def test_cron_on_a_thread_goes_with_it(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Protocol: POST /threads/{id}/runs/crons. Ours: no cron outlives its thread."""
    thread = await client.threads.create()
    made = _cron(await client.crons.create_for_thread(thread["thread_id"], CHAIN, schedule=NEW_YEAR))

    assert (made["thread_id"], made["on_run_completed"]) == (thread["thread_id"], None)
    assert (await http.get(f"/runs/crons/{made['cron_id']}")).json() == made

    await client.threads.delete(thread["thread_id"])

    assert (await http.get(f"/runs/crons/{made['cron_id']}")).status_code == 404


async def test_sixth_field_is_seconds(client: LangGraphClient) -> None:
    """Protocol: seconds come last, as the reference reads them."""
    made = _cron(await client.crons.create("chain", schedule=f"{NEW_YEAR} 30"))

    assert made["next_run_date"] == _next_new_year().replace("00:00:00+", "00:00:30+")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"schedule": ""},
        {"schedule": "at noon"},
        {"schedule": "* * * *"},
        {"schedule": "61 * * * *"},
        {"schedule": "0 0 30 2 *"},
        {"schedule": "0 0 31 4,6,9,11 *"},
        {"schedule": "1," * 200 + "1 * * * *"},
        {"schedule": NEW_YEAR, "timezone": "Mars/Olympus"},
        {"schedule": NEW_YEAR, "timezone": "America"},
        {"schedule": NEW_YEAR, "timezone": ""},
        {"schedule": NEW_YEAR, "timezone": "../../etc/passwd"},
        {"schedule": NEW_YEAR, "end_time": "tomorrow"},
        {"schedule": NEW_YEAR, "end_time": "0001-01-01T00:00:00+14:00"},
        {"schedule": NEW_YEAR, "on_run_completed": "burn"},
        {"schedule": NEW_YEAR, "webhook": "http://127.0.0.1/"},
    ],
)
async def test_a_cron_that_can_never_run_is_refused(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """Protocol: 422. Ours: for a date that never comes and a missing schedule, too."""
    answer = await http.post("/runs/crons", json={"assistant_id": "chain", **body})

    assert answer.status_code == 422, answer.text
    assert (await http.post("/runs/crons/count", json={})).json() == 0


@pytest.mark.parametrize("named", ["nope", "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"])
async def test_unknown_assistant_is_not_found(client: LangGraphClient, named: str) -> None:
    """Protocol: 404 with the assistant's name."""
    with pytest.raises(NotFoundError) as refused:
        await client.crons.create(named, schedule=NEW_YEAR)

    assert refused.value.response.json()["detail"] == f"Assistant '{named}' not found"


async def test_unknown_thread_and_cron_are_not_found(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Protocol: 404; 422 where the id is none."""
    nobody = str(uuid.uuid4())

    with pytest.raises(NotFoundError):
        await client.crons.create_for_thread(nobody, "chain", schedule=NEW_YEAR)
    with pytest.raises(NotFoundError):
        await client.crons.update(nobody, enabled=False)
    with pytest.raises(NotFoundError):
        await client.crons.delete(nobody)
    assert (await http.get("/runs/crons/x")).json()["detail"] == "Invalid cron ID: must be a UUID"


async def test_an_update_changes_the_named_fields_and_the_next_date(client: LangGraphClient) -> None:
    """Protocol: PATCH merges metadata, replaces the rest, and computes the next date anew."""
    made = _cron(
        await client.crons.create("chain", schedule=NEW_YEAR, metadata={"a": 1}, webhook="https://example.com")
    )

    changed = await client.crons.update(
        made["cron_id"],
        schedule=f"{NEW_YEAR} 30",
        metadata={"b": 2},
        input={"items": ["x"]},
        enabled=False,
        on_run_completed="keep",
        end_time=datetime(2999, 1, 1, tzinfo=UTC),
    )

    expected = made | {
        "schedule": f"{NEW_YEAR} 30",
        "metadata": {"a": 1, "b": 2},
        "payload": made["payload"]
        | {
            "schedule": f"{NEW_YEAR} 30",
            "metadata": {"a": 1, "b": 2},
            "input": {"items": ["x"]},
            "enabled": False,
            "on_run_completed": "keep",
            "end_time": "2999-01-01T00:00:00Z",
        },
        "enabled": False,
        "on_run_completed": "keep",
        "end_time": "2999-01-01T00:00:00+00:00",
        "next_run_date": _next_new_year().replace("00:00:00+", "00:00:30+"),
        "updated_at": changed["updated_at"],
    }
    assert changed == expected


async def test_end_time_can_be_set_and_cleared(client: LangGraphClient) -> None:
    """Protocol: an `end_time` of null. Ours: behind its end a cron has no next date."""
    past = datetime.now(UTC) - timedelta(days=1)
    made = _cron(await client.crons.create("chain", schedule=NEW_YEAR, end_time=past))
    assert made["next_run_date"] is None

    cleared = await client.crons.update(made["cron_id"], end_time=None)

    assert (cleared["end_time"], cleared["next_run_date"]) == (None, _next_new_year())


async def test_an_empty_or_senseless_update_is_refused(client: LangGraphClient) -> None:
    """Protocol: `{}` is 400, a bad schedule 422; the cron stays as it was."""
    made = _cron(await client.crons.create("chain", schedule=NEW_YEAR, context={"a": 1}))

    with pytest.raises(BadRequestError):
        await client.crons.update(made["cron_id"])
    with pytest.raises(UnprocessableEntityError):
        await client.crons.update(made["cron_id"], schedule="never")
    with pytest.raises(BadRequestError):
        await client.crons.update(made["cron_id"], config={"configurable": {"a": 2}})

    assert await client.crons.search() == [made]


async def test_a_search_finds_crons_by_their_fields_and_counts_all(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    """Protocol: search, count, select, sort. Ours: the total is the true one."""
    thread = await client.threads.create()
    first = _cron(await client.crons.create("chain", schedule=NEW_YEAR, metadata={"n": 1}))
    second = _cron(await client.crons.create_for_thread(thread["thread_id"], "asking", schedule=NEW_YEAR))
    third = _cron(await client.crons.create("chain", schedule=NEW_YEAR, enabled=False))

    assert await client.crons.search() == [third, second, first]
    assert await client.crons.search(assistant_id="chain", sort_by="created_at", sort_order="asc") == [first, third]
    assert await client.crons.search(thread_id=thread["thread_id"]) == [second]
    assert await client.crons.search(enabled=False) == [third]
    assert await client.crons.search(metadata={"n": 1}) == [first]
    assert await client.crons.search(limit=1, offset=1, select=["cron_id"]) == [{"cron_id": second["cron_id"]}]
    assert (await client.crons.count(), await client.crons.count(assistant_id=CHAIN)) == (3, 2)

    answer = await http.post("/runs/crons/search", json={"limit": 2})
    assert (answer.headers["x-pagination-total"], answer.headers["x-pagination-next"]) == ("3", "2")


async def test_deleted_cron_is_gone(client: LangGraphClient) -> None:
    """Protocol: DELETE /runs/crons/{id} answers 204."""
    made = _cron(await client.crons.create("chain", schedule=NEW_YEAR))

    await client.crons.delete(made["cron_id"])

    assert await client.crons.search() == []
    with pytest.raises(NotFoundError):
        await client.crons.delete(made["cron_id"])
