"""The built-in agent: a graph with `messages` that calls a model and its tools in a loop.

Each model call and each tool call is a separate task. A run that continues after a crash or an interrupt repeats no
finished task. The thread's state contains each step as soon as it has ended. Without a model's name the agent uses the
offline model, which needs no key and calls no host.
"""

import ast
import hashlib
import importlib
import json
import math
import re
import zoneinfo
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any, cast
from urllib.parse import quote
from uuid import uuid4

import anyio.to_thread
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, ToolException, tool
from langgraph.config import get_config, get_store
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict  # pydantic needs this one for the input's schema before Python 3.12

from threadkeep.base.problems import StartupError
from threadkeep.offline_model import OfflineModel

# A model may call tools forever. LangGraph's recursion limit would end such a run with an error instead of an answer.
MAX_MODEL_CALLS = 8
"""Largest number of model calls for one input."""

EXPRESSION_CHARS = 200
NUMBER_BITS = 4096
"""Bits of the calculator's largest integer: about 1,200 digits. No power of this size takes long."""

FACT_CHARS = 1000
FACTS = 100
"""Largest number of facts in the result of `recall`."""

ANSWERS = ("respond", "approve", "reject")
"""The decisions that answer a question: `respond` with a text, `approve`, or `reject` with a reason."""


def merge_messages(conversation: list[AnyMessage], update: Any) -> list[AnyMessage]:
    """Append new messages to the conversation, or replace those with the same id. Raise ValueError for other values."""
    try:
        return cast("list[AnyMessage]", add_messages(cast("Any", conversation), update))
    except (ValueError, TypeError, NotImplementedError):
        raise ValueError("each message must have a `role` or a `type`, and `content`") from None


class Conversation(TypedDict):
    """Messages in LangChain's form. The input has the new messages, the output and the state all of the thread.

    The input may also be dicts, or a string for one human message.
    """

    messages: Annotated[list[AnyMessage], merge_messages]


def build(model: str | None = None, base_url: str | None = None, *, pause_s: float = 0) -> Pregel[Any, Any, Any, Any]:
    """Return the agent's graph, without a checkpointer or a store, which the server adds.

    `model` is `provider:name`. None is the offline model, which pauses for `pause_s` seconds before each streamed word.
    Raise StartupError if the model cannot be loaded.
    """
    return graph_of(OfflineModel(pause_s=pause_s) if model is None else _language_model(model, base_url))


def graph_of(model: BaseChatModel) -> Pregel[Any, Any, Any, Any]:
    """Return the agent's graph with this model."""
    bound = model.bind_tools(TOOLS)

    async def call_model(state: Conversation, config: RunnableConfig) -> dict[str, Any]:
        # Checked for every model, so that a wrong value fails in the same way before and after MODEL is set.
        answer_s = _simulated_latency_s(config)
        unanswered = _unanswered(state["messages"])
        messages = [message for message in state["messages"] if message.id not in unanswered]
        if not messages:
            raise ValueError("the input must be an object with `messages`: a list of messages, or a string")
        # Also removed from the thread: otherwise each later turn would have to leave them out again.
        removed = [RemoveMessage(id=message_id) for message_id in unanswered]
        if _model_calls(messages) >= MAX_MODEL_CALLS:
            return {"messages": [*removed, AIMessage(f"I stopped after {MAX_MODEL_CALLS} model calls.")]}
        simulated: dict[str, Any] = (
            {} if answer_s is None or not isinstance(model, OfflineModel) else {"answer_s": answer_s}
        )
        return {"messages": [*removed, await bound.ainvoke(messages, **simulated)]}

    graph: Any = StateGraph(Conversation)  # its methods are partially untyped
    graph.add_node("model", call_model)
    graph.add_node("tools", call_tools)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", _planned, ["tools", END])
    graph.add_edge("tools", "model")
    return cast("Pregel[Any, Any, Any, Any]", graph.compile())


def _planned(state: Conversation) -> list[Send] | str:
    """Return a task for each tool call. All questions to the human are one task, so that they are one interrupt."""
    reply = state["messages"][-1]
    calls = reply.tool_calls if isinstance(reply, AIMessage) else []
    questions = [call for call in calls if _is_question(call)]
    batches = [[call] for call in calls if not _is_question(call)]
    if questions:
        # The place of the first question, so that results come in the order of the calls.
        batches.insert(calls.index(questions[0]), questions)
    return [Send("tools", batch) for batch in batches] or END


def _is_question(call: ToolCall) -> bool:
    """Whether a call is a valid call of `ask_human`. An invalid one is refused like any call with wrong arguments."""
    return call["name"] == ask_human.name and isinstance(call["args"].get("question"), str)


