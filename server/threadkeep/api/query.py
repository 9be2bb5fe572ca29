"""The query endpoint: one question, one answer.

Without a `thread_id` each question starts a new conversation. With one, it continues the conversation.
"""

from typing import Any, cast
from uuid import UUID

import anyio
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from threadkeep.api.agents.pieces import text_pieces
from threadkeep.api.body import parse_json, read_bytes, read_query, validate
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import json_response, run_headers
from threadkeep.base import json
from threadkeep.base.problems import Problem, QueryTimeout
from threadkeep.runs.request import GraphRunOptions, RunRequest
from threadkeep.runs.service import RunHandle

DEFAULT_GRAPH = "agent"
"""The graph that answers. If the project has no graph of that name, its first graph answers."""


class QueryBody(BaseModel):
    """The question, in the body or in the query parameters."""

    model_config = ConfigDict(extra="ignore")

    query: str = Field(min_length=1)
    user_id: str | None = Field(default=None, max_length=200)
    thread_id: UUID | None = None


class QueryRunFailed(Problem):
    """The agent failed."""

    status, code = 502, "run-failed"


class QueryInterrupted(Problem):
    """The agent was interrupted by a question that this endpoint cannot pass on."""

    status, code = 409, "interrupted"


async def query(call: AuthorizedRequest[QueryBody, None]) -> Response:
    """POST /query: send one question and get one answer.

    You may also send the fields as query parameters, without a body.
    """
    handle: RunHandle | None = None
    with anyio.move_on_after(call.state.settings.query_timeout_s):
        handle = await call.state.runs.start(call.caller, _request(call))
        answer = _checked(handle, json.loads(await call.caller.guard(handle.result)))
        return json_response(
            {"response": _text(answer), "thread_id": handle.thread_id, "run_id": handle.run_id},
            headers=run_headers(handle.thread_id, handle.run_id),
        )
    # The time limit includes the wait for a slot, so there may be no run yet.
    if handle is None:
        raise QueryTimeout("Request timeout")
    # Outside of the block, whose expired scope would cancel this call too.
    await handle.cancel("the query ran over its time limit")
    raise QueryTimeout("Request timeout", thread_id=str(handle.thread_id), run_id=str(handle.run_id))


async def read_query_body(request: Request[Any]) -> QueryBody:
    """Read the question from the body, or from the query parameters if the body is empty."""
    raw = await read_bytes(request)
    question = validate(QueryBody, parse_json(raw)) if raw.strip() else read_query(request, QueryBody)
    return cast("QueryBody", question)


def _request(call: AuthorizedRequest[QueryBody, None]) -> RunRequest:
    """Return the question as a run of the default graph, on the named thread or on a new one."""
    question, graphs = call.body, call.state.graphs
    user = {"user_id": question.user_id} if question.user_id else {}
    return RunRequest(
        spec=GraphRunOptions(
            input={"messages": [{"role": "user", "content": question.query}]}, config={"configurable": user}
        ),
        assistant=DEFAULT_GRAPH if DEFAULT_GRAPH in graphs else next(iter(graphs)),
        thread_id=question.thread_id,
        metadata=user,
        configurable=call.forwarded_headers,
    )


def _checked(handle: RunHandle, answer: object) -> Any:
    """Return the graph's state. Raise QueryRunFailed if the run failed, or QueryInterrupted if the graph was interrupted."""
    if not isinstance(answer, dict):
        return answer
    state = cast("dict[str, Any]", answer)
    run: dict[str, Any] = {"thread_id": str(handle.thread_id), "run_id": str(handle.run_id)}
    if cause := state.get("__error__"):
        raise QueryRunFailed("the agent failed", cause=cause, **run)
    if interrupts := state.get("__interrupt__"):
        raise QueryInterrupted("the agent waits for an answer: resume it with a run", interrupts=interrupts, **run)
    return state


def _text(answer: Any) -> str:
    """Return the text of the last message. For a graph without messages, return its state as JSON."""
    content: Any = answer
    if isinstance(answer, dict) and (messages := cast("dict[str, Any]", answer).get("messages")):
        # The graph defines what its messages are. They need be neither a list nor objects.
        content = cast("list[Any]", messages)[-1] if isinstance(messages, list) else messages
        if isinstance(content, dict) and "content" in content:
            content = cast("dict[str, Any]", content)["content"]
            if isinstance(content, list):
                return "".join(text for kind, text in text_pieces({"content": content}) if kind == "text")
    return content if isinstance(content, str) else json.dumps(cast("object", content)).decode()
