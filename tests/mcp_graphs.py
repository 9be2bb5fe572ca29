"""Graphs of which the tests of MCP get each kind of result and of question: real and small."""

import operator
from typing import Annotated, Any

from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from graphs import GRAPHS, Gate


class Topic(TypedDict):
    """What `report` takes."""

    topic: str
    words: int


class Report(TypedDict):
    """What `report` gives."""

    report: str
    score: float


class ReportState(Topic, Report):
    """The state of `report`."""


class Named(TypedDict):
    """What the graphs that count take."""

    name: str


class Counted(Named):
    """A state that counts the calls."""

    calls: Annotated[int, operator.add]


class Form(BaseModel):
    """A state that an author describes by a model."""

    name: str = ""
    answers: list[Any] = []


def chain(state: Any, *nodes: Any, **more: Any) -> StateGraph[Any, Any, Any, Any]:
    """A graph of nodes in a row, each with the name of its function."""
    graph = StateGraph(state, **more)
    names = [node.__name__ for node in nodes]
    for name, node in zip(names, nodes, strict=True):
        graph.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph


async def write(state: ReportState) -> Any:
    """Write a report."""
    return {"report": " ".join([state["topic"]] * state["words"]), "score": 0.5}


async def count(state: Counted) -> Any:
    """Add one."""
    return {"calls": 1}


async def wait(state: Counted) -> Any:
    """Wait at the test's gate."""
    if Gate.latest is not None:
        await Gate.latest.pass_through()
    return {"calls": 1}


async def ask_name(state: Form) -> Any:
    """Ask for a text."""
    return {"answers": [interrupt("What is your name?")]}


async def ask_twice(state: Form) -> Any:
    """Ask two questions in one node: LangGraph gives both the same id."""
    return {"answers": [interrupt("first?"), interrupt("second?")]}


async def ask_form(state: Form) -> Any:
    """Ask with a schema of its own."""
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0}, "fine": {"type": "boolean"}},
        "required": ["age"],
    }
    return {"answers": [interrupt({"message": "Who are you?", "requestedSchema": schema})]}


async def ask_nested(state: Form) -> Any:
    """Ask with a schema that no form of MCP has."""
    point = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    schema = {"type": "object", "properties": {"at": point}, "required": ["at"]}
    return {"answers": [interrupt({"message": "Where?", "response_schema": schema})]}


async def approve(state: Form) -> Any:
    """Ask as LangChain's human in the loop does."""
    actions = [{"name": "send", "args": {"to": "ada"}}, {"name": "delete", "args": {}}]
    configs = [{"action_name": each["name"], "allowed_decisions": ["approve", "reject"]} for each in actions]
    return {"answers": [interrupt({"action_requests": actions, "review_configs": configs})]}


async def left(state: Counted) -> Any:
    """Ask beside `right`."""
    return {"name": "left " + interrupt({"question": "left?"})}


async def right(state: Counted) -> Any:
    """Ask beside `left`."""
    interrupt({"question": "right?"})
    return {"calls": 1}


async def fail(state: Counted) -> Any:
    """Raise what a client may see."""
    raise ValueError("the node failed")


class Hidden(Exception):
    """An exception whose text is nobody's business."""


async def fail_secretly(state: Counted) -> Any:
    """Raise what no client may see."""
    raise Hidden("a secret")


async def tell(state: Counted) -> Any:
    """Tell a progress of its own, one step of which goes back."""
    for progress, message in ((0.25, "a"), (0.5, "b"), (0.1, "back"), (1, "c")):
        get_stream_writer()({"progress": progress, "total": 1, "message": message})
    return {"calls": 1}


async def echo(state: MessagesState) -> Any:
    """Say the user's texts again, so that a test sees what the thread holds."""
    texts = [str(message.content) for message in state["messages"] if message.type == "human"]
    return {"messages": [AIMessage("You said: " + " / ".join(texts))]}


async def show(state: MessagesState) -> Any:
    """Answer with an image, a link and data."""
    content = [
        {"type": "text", "text": "see"},
        {"type": "image", "base64": "aW1n", "mime_type": "image/png"},
        {"type": "file", "url": "https://example.com/a.pdf", "mime_type": "application/pdf"},
    ]
    return {"messages": [AIMessage(content=content)]}


def counting(*nodes: Any) -> StateGraph[Any, Any, Any, Any]:
    """A graph of nodes in a row that count."""
    return chain(Counted, *nodes, input_schema=Named)


def both() -> StateGraph[Any, Any, Any, Any]:
    """Two questions at once."""
    graph = StateGraph(Counted, input_schema=Named)
    for node in (left, right):
        graph.add_node(node.__name__, node)
        graph.add_edge(START, node.__name__)
    return graph


MCP_GRAPHS: dict[str, Any] = {
    "echo": chain(MessagesState, echo),
    "report": chain(ReportState, write, input_schema=Topic, output_schema=Report),
    "count": counting(count),
    "wait": counting(wait, count),
    "name": chain(Form, ask_name),
    "twice": chain(Form, ask_twice),
    "form": chain(Form, ask_form),
    "nested": chain(Form, ask_nested),
    "approve": chain(Form, approve),
    "both": both(),
    "fail": counting(fail),
    "hidden": counting(fail_secretly),
    "progress": counting(count, tell),
    "told": counting(tell),
    "show": chain(MessagesState, show),
    "sum": GRAPHS["counter"],
    "odd name!": counting(count),
}
