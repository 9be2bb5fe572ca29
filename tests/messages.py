"""Messages: every error, refusal and log line of the server on one page (`make messages`).

They are read from the source. A message is a string that is an argument of an exception, of a function that returns an
exception, of a logger, or of a function in `WRITERS`, or the value of a variable in `PARTS`. A value stands in braces.
"""

import ast
import builtins
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

SERVER: Final = Path(__file__).parent.parent / "server"
LEVELS: Final = frozenset({"debug", "info", "warning", "error", "critical", "exception"})
WRITERS: Final = frozenset({"_rejection", "echo", "refuse"})
"""Functions that show their text to a client or to the person at the terminal."""
TEXTS: Final = frozenset({"detail", "message", "reason"})
"""Parameters that have a text."""
PARTS: Final = frozenset({"ADVICE", "HINTS", "LOST_IN_CRASH", "hint"})
"""Variables that have a part of a text."""
STARTS: Final = frozenset({"StartupError", "NotStarted", "UsageError", "echo"})

Kind = Literal["log", "start", "error"]


@dataclass(frozen=True)
class Message:
    """A text, and the place that writes it."""

    module: str
    line: int
    kind: Kind
    writer: str
    """The exception, the function or the level of the log."""
    text: str


def collect() -> list[Message]:
    """Return all messages in the order of modules and lines."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(SERVER.rglob("*.py"))}
    errors = _errors(trees.values())
    constants = {
        name: texts for tree in trees.values() for name, texts in _assigned(tree.body).items() if name.isupper()
    }
    return [
        message
        for path, tree in trees.items()
        for message in sorted(
            set(_Module(str(path.relative_to(SERVER)), tree, errors, constants).messages()),
            key=lambda message: (message.line, message.text),
        )
    ]


def page() -> str:
    """The page: one section for each module."""
    sections: defaultdict[str, list[Message]] = defaultdict(list)
    for message in collect():
        sections[message.module].append(message)
    lines: list[str] = []
    for module, messages in sections.items():
        lines += ["", module, *(f"{message.line:>6}  {message.writer:<20}  {message.text}" for message in messages)]
    return "\n".join(lines[1:])


def _errors(trees: Iterable[ast.Module]) -> frozenset[str]:
    """The names of exceptions, and of functions that return one."""
    errors = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    errors |= {"ToolException", "MCPError", "PydanticCustomError", "PoolTimeout", "OperationalError", "UsageError"}
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    for _ in range(4):  # a class may be read before its base
        errors |= {node.name for node in classes if any(_name(base) in errors for base in node.bases)}
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef))
    errors |= {node.name for node in functions if node.returns is not None and _name(node.returns) in errors}
    return frozenset(errors)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


class _Module:
    """The messages of one module."""

    def __init__(
        self, module: str, tree: ast.Module, errors: frozenset[str], constants: dict[str, list[ast.expr]]
    ) -> None:
        """`constants` of all modules, because a module may import a text from another one."""
        self._module = module
        self._tree = tree
        self._errors = errors
        self._constants = {**constants, **_assigned(tree.body)}

    def messages(self) -> Iterator[Message]:
        """Yield the messages of the module's own body and of each function."""
        yield from self._of(self._tree, self._constants)

    def _of(self, scope: ast.AST, names: dict[str, list[ast.expr]]) -> Iterator[Message]:
        for node in ast.iter_child_nodes(scope):
            inner = names
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = {**names, **_assigned(node.body)}
                yield from self._defaults(node)
            if isinstance(node, ast.Call):
                yield from self._call(node, inner)
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                yield from self._part(node, node.value)
            yield from self._of(node, inner)

    def _call(self, call: ast.Call, names: dict[str, list[ast.expr]]) -> Iterator[Message]:
        writer = _name(call.func)
        if writer in LEVELS and isinstance(call.func, ast.Attribute) and _name(call.func.value) in {"log", "logger"}:
            yield from self._texts(call.args[:1], names, "log", writer)
        elif writer in self._errors or writer in WRITERS:
            kind: Kind = "start" if writer in STARTS else "error"
            values = [*call.args, *(word.value for word in call.keywords if word.arg in TEXTS)]
            yield from self._texts(values, names, kind, writer)

    def _part(self, node: ast.Assign | ast.AnnAssign, value: ast.expr) -> Iterator[Message]:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for name in {_name(target) for target in targets} & PARTS:
            texts = [value]
            if name == "HINTS":  # of a pattern or a parameter
                pairs = value.elts if isinstance(value, ast.Tuple) else []
                texts = [pair.elts[1] for pair in pairs if isinstance(pair, ast.Tuple)]
                texts += value.values if isinstance(value, ast.Dict) else []
            yield from self._texts(texts, {}, "start", name)

    def _defaults(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Message]:
        named = function.args.posonlyargs + function.args.args
        for argument, default in zip(reversed(named), reversed(function.args.defaults), strict=False):
            if argument.arg in TEXTS:
                yield from self._texts([default], {}, "error", function.name)

    def _texts(
        self, values: list[ast.expr], names: dict[str, list[ast.expr]], kind: Kind, writer: str
    ) -> Iterator[Message]:
        for value in values:
            for text in _strings(value, names):
                if " " in text.strip():
                    yield Message(self._module, value.lineno, kind, writer, text)


def _assigned(body: list[ast.stmt]) -> dict[str, list[ast.expr]]:
    """Name -> the values that a body assigns to it."""
    values: defaultdict[str, list[ast.expr]] = defaultdict(list)
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    values[_name(target)].append(node.value)
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
                values[_name(node.target)].append(node.value)
    return dict(values)


def _strings(value: ast.expr, names: dict[str, list[ast.expr]], depth: int = 0) -> Iterator[str]:
    """The texts that an expression may have."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.JoinedStr):
        yield "".join(
            part.value if isinstance(part, ast.Constant) else "{" + _label(part) + "}" for part in value.values
        )
    elif isinstance(value, ast.IfExp):
        yield from _strings(value.body, names, depth)
        yield from _strings(value.orelse, names, depth)
    elif isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        left, right = list(_strings(value.left, names, depth)), list(_strings(value.right, names, depth))
        yield from (first + second for first in left or ["{…}"] for second in right or ["{…}"])
    elif isinstance(value, ast.Name) and depth < 2:
        for given in names.get(value.id, []):
            yield from _strings(given, names, depth + 1)


def _label(part: ast.expr) -> str:
    return ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else "…"


if __name__ == "__main__":
    print(page())  # noqa: T201 - the answer