def _unanswered(messages: Sequence[BaseMessage]) -> list[str]:
    """Return the ids of messages with tool calls that lack results, and the ids of the results that they have.

    This happens if the human sends a new message instead of an answer. A model refuses a conversation with such calls.
    """
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    calls = [
        (message, {call["id"] for call in message.tool_calls}) for message in messages if isinstance(message, AIMessage)
    ]
    dropped = [(message, call_ids) for message, call_ids in calls if call_ids - answered]
    dropped_calls = {call_id for _, call_ids in dropped for call_id in call_ids}
    results = [
        message for message in messages if isinstance(message, ToolMessage) and message.tool_call_id in dropped_calls
    ]
    return [cast("str", message.id) for message in (*(message for message, _ in dropped), *results)]


def _model_calls(messages: Sequence[BaseMessage]) -> int:
    """Return the number of model calls since the last message of the human."""
    calls = 0
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        calls += isinstance(message, AIMessage)
    return calls


async def call_tools(calls: list[ToolCall]) -> dict[str, Any]:
    """Run one tool, or ask several questions. An invalid call returns an error to the model and does not end the run."""
    if len(calls) == 1:
        return {"messages": [await _call_tool(calls[0])]}
    replies = _ask([call["args"]["question"] for call in calls])
    return {"messages": [_result(call, reply) for call, reply in zip(calls, replies, strict=True)]}


async def _call_tool(call: ToolCall) -> ToolMessage:
    called_tool = TOOLS_BY_NAME.get(call["name"])
    if called_tool is None:
        text = f"there is no tool {call['name']}; the tools are {', '.join(TOOLS_BY_NAME)}"
        return ToolMessage(text, tool_call_id=call["id"], name=call["name"], status="error", id=str(uuid4()))
    # With a whole call, and not only its arguments, LangChain returns a message and not a bare value.
    result = await called_tool.ainvoke(ToolCall(name=call["name"], args=call["args"], id=call["id"], type="tool_call"))
    # LangChain sets no id, and the reducer would choose another one each time that it applies the stored result.
    return cast("ToolMessage", result).model_copy(update={"id": str(uuid4())})


def _result(call: ToolCall, text: str) -> ToolMessage:
    return ToolMessage(text, tool_call_id=call["id"], name=call["name"], id=str(uuid4()))


def _simulated_latency_s(config: RunnableConfig) -> float | None:
    """Return `configurable.simulated_latency_s`, limited to 0 to 10. Only the offline model uses it. Raise ValueError."""
    latency_s = config.get("configurable", {}).get("simulated_latency_s")
    if latency_s is None:
        return None
    # A bool is an int, and NaN would silently become 0.
    if isinstance(latency_s, bool) or not isinstance(latency_s, int | float) or math.isnan(latency_s):
        raise ValueError("`simulated_latency_s` must be a number of seconds from 0 to 10")
    return min(10.0, max(0.0, float(latency_s)))


def _language_model(model: str, base_url: str | None) -> BaseChatModel:
    address = {"base_url": base_url} if base_url else {}
    try:
        models = importlib.import_module("langchain.chat_models")
        return models.init_chat_model(model, **address)
    except ImportError as missing:
        raise StartupError(f'MODEL {model} needs more packages: pip install "threadkeep[models]" ({missing})') from None
    except Exception as error:  # each provider raises a different error for a missing key
        reason = str(error).partition("\n")[0]
        raise StartupError(f"MODEL {model} can't be used: {reason}") from error


@tool
async def calculator(expression: str) -> str:
    """Calculate an arithmetic expression of numbers, brackets and + - * / // % **."""
    # The model writes the expression from a user's text. It runs in the event loop, so its size is bounded first.
    if len(expression) > EXPRESSION_CHARS:
        raise ToolException(f"the expression is longer than {EXPRESSION_CHARS} characters")
    if not re.fullmatch(r"[\d.eE+\-*/%()\s_]+", expression):
        raise ToolException("the expression may contain only numbers, brackets and + - * / // % **")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    # Python's parser raises the last two for deeply nested brackets.
    except (SyntaxError, MemoryError, RecursionError):
        raise ToolException("the expression is not complete") from None
    except ZeroDivisionError:
        raise ToolException("division by zero") from None
    except OverflowError:
        raise ToolException("the result is too large") from None
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _value(node: ast.expr) -> int | float:
    match node:
        # `True` is an int for Python, but not a number here.
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return _bounded(_power(_value(base), _value(exponent)))
        case ast.BinOp(left=first, op=op, right=second) if type(op) in BINARY:
            return _bounded(BINARY[type(op)](_value(first), _value(second)))
        case _:
            raise ToolException("the expression may contain only numbers, brackets and + - * / // % **")


BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda first, second: first + second,
    ast.Sub: lambda first, second: first - second,
    ast.Mult: lambda first, second: first * second,
    ast.Div: lambda first, second: first / second,
    ast.FloorDiv: lambda first, second: first // second,
    ast.Mod: lambda first, second: first % second,
}


