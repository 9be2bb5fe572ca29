"""The offline model: a chat model with fixed rules, for a server without an API key of a provider.

Its answer depends only on the conversation, so that tests, benchmarks and first trials get the same one. It has no
knowledge: it only follows `RULES`, and its answer to any other message says so. The reasons are in
docs/decisions/0006-offline-model.md.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field
from typing_extensions import override

MODEL_NAME = "threadkeep-offline"

MAX_INPUT_CHARS = 4000
"""Characters of a message that the rules read. A message may have megabytes, and the rules run in the event loop."""

MAX_TOOL_CALLS = 8
"""Largest number of tool calls in one turn of the model."""

FALLBACK = (
    "You wrote: “{quote}”. This is the offline model, which follows a few fixed rules and needs no key. It keeps this "
    "conversation and your name, calculates (“what is 17 * 23?”), tells the time (“what time is it in Europe/Berlin?”), "
    "keeps facts (“remember that …”, “what do you remember?”) and asks a person (“ask a human …”). "
    "A setting, MODEL, puts a language model in its place."
)


class OfflineModel(BaseChatModel):
    """Answers by rules, word by word, and calls the tools that it is bound to.

    `answer_s` in a call sets the seconds for the whole answer, in place of `pause_s` for each word. A turn that only
    calls tools takes no time.
    """

    pause_s: float = Field(default=0.0, ge=0)
    """Seconds before each word of a streamed answer. An answer that is not streamed is returned at once."""

    @property
    def _llm_type(self) -> str:
        return MODEL_NAME

    @override
    def bind_tools(  # pyright: ignore[reportIncompatibleMethodOverride]  # the base class accepts any type of tool
        self, tools: Sequence[BaseTool], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with these tools. Its rules choose the tool, so `tool_choice` has no effect."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=answer(messages, _names(kwargs)))])

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = answer(messages, _names(kwargs))
        if message.text:
            await anyio.sleep(kwargs.get("answer_s") or 0)
        return ChatResult(generations=[ChatGeneration(message=message)])

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        message = answer(messages, _names(kwargs))
        words = _words(message.text)
        pause_s = self._pause_s(words, kwargs)
        for chunk in [_opening(message), *(AIMessageChunk(content=word) for word in words)]:
            if chunk.content:
                await anyio.sleep(pause_s)
            generation = ChatGenerationChunk(message=chunk)
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=generation)
            yield generation

    def _pause_s(self, words: list[str], kwargs: dict[str, Any]) -> float:
        answer_s = kwargs.get("answer_s")
        return self.pause_s if answer_s is None else answer_s / max(1, len(words))


def _names(kwargs: dict[str, Any]) -> set[str]:
    return {tool["function"]["name"] for tool in kwargs.get("tools", [])}


def _words(text: str) -> list[str]:
    """Return the words, each with the space before it. Joined they are the text."""
    return re.findall(r"\s*\S+|\s+$", text)


def _opening(message: AIMessage) -> AIMessageChunk:
    """Return the first chunk, with the metadata and the tool calls."""
    calls = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
        for index, call in enumerate(message.tool_calls)
    ]
    return AIMessageChunk(content="", tool_call_chunks=calls, response_metadata=message.response_metadata)


@dataclass(frozen=True, slots=True)
class PlannedToolCall:
    """A tool that a message requests, and its arguments."""

    tool: str
    args: dict[str, str]


def answer(messages: Sequence[BaseMessage], tools: Iterable[str]) -> AIMessage:
    """Return the next message: tool calls while the last human message asks for some, then text."""
    available = set(tools)
    turn = _last_turn(messages)
    text = _read(turn[0]) if turn else ""
    results = [message for message in turn if isinstance(message, ToolMessage)]
    planned = [call for call in _next_calls(text, results) if call.tool in available][:MAX_TOOL_CALLS]
    calls = [
        # The id follows from the conversation, so that the same input gives the same output in tests.
        ToolCall(name=call.tool, args=call.args, id=f"call_{len(messages)}_{index}", type="tool_call")
        for index, call in enumerate(planned)
    ]
    content = "" if calls else _say(messages, text, turn)
    return AIMessage(content=content, tool_calls=calls, response_metadata={"model_name": MODEL_NAME})


def _read(message: BaseMessage) -> str:
    # Phones write a curly apostrophe, and the rules have straight ones.
    return message.text[:MAX_INPUT_CHARS].replace("\u2019", "'")


def _last_turn(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """Return the last human message and all messages after it."""
    starts = [index for index, message in enumerate(messages) if isinstance(message, HumanMessage)]
    return messages[starts[-1] :] if starts else []


def _next_calls(text: str, results: list[ToolMessage]) -> list[PlannedToolCall]:
    """Return the next tool calls: first the questions for permission, then the rest unless one was refused."""
    gates = [PlannedToolCall("ask_human", {"question": CONFIRMATION_QUESTION + clause}) for clause in _gated(text)]
    if not results and gates:
        return gates
    if len(results) != len(gates) or any(_refused(result.text) for result in results):
        return []
    return [call for clause in _clauses(text) for call in _calls(clause)]


def _refused(reply: str) -> bool:
    return (
        re.match(r"\W*(?:no|n|not|nope|stop|don'?t|never|cancel|reject|false|null)\b", reply, re.IGNORECASE) is not None
    )


def _clauses(text: str) -> list[str]:
    """Split the text into clauses, each of which may be a separate request."""
    cut = r"(?<=[.!?;])\s+|\n+|,?\s(?:and|then)\s(?=(?:what|tell|remember|ask|calculate|how|my name)\b)"
    return [clause.strip() for clause in re.split(cut, text, flags=re.IGNORECASE) if clause.strip()]


def _gated(text: str) -> list[str]:
    return [clause for clause in _clauses(text) if ASK_FIRST.search(clause)][:1]


def _calls(clause: str) -> list[PlannedToolCall]:
    for rule in RULES:
        if calls := rule(clause):
            return calls
    return []


CONFIRMATION_QUESTION = "May I go on? You wrote: "

ASK_FIRST = re.compile(r"\bask me (?:first|before)\b", re.IGNORECASE)


def _recall(clause: str) -> list[PlannedToolCall]:
    pattern = (
        r"\bwhat (?:do|can) you (?:remember|recall)\b|\bdo you remember\b|\bwhat did i (?:ask|tell) you to remember\b"
    )
    return [PlannedToolCall("recall", {})] if re.search(pattern, clause, re.IGNORECASE) else []


def _remember(clause: str) -> list[PlannedToolCall]:
    match = re.search(r"\bremember(?: that|:)? (.+)", clause, re.IGNORECASE)
    return [PlannedToolCall("remember", {"fact": match[1].rstrip(" .!")})] if match else []


def _ask(clause: str) -> list[PlannedToolCall]:
    match = re.search(r"\bask (?:a|an|the|some) (?:human|person|operator)\b[\s:,]*(.*)", clause, re.IGNORECASE)
    if not match:
        return []
    question = match[1].strip(" .?!") or clause
    return [PlannedToolCall("ask_human", {"question": question[:1].upper() + question[1:] + "?"})]


def _clock(clause: str) -> list[PlannedToolCall]:
    cue = r"\bwhat(?:'s| is)? (?:the )?(?:current )?time\b|\btime is it\b|\bcurrent time\b|\btell me the time\b"
    match = re.search(cue, clause, re.IGNORECASE)
    if not match:
        return []
    _, _, place = clause[match.end() :].partition(" in ")
    zones = (
        re.findall(r"[A-Za-z_]+(?:/[\w+-]+)+|[A-Z][A-Za-z]+(?: [A-Z][a-z]+)*", place) or place.split()[:1] or ["UTC"]
    )
    return [PlannedToolCall("clock", {"zone": zone.strip(" .?!,")}) for zone in zones]


def _calculator(clause: str) -> list[PlannedToolCall]:
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", clause)
    for word, sign in SIGNS:
        plain = re.sub(word, sign, plain, flags=re.IGNORECASE)
    runs = [_balanced(run) for run in re.findall(r"[\d.()+\-*/%\s]+", plain)]
    cue = r"=|\b(?:what(?:'?s)?|calculate|compute|evaluate|how much|add|work out)\b"
    if not re.search(cue, clause, re.IGNORECASE) and [run for run in runs if run] != [plain.strip(" ?=.")]:
        return []
    sums = (run for run in runs if re.search(r"\d[\s)]*[-+*/%][\s(*/+-]*[\d.]", run))
    return [
        PlannedToolCall("calculator", {"expression": run}) for run in sums if not re.search(r"\b\d{4}-\d\d-\d\d\b", run)
    ]


SIGNS = (
    ("[\u00d7\u00b7]", "*"),
    ("\u00f7", "/"),
    ("\u2212", "-"),
    (r"\^", "**"),
    (r"(?<=\d) times (?=[\d(-])", " * "),
    (r"(?<=\d) plus (?=[\d(-])", " + "),
    (r"(?<=\d) minus (?=[\d(-])", " - "),
    (r"(?<=\d) divided by (?=[\d(-])", " / "),
)
"""Patterns of signs as people write them, and the signs of the calculator."""

RULES: tuple[Callable[[str], list[PlannedToolCall]], ...] = (_recall, _remember, _ask, _clock, _calculator)
"""The first rule that returns calls for a clause is used."""


def _balanced(run: str) -> str:
    """Remove the brackets, dashes and full stops of the surrounding sentence from an expression."""
    run = run.lstrip(" .*/%)").rstrip(" .+-*/%(")
    while run.endswith(")") and run.count(")") > run.count("("):
        run = run[:-1].rstrip()
    while run.startswith("(") and run.count("(") > run.count(")"):
        run = run[1:].lstrip()
    return run


def _say(messages: Sequence[BaseMessage], text: str, turn: Sequence[BaseMessage]) -> str:
    lines = [*_say_name(messages, text), *_say_results(turn)]
    quote = text[:200] + ("…" if len(text) > 200 else "")
    return "\n".join(lines) or FALLBACK.format(quote=" ".join(quote.split()))


NAME = re.compile(
    r"\b(?:(?i:my name(?:'s| is)) (?!(?i:not)\b)|[Cc]all me (?=[A-Z]))([^\W\d_][\w'-]*(?: [A-Z][\w'-]*){0,3})"
)


def _say_name(messages: Sequence[BaseMessage], text: str) -> list[str]:
    """Return the answer about names. A name is known only from the conversation."""
    if re.search(r"\bwhat(?:'?s| is) my name\b|\bwho am i\b|\bmy name\?", text, re.IGNORECASE):
        human = (message for message in reversed(messages) if isinstance(message, HumanMessage))
        name = next((name for message in human for name in _last_name(message)), None)
        return [f"Your name is {name}." if name else "You have not told me your name in this thread."]
    names = NAME.findall(text)
    return [f"Hello, {names[-1]}. I keep your name in this thread."] if names else []


def _last_name(message: HumanMessage) -> list[str]:
    return NAME.findall(_read(message))[-1:]


def _say_results(turn: Sequence[BaseMessage]) -> list[str]:
    calls = {call["id"]: call for message in turn if isinstance(message, AIMessage) for call in message.tool_calls}
    return [
        _say_result(call, message)
        for message in turn
        if isinstance(message, ToolMessage) and (call := calls.get(message.tool_call_id))
    ]


def _say_result(call: ToolCall, result: ToolMessage) -> str:
    if result.status == "error":
        return f"{call['name']} failed: {result.text}"
    match call["name"]:
        case "calculator":
            return f"{call['args']['expression']} = {result.text}"
        case "ask_human" if call["args"]["question"].startswith(CONFIRMATION_QUESTION):
            return f"I did{' not' if _refused(result.text) else ''} go on, as the answer was: {result.text}"
        case "ask_human":
            return f"The answer to “{call['args']['question']}” was: {result.text}"
        case _:
            return result.text
