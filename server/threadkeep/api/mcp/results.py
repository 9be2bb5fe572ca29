"""Results: the output of a run as the result of a tool.

`content` is for models, `structuredContent` for programs. Clients refuse a structured result that does not fit the tool's
output schema, so a value that does not fit is only in the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from uuid import UUID

from threadkeep.api.agents.content import content_blocks, messages_of
from threadkeep.api.agents.questions import Question, question_schema, question_text
from threadkeep.api.mcp.arguments import misfits
from threadkeep.api.mcp.run_output import RunOutput
from threadkeep.api.mcp.schemas import OUTPUT, THREAD_ID
from threadkeep.api.mcp.tools import Tool
from threadkeep.base import json

Result = dict[str, Any]
COMPLETE: Final = "complete"


async def tool_result(tool: Tool, output: RunOutput, thread_id: UUID) -> Result:
    """Return the output of a run for a client without elicitation."""
    if not output.is_success:
        return error_result(failure_text(output), thread_id)
    if output.questions:
        return await question_result(tool, output, thread_id)
    return await run_result(tool, output, thread_id)


def failure_text(output: RunOutput) -> str:
    """Why a run failed. A hidden reason has the id by which the operator finds it in the log."""
    request_id = (output.end.error or {}).get("request_id")
    return output.end.message + (f" (request {request_id})" if request_id else "")


async def run_result(tool: Tool, output: RunOutput, thread_id: UUID) -> Result:
    """Return the result of a run that has succeeded."""
    message = _last_answer(output.values) if tool.schemas.gives_messages else None
    encoded = await json.dumps_in_pieces(output.values) if message is None else b""
    content = [text_content(encoded.decode())] if message is None else message_content(message)
    return await _result(tool, output, thread_id, content)


async def question_result(tool: Tool, output: RunOutput, thread_id: UUID) -> Result:
    """Return the result of a run that waits for an answer, for a client without elicitation: how to answer by another call."""
    text = question_help(tool, output.questions, thread_id)
    return await _result(tool, output, thread_id, [text_content(text)])


def error_result(text: str, thread_id: UUID | None = None) -> Result:
    """The result of a call that failed."""
    content = [text_content(text)]
    if thread_id is not None:
        content.append(_thread_content(thread_id))
    return {"resultType": COMPLETE, "content": content, "isError": True}


def question_help(tool: Tool, questions: Sequence[Question], thread_id: UUID) -> str:
    """Return the graph's question and how to answer it."""
    several = len(questions) > 1
    lines = ["The agent asks:" if not several else "The agent asks several questions:"]
    for question in questions:
        lines.append(f"- {question.interrupt_id}: {question_text(question)}" if several else question_text(question))
        if (schema := question_schema(question)) is not None:
            lines.append(f"The answer must fit the JSON schema {_json(schema)}")
    answer = "an object from the id of each question to its answer" if several else "the answer"
    lines.append(f"To answer, call {tool.name} again with thread_id {thread_id} and resume: {answer}.")
    return "\n".join(lines)


def message_content(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The blocks of a message."""
    return [_block_content(block) for block in content_blocks(message)]


def text_content(text: str) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": text}


async def _result(tool: Tool, output: RunOutput, thread_id: UUID, content: list[dict[str, Any]]) -> Result:
    return {
        "resultType": COMPLETE,
        "content": [*content, _thread_content(thread_id)],
        "structuredContent": await _structured(tool, output.values, thread_id),
        "isError": False,
    }


async def _structured(tool: Tool, values: object, thread_id: UUID) -> dict[str, Any]:
    # The text of a chat is in `content`. A program that wants the state reads the thread.
    if tool.schemas.is_chat:
        return {THREAD_ID: str(thread_id)}
    properties = tool.schemas.output_schema["properties"]
    made = _as_object(values, properties)
    structured = {THREAD_ID: str(thread_id), **made}
    # A graph may write values that its schema forbids. They are dropped here and remain in the text.
    wrong = await misfits(tool.schemas.output_schema, structured)
    return {name: value for name, value in structured.items() if name not in wrong}


def _as_object(values: object, properties: Mapping[str, Any]) -> dict[str, Any]:
    """The output as an object. Another value is put under `output`."""
    if isinstance(values, dict):
        return cast("dict[str, Any]", values)
    return {OUTPUT: values} if values is not None and OUTPUT in properties else {}


def _last_answer(values: object) -> dict[str, Any] | None:
    """Return the last message of the model, or None."""
    return next((each for each in reversed(messages_of(values)) if each.get("type") in {"ai", "AIMessageChunk"}), None)


def _block_content(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block of LangChain as one of MCP. Data at a URL becomes a link, and a block without a counterpart in MCP becomes JSON."""
    kind, data, mime_type = block["type"], block.get("base64"), block.get("mime_type")
    if kind == "text":
        return text_content(block["text"])
    if kind in {"image", "audio"} and isinstance(data, str):
        return {"type": kind, "data": data, "mimeType": mime_type or f"{kind}/*"}
    return text_content(_json(block.get("value") if kind == "non_standard" else block))


def _thread_content(thread_id: UUID) -> dict[str, Any]:
    """For hosts that show models nothing but the content."""
    return text_content(f"thread_id: {thread_id}")


def _json(value: object) -> str:
    return json.dumps(value).decode()
