"""The built-in agent: a model, its tools, and the loop between them, as a graph with `messages`.

Each model call and each tool call is a task of its own: a run that goes on after a crash or a question to a human
repeats none that has finished. Each step is in the thread's state as soon as it has ended. Without a model's name the
agent runs on the offline model, needs no key and calls no host.
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
from typing_extensions import TypedDict  # pydantic makes the input's schema, and wants this one before 3.12

from threadkeep.base.problems import StartupError
from threadkeep.offline_model import OfflineModel

MAX_MODEL_CALLS = 8
"""The most model calls for one input."""

EXPRESSION_CHARS = 200
NUMBER_BITS = 4096
"""The largest integer the calculator makes: some 1,200 digits, and no power takes longer than a moment."""

FACT_CHARS = 1000
FACTS = 100
"""The most facts one recall gives back."""

ANSWERS = ("respond", "approve", "reject")
"""The decisions that answer a question: the text of `respond`, yes, or no with a reason."""


def merge_messages(left: list[AnyMessage], right: Any) -> list[AnyMessage]:
    """The conversation with new messages behind it, or in the place of those with the same id. ValueError."""
    try:
        return cast("list[AnyMessage]", add_messages(cast("Any", left), right))
    except (ValueError, TypeError, NotImplementedError):
        raise ValueError("each message has a `role` or a `type`, and `content`") from None


class Conversation(TypedDict):
    """Messages as LangChain knows them. As input: the new ones; as output and state: all of the thread's.

    The input may also be dicts, or one bare string for one human message.
    """

    messages: Annotated[list[AnyMessage], merge_messages]


def build(model: str | None = None, base_url: str | None = None, *, pause_s: float = 0) -> Pregel[Any, Any, Any, Any]:
    """The agent's graph, without a checkpointer or a store, which the server binds.

    `model` is `provider:name`. None is the offline model, which pauses for `pause_s` seconds before each word that it
    streams. StartupError if the model can't be loaded.
    """
    return graph_of(OfflineModel(pause_s=pause_s) if model is None else _language_model(model, base_url))


def graph_of(model: BaseChatModel) -> Pregel[Any, Any, Any, Any]:
    """The agent on this model."""
    bound = model.bind_tools(TOOLS)

    async def call_model(state: Conversation, config: RunnableConfig) -> dict[str, Any]:
        answer_s = _simulated_latency_s(config)
        unanswered = _unanswered(state["messages"])
        messages = [message for message in state["messages"] if message.id not in unanswered]
        if not messages:
            raise ValueError("the input is an object with `messages`: a list of messages, or a string")
        removed = [RemoveMessage(id=message_id) for message_id in unanswered]
        if _model_calls(messages) >= MAX_MODEL_CALLS:
            return {"messages": [*removed, AIMessage(f"I stopped after {MAX_MODEL_CALLS} model calls.")]}
        simulated: dict[str, Any] = (
            {} if answer_s is None or not isinstance(model, OfflineModel) else {"answer_s": answer_s}
        )
        return {"messages": [*removed, await bound.ainvoke(messages, **simulated)]}

    graph: Any = StateGraph(Conversation)  # its methods have parts without types
    graph.add_node("model", call_model)
    graph.add_node("tools", call_tools)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", _planned, ["tools", END])
    graph.add_edge("tools", "model")
    return cast("Pregel[Any, Any, Any, Any]", graph.compile())


def _planned(state: Conversation) -> list[Send] | str:
    """A task for each tool call. Several questions to the human are one task, so that they are asked together."""
    reply = state["messages"][-1]
    calls = reply.tool_calls if isinstance(reply, AIMessage) else []
    questions = [call for call in calls if _is_question(call)]
    batches = [[call] for call in calls if not _is_question(call)]
    if questions:
        batches.insert(calls.index(questions[0]), questions)
    return [Send("tools", batch) for batch in batches] or END


def _is_question(call: ToolCall) -> bool:
    """A well-formed call of `ask_human`. Another one is refused like any call with wrong arguments."""
    return call["name"] == ask_human.name and isinstance(call["args"].get("question"), str)


def _unanswered(messages: Sequence[BaseMessage]) -> list[str]:
    """The ids of messages whose tool calls never got all their results, and of the results that they got.

    The human sent a new message in place of an answer. A model refuses a conversation with such calls.
    """
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    calls = [
        (message, {call["id"] for call in message.tool_calls}) for message in messages if isinstance(message, AIMessage)
    ]
    dropped = [(message, wanted) for message, wanted in calls if wanted - answered]
    dropped_calls = {call_id for _, wanted in dropped for call_id in wanted}
    results = [
        message for message in messages if isinstance(message, ToolMessage) and message.tool_call_id in dropped_calls
    ]
    return [cast("str", message.id) for message in (*(message for message, _ in dropped), *results)]


def _model_calls(messages: Sequence[BaseMessage]) -> int:
    """How often the model was called since the last message of the human."""
    calls = 0
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        calls += isinstance(message, AIMessage)
    return calls


async def call_tools(calls: list[ToolCall]) -> dict[str, Any]:
    """Run one tool, or ask several questions. A wrong call is an answer to the model, not the end of the run."""
    if len(calls) == 1:
        return {"messages": [await _call_tool(calls[0])]}
    replies = _ask([call["args"]["question"] for call in calls])
    return {"messages": [_result(call, reply) for call, reply in zip(calls, replies, strict=True)]}


async def _call_tool(call: ToolCall) -> ToolMessage:
    known = TOOLS_BY_NAME.get(call["name"])
    if known is None:
        text = f"there is no tool {call['name']}; the tools are {', '.join(TOOLS_BY_NAME)}"
        return ToolMessage(text, tool_call_id=call["id"], name=call["name"], status="error", id=str(uuid4()))
    result = await known.ainvoke(ToolCall(name=call["name"], args=call["args"], id=call["id"], type="tool_call"))
    return cast("ToolMessage", result).model_copy(update={"id": str(uuid4())})


def _result(call: ToolCall, text: str) -> ToolMessage:
    return ToolMessage(text, tool_call_id=call["id"], name=call["name"], id=str(uuid4()))


def _simulated_latency_s(config: RunnableConfig) -> float | None:
    """`configurable.simulated_latency_s`, kept between 0 and 10; only the offline model heeds it."""
    given = config.get("configurable", {}).get("simulated_latency_s")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or math.isnan(given):
        raise ValueError("`simulated_latency_s` is a number of seconds from 0 to 10")
    return min(10.0, max(0.0, float(given)))


def _language_model(model: str, base_url: str | None) -> BaseChatModel:
    address = {"base_url": base_url} if base_url else {}
    try:
        models = importlib.import_module("langchain.chat_models")
        return models.init_chat_model(model, **address)
    except ImportError as missing:
        raise StartupError(f'MODEL {model} needs more packages: pip install "threadkeep[models]" ({missing})') from None
    except Exception as error:  # each provider has an error of its own for a missing key
        reason = str(error).partition("\n")[0]
        raise StartupError(f"MODEL {model} can't be used: {reason}") from error


@tool
async def calculator(expression: str) -> str:
    """Calculate an arithmetic expression of numbers, brackets and + - * / // % **."""
    if len(expression) > EXPRESSION_CHARS:
        raise ToolException(f"the expression is longer than {EXPRESSION_CHARS} characters")
    if not re.fullmatch(r"[\d.eE+\-*/%()\s_]+", expression):
        raise ToolException("only numbers, brackets and + - * / // % ** are understood")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError):
        raise ToolException("this is not a complete expression") from None
    except ZeroDivisionError:
        raise ToolException("division by zero") from None
    except OverflowError:
        raise ToolException("the result is too large") from None
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _value(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _bounded(_power(_value(left), _value(right)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            return _bounded(BINARY[type(op)](_value(left), _value(right)))
        case _:
            raise ToolException("only numbers, brackets and + - * / // % ** are understood")


BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
    ast.FloorDiv: lambda left, right: left // right,
    ast.Mod: lambda left, right: left % right,
}


def _power(base: int | float, exponent: int | float) -> int | float:
    """The power, refused by its size before it is worked out."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > NUMBER_BITS:
        raise ToolException(f"the result is too large: numbers here have up to {NUMBER_BITS} bits")
    return base**exponent


def _bounded(value: object) -> int | float:
    match value:
        case int() if value.bit_length() <= NUMBER_BITS:
            return value
        case float() if math.isfinite(value):
            return value
        case int() | float():
            raise ToolException(f"the result is too large: numbers here have up to {NUMBER_BITS} bits")
        case _:
            raise ToolException("the result is not a real number")


@tool
async def clock(zone: str = "UTC") -> str:
    """Tell the time in a time zone: an IANA name such as Europe/Berlin, or the city of one."""
    wanted = zone.strip().replace(" ", "_").lower()
    # The zones are files, read at first use: not in the event loop.
    name = (await anyio.to_thread.run_sync(_zones)).get(wanted)
    if name is None:
        raise ToolException(f"there is no time zone {zone[:80]!r}; an IANA name such as Europe/Berlin is needed")
    now = datetime.now(await anyio.to_thread.run_sync(zoneinfo.ZoneInfo, name))
    return f"{now:%A %Y-%m-%d %H:%M:%S} in {name} (UTC{now:%z})"


@cache
def _zones() -> dict[str, str]:
    """Every zone's name, found by the whole of it or by its city, in lower case."""
    names = sorted(zoneinfo.available_timezones())
    return {name.rpartition("/")[2].lower(): name for name in names} | {name.lower(): name for name in names}


@tool
async def remember(fact: str) -> str:
    """Keep a fact for the user. Facts belong to the user and are there in all of the user's threads."""
    if not fact.strip() or len(fact) > FACT_CHARS:
        raise ToolException(f"a fact has 1 to {FACT_CHARS} characters")
    key = hashlib.sha256(fact.strip().encode(errors="surrogatepass")).hexdigest()[:32]
    await _store().aput(_namespace(), key, {"fact": fact.strip()}, index=False)
    return f"I keep in mind that {fact.strip()}."


@tool
async def recall() -> str:
    """Give back the facts kept for the user, from all of the user's threads; at most the last 100 of them."""
    items = await _store().asearch(_namespace(), limit=FACTS)
    facts = [str(item.value.get("fact", "")) for item in sorted(items, key=lambda item: item.created_at)]
    if not facts:
        return "I keep no facts for you."
    return "I keep in mind:\n" + "\n".join(f"- {fact}" for fact in facts)


def _store() -> BaseStore:
    store = cast("BaseStore | None", get_store())
    if store is None:
        raise ToolException("facts can't be kept here: this server runs the agent without a store")
    return store


def _namespace() -> tuple[str, ...]:
    """Where the user's facts are. A label of the store may hold no full stop, as an address of mail does."""
    known = get_config().get("configurable", {})
    user = known.get("langgraph_auth_user_id") or known.get("user_id") or "anonymous"
    return ("facts", quote(str(user), safe="", errors="surrogatepass").replace(".", "%2E"))


@tool
async def ask_human(question: str) -> str:
    """Ask a human and wait for the answer, for as long as it takes. The run stops until then."""
    return _ask([question])[0]


def _ask(questions: Sequence[str]) -> list[str]:
    """The human's answers, in the order of the questions. ValueError if they do not fit.

    The interrupt has the form of LangChain's HumanInTheLoopMiddleware, which chat pages know: `action_requests` and
    `review_configs`, answered by `decisions`. Any other value answers every question.
    """
    requests = [{"name": ask_human.name, "args": {"question": each}, "description": each} for each in questions]
    config = {"action_name": ask_human.name, "allowed_decisions": [*ANSWERS]}
    reply: Any = interrupt({"action_requests": requests, "review_configs": [config]})
    if not isinstance(reply, dict) or "decisions" not in reply:
        return [reply if isinstance(reply, str) else json.dumps(reply, ensure_ascii=False)] * len(questions)
    decisions = cast("dict[str, Any]", reply)["decisions"]
    if not isinstance(decisions, list) or len(cast("list[Any]", decisions)) != len(questions):
        raise ValueError(f"`decisions` is a list of {len(questions)}: one for each question")
    return [_answer_of(decision) for decision in cast("list[Any]", decisions)]


def _answer_of(decision: Any) -> str:
    """The answer that a decision stands for. ValueError."""
    match decision:
        case {"type": "respond", "message": str(text)}:
            return text
        case {"type": "approve"}:
            return "yes"
        case {"type": "reject", **more}:
            return str(more.get("message") or "no")
        case _:
            raise ValueError(
                f"a decision has a `type`, which is one of {', '.join(ANSWERS)}; `respond` has a `message`"
            )


TOOLS: Sequence[BaseTool] = (calculator, clock, remember, recall, ask_human)
TOOLS_BY_NAME = {known.name: known for known in TOOLS}

for _known in TOOLS:
    # A wrong argument or a refused one is told to the model, which may do better.
    _known.handle_tool_error = True
    _known.handle_validation_error = True