def _power(base: int | float, exponent: int | float) -> int | float:
    """Return the power. Refuse a result that would be too large before it is computed."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > NUMBER_BITS:
        raise ToolException(f"the result is too large: a number may have at most {NUMBER_BITS} bits")
    return base**exponent


def _bounded(value: object) -> int | float:
    match value:
        case int() if value.bit_length() <= NUMBER_BITS:
            return value
        case float() if math.isfinite(value):
            return value
        case int() | float():
            raise ToolException(f"the result is too large: a number may have at most {NUMBER_BITS} bits")
        case _:
            raise ToolException("the result is not a real number")


@tool
async def clock(zone: str = "UTC") -> str:
    """Return the time in a time zone: an IANA name such as Europe/Berlin, or only its city."""
    requested = zone.strip().replace(" ", "_").lower()
    # The zones are files. They are read at first use, which would block the event loop.
    name = (await anyio.to_thread.run_sync(_zones)).get(requested)
    if name is None:
        raise ToolException(f"the time zone {zone[:80]!r} is not known: use an IANA name such as Europe/Berlin")
    now = datetime.now(await anyio.to_thread.run_sync(zoneinfo.ZoneInfo, name))
    return f"{now:%A %Y-%m-%d %H:%M:%S} in {name} (UTC{now:%z})"


@cache
def _zones() -> dict[str, str]:
    """Return every zone by its name and by its city, both in lower case."""
    # Sorted, so that two zones with one city always give the same one.
    names = sorted(zoneinfo.available_timezones())
    return {name.rpartition("/")[2].lower(): name for name in names} | {name.lower(): name for name in names}


@tool
async def remember(fact: str) -> str:
    """Keep a fact for the user. Facts belong to the user and are there in all of the user's threads."""
    if not fact.strip() or len(fact) > FACT_CHARS:
        raise ToolException(f"a fact must have 1 to {FACT_CHARS} characters")
    # The same fact again has the same key and is stored once, also if a run is repeated after a crash.
    key = hashlib.sha256(fact.strip().encode(errors="surrogatepass")).hexdigest()[:32]
    # No vector: facts are read by namespace, and an index would call the embedding model for nothing.
    await _store().aput(_namespace(), key, {"fact": fact.strip()}, index=False)
    return f"I keep in mind that {fact.strip()}."


@tool
async def recall() -> str:
    """Return the facts stored for the user, from all of the user's threads. At most the last 100 of them."""
    items = await _store().asearch(_namespace(), limit=FACTS)
    facts = [str(item.value.get("fact", "")) for item in sorted(items, key=lambda item: item.created_at)]
    if not facts:
        return "I keep no facts for you."
    return "I keep in mind:\n" + "\n".join(f"- {fact}" for fact in facts)


def _store() -> BaseStore:
    store = cast("BaseStore | None", get_store())
    if store is None:
        raise ToolException("facts can't be stored: this server runs the agent without a store")
    return store


def _namespace() -> tuple[str, ...]:
    """Return the namespace of the user's facts. The user is quoted, because a label must not contain a period."""
    configurable = get_config().get("configurable", {})
    # The authenticated user first. A client may send any `user_id`.
    user = configurable.get("langgraph_auth_user_id") or configurable.get("user_id") or "anonymous"
    return ("facts", quote(str(user), safe="", errors="surrogatepass").replace(".", "%2E"))


@tool
async def ask_human(question: str) -> str:
    """Ask a human and wait for the answer, for as long as it takes. The run stops until then."""
    return _ask([question])[0]


def _ask(questions: Sequence[str]) -> list[str]:
    """Interrupt the run and return the human's answers in the order of the questions. Raise ValueError if they differ.

    The interrupt has the form of LangChain's HumanInTheLoopMiddleware, which chat pages support: `action_requests` and
    `review_configs`, answered by `decisions`. Any other value answers every question.
    """
    requests = [
        {"name": ask_human.name, "args": {"question": question}, "description": question} for question in questions
    ]
    config = {"action_name": ask_human.name, "allowed_decisions": [*ANSWERS]}
    reply: Any = interrupt({"action_requests": requests, "review_configs": [config]})
    if not isinstance(reply, dict) or "decisions" not in reply:
        return [reply if isinstance(reply, str) else json.dumps(reply, ensure_ascii=False)] * len(questions)
    decisions = cast("dict[str, Any]", reply)["decisions"]
    if not isinstance(decisions, list) or len(cast("list[Any]", decisions)) != len(questions):
        raise ValueError(f"`decisions` must be a list of {len(questions)} decisions, one for each question")
    return [_answer_of(decision) for decision in cast("list[Any]", decisions)]


def _answer_of(decision: Any) -> str:
    """Return the answer of a decision. Raise ValueError if it is not valid."""
    match decision:
        case {"type": "respond", "message": str(text)}:
            return text
        case {"type": "approve"}:
            return "yes"
        case {"type": "reject", **fields}:
            return str(fields.get("message") or "no")
        case _:
            raise ValueError(
                f"a decision must have a `type` of {', '.join(ANSWERS)}, and `respond` must have a `message`"
            )


TOOLS: Sequence[BaseTool] = (calculator, clock, remember, recall, ask_human)
TOOLS_BY_NAME = {known_tool.name: known_tool for known_tool in TOOLS}

for _tool in TOOLS:
    # An error of a tool or its arguments is returned to the model, which may correct the call.
    _tool.handle_tool_error = True
    _tool.handle_validation_error = True
