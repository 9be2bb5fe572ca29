"""Query: one question, one answer, for programs that want no more.

Without a `thread_id` each question is a conversation of its own; with one, the conversation goes on.
"""

from typing import Any, cast
from uuid import UUID

import anyio
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from threadkeep.api.body import parse_json, read_bytes, read_query, validate
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import json_response, run_headers
from threadkeep.base import json
from threadkeep.base.problems import Problem, QueryTimeout
from threadkeep.runs.request import GraphRunOptions, RunRequest
from threadkeep.runs.service import RunHandle

DEFAULT_GRAPH = "agent"
"""Who answers, where it is served; otherwise the project's first graph."""


class QueryBody(BaseModel):
    """The question, as a body or as query parameters."""

    model_config = ConfigDict(extra="ignore")

    query: str = Field(min_length=1)
    user_id: str | None = Field(default=None, max_length=200)
    thread_id: UUID | None = None


class QueryRunFailed(Problem):
    """The agent failed."""

    status, code = 502, "run-failed"


class QueryInterrupted(Problem):
    """The agent asks something first, which this endpoint can't hand on."""

    status, code = 409, "interrupted"


async def query(call: AuthorizedRequest[QueryBody, None]) -> Response:
    """POST /query: ask one question, and get one answer; the same names as query parameters will do, without a body."""
    handle: RunHandle | None = None
    with anyio.move_on_after(call.state.settings.query_timeout_s):
        handle = await call.state.runs.start(call.caller, _request(call))
        answer = _checked(handle, json.loads(await call.caller.guard(handle.result)))
        return json_response(
            {"response": _text(answer), "thread_id": handle.thread_id, "run_id": handle.run_id},
            headers=run_headers(handle.thread_id, handle.run_id),
        )
    if handle is None:
        raise QueryTimeout("Request timeout")
    await handle.cancel("the query ran over its time limit")
    raise QueryTimeout("Request timeout", thread_id=str(handle.thread_id), run_id=str(handle.run_id))


async def read_query_body(request: Request[Any]) -> QueryBody:
    """From the body; where that is empty, from the query parameters."""
    raw = await read_bytes(request)
    asked = validate(QueryBody, parse_json(raw)) if raw.strip() else read_query(request, QueryBody)
    return cast("QueryBody", asked)


def _request(call: AuthorizedRequest[QueryBody, None]) -> RunRequest:
    """The question as a run of the default graph, on the thread that it names or on a new one."""
    asked, graphs = call.body, call.state.graphs
    told = {"user_id": asked.user_id} if asked.user_id else {}
    return RunRequest(
        spec=GraphRunOptions(
            input={"messages": [{"role": "user", "content": asked.query}]}, config={"configurable": told}
        ),
        assistant=DEFAULT_GRAPH if DEFAULT_GRAPH in graphs else next(iter(graphs)),
        thread_id=asked.thread_id,
        metadata=told,
        configurable=call.forwarded_headers,
    )


def _checked(handle: RunHandle, answer: object) -> Any:
    """The graph's state. QueryRunFailed if the run failed, QueryInterrupted if the graph asks something."""
    if not isinstance(answer, dict):
        return answer
    state = cast("dict[str, Any]", answer)
    run: dict[str, Any] = {"thread_id": str(handle.thread_id), "run_id": str(handle.run_id)}
    if cause := state.get("__error__"):
        raise QueryRunFailed("the agent failed", cause=cause, **run)
    if asks := state.get("__interrupt__"):
        raise QueryInterrupted("the agent waits for an answer; resume it with a run", interrupts=asks, **run)
    return state


def _text(answer: Any) -> str:
    """The last message's text; of a graph without messages, its state as JSON."""
    content: Any = answer
    if isinstance(answer, dict) and (messages := cast("dict[str, Any]", answer).get("messages")):
        content = messages[-1]["content"]
    if isinstance(content, list):
        return "".join(block["text"] for block in cast("list[Any]", content) if "text" in block)
    return content if isinstance(content, str) else json.dumps(content).decode()
