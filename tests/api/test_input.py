"""Input: what JSON allows a client to send, and Postgres, Python or LangGraph can't hold."""

import httpx
import pytest

RUN = {"assistant_id": "chain", "input": {"items": []}}


def _nested(levels: int) -> str:
    return '{"metadata":' + '{"a":' * (levels - 1) + "1" + "}" * levels


async def test_body_may_be_nested_but_not_for_ever(http: httpx.AsyncClient) -> None:
    """Ours: 100 levels. A deeper body is refused before it is decoded, not by a stack overflow."""
    answers = [await http.post("/threads", content=_nested(levels)) for levels in (100, 101, 900, 100_000)]

    assert [answer.status_code for answer in answers] == [200, 422, 422, 422]
    assert answers[1].json() == {"detail": "the body is nested more than 100 levels deep", "code": "invalid"}


async def test_many_brackets_side_by_side_are_not_deep(http: httpx.AsyncClient) -> None:
    """Ours: breadth is bounded by the size of the body alone."""
    metadata = {"rows": [{"n": [number]} for number in range(1000)]}

    assert (await http.post("/threads", json={"metadata": metadata})).json()["metadata"] == metadata


async def test_nul_is_handled_alike_in_a_query_and_in_a_body(http: httpx.AsyncClient) -> None:
    """Protocol: U+FFFD. Ours: in queries too, for neither can be stored."""
    await http.put("/store/items", json={"namespace": ["a"], "key": "k\0", "value": {"n": 1}})
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run = (await http.post(f"/threads/{thread_id}/runs", json=RUN | {"after_seconds": 60})).json()

    item = (await http.get("/store/items?namespace=a&key=k%00")).json()
    cancelled = await http.post(f"/threads/{thread_id}/runs/{run['run_id']}/cancel?reason=%00")
    answered = await http.post("/query?query=%00&user_id=%00")

    assert item["key"] == "k\N{REPLACEMENT CHARACTER}"
    assert (cancelled.status_code, answered.status_code) == (202, 200)


@pytest.mark.parametrize("ttl", [5e-324, 1e-7, 0])
async def test_item_lives_for_a_time_that_postgres_can_tell(http: httpx.AsyncClient, ttl: float) -> None:
    """Ours: an interval has no exponent."""
    answer = await http.put("/store/items", json={"namespace": ["a"], "key": "k", "value": {}, "ttl": ttl})

    assert answer.status_code == 422


@pytest.mark.parametrize("goto", [{}, 5, [["first"]], {"node": 5}])
async def test_a_jump_to_an_unknown_node_is_refused(http: httpx.AsyncClient, goto: object) -> None:
    """Protocol: a name, a `{"node", "input"}`, or a list of these."""
    thread_id = (await http.post("/threads", json={"metadata": {"graph_id": "chain"}})).json()["thread_id"]
    bodies = {"state": {"command": {"goto": goto}}, "runs/wait": RUN | {"command": {"goto": goto}}}
    answers = [await http.post(f"/threads/{thread_id}/{path}", json=body) for path, body in bodies.items()]

    assert [answer.status_code for answer in answers] == [422, 422]
