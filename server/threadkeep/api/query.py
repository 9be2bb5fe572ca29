"""Query: one question, one answer, for programs that want no more.

Without a `thread_id` each question is a conversation of its own; with one, the conversation goes on.
"""

from typing import Any, cast
from uuid import UUID

import anyio
import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from threadkeep.api.body import decode, read_bytes, read_query, validated
from threadkeep.api.langgraph.existing_runs import stop
from threadkeep.api.operation import Call
from threadkeep.api.responses import json_answer, run_headers
from threadkeep.base import json
from threadkeep.base.problems import Problem, QueryTimeout
from threadkeep.runs import follow
from threadkeep.runs.admission import Admission, Admitted, run_foreground
from threadkeep.runs.request import RunSpec
from threadkeep.tables.cancels import Target

DEFAULT_GRAPH = "agent"
"""Who answers, where it is served; otherwise the project's first graph."""


class QueryBody(BaseModel):
    """The question, as a body or as query parameters."""

    model_config = ConfigDict(extra="ignore")

    query: str = Field(min_length=1)
    user_id: str | None = Field(default=None, max_length=200)
    thread_id: UUID | None = None


class QueryFailed(Problem):
    """The agent failed."""

    status, code = 502, "run-failed"


class QueryInterrupted(Problem):
    """The agent asks something first, which this endpoint can't hand on."""

    status, code = 409, "interrupted"


async def query(call: Call[QueryBody, None]) -> Response:
    """POST /query: ask one question, and get one answer; the same names as query parameters will do, without a body."""
    admitted: Admitted | None = None
    with anyio.move_on_after(call.engine.settings.query_timeout_s):
        admitted = await run_foreground(call.engine, call.filters, await _admission(call))
        answer = await _answer(call, admitted)
        return json_answer(
            {"response": _text(answer), "thread_id": admitted.thread_id, "run_id": admitted.run_id},
            headers=run_headers(admitted.thread_id, admitted.run_id),
        )
    if admitted is None:
        raise QueryTimeout("Request timeout")
    target = Target(thread_id=admitted.thread_id, run_ids=[admitted.run_id])
    await stop(call.engine, call.filters, target, "interrupt", "the query ran over its time limit")
    raise QueryTimeout("Request timeout", thread_id=str(admitted.thread_id), run_id=str(admitted.run_id))


async def read(request: Request[Any]) -> QueryBody:
    """From the body; where that is empty, from the query parameters."""
    raw = await read_bytes(request)
    asked = validated(QueryBody, decode(raw)) if raw.strip() else read_query(request, QueryBody)
    return cast("QueryBody", asked)


async def _admission(call: Call[QueryBody, None]) -> Admission:
    asked, graphs = call.body, call.engine.graphs
    graph_id = DEFAULT_GRAPH if DEFAULT_GRAPH in graphs else next(iter(graphs))
    configurable = {"user_id": asked.user_id} if asked.user_id else {}
    spec = RunSpec(
        input={"messages": [{"role": "user", "content": asked.query}]}, config={"configurable": configurable}
    )
    return Admission(
        spec=call.configured(spec),
        chosen=await call.assistants.choose(call.filters, graph_id),
        thread_id=asked.thread_id,
        metadata={**call.marks, **({"user_id": asked.user_id} if asked.user_id else {})},
        user=call.user,
    )


async def _answer(call: Call[QueryBody, None], admitted: Admitted) -> Any:
    if admitted.live is not None and (outcome := await admitted.live.wait()):
        raw = outcome.answer
    else:
        raw = await follow.answer(call.engine, call.filters, admitted.thread_id, admitted.run_id)
    answer = orjson.loads(raw)
    if not isinstance(answer, dict):
        return answer
    found = cast("dict[str, Any]", answer)
    thread_id, run_id = str(admitted.thread_id), str(admitted.run_id)
    if cause := found.get("__error__"):
        raise QueryFailed("the agent failed", cause=cause, thread_id=thread_id, run_id=run_id)
    if asks := found.get("__interrupt__"):
        detail = "the agent waits for an answer; resume it with a run"
        raise QueryInterrupted(detail, interrupts=asks, thread_id=thread_id, run_id=run_id)
    return found


def _text(answer: Any) -> str:
    """The last message's text; of a graph without messages, its state as JSON."""
    content: Any = answer
    if isinstance(answer, dict) and (messages := cast("dict[str, Any]", answer).get("messages")):
        content = messages[-1]["content"]
    if isinstance(content, list):
        return "".join(block["text"] for block in cast("list[Any]", content) if "text" in block)
    return content if isinstance(content, str) else json.dumps(content).decode()
