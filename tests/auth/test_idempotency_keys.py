"""Idempotency keys have an owner: the same key of another principal is another key."""

import httpx
import pytest

KEY = {"idempotency-key": "one"}
RUN = {"assistant_id": "chain", "input": {"items": ["in"]}}


@pytest.mark.parametrize("path", ["/threads", "/runs", "/runs/wait", "/runs/stream"])
async def test_same_key_of_another_principal_is_another(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient, path: str
) -> None:
    """Ours: a key of one principal neither shows its results to another nor blocks the other's key."""
    body = {} if path == "/threads" else RUN

    def of(answer: httpx.Response) -> str:
        assert answer.status_code == 200, answer.text
        return answer.json()["thread_id"] if path == "/threads" else answer.headers["content-location"]

    first = of(await ada.post(path, json=body, headers=KEY))
    theirs = of(await bob.post(path, json=body, headers=KEY))

    assert first != theirs
    assert of(await ada.post(path, json=body, headers=KEY)) == first
    assert of(await bob.post(path, json=body, headers=KEY)) == theirs
