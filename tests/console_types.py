"""The types of the API's answers, as the console reads them: `make types` writes them from the OpenAPI document."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from threadkeep.api.ops import openapi
from threadkeep.api.routes import TABLE

FILE = Path(__file__).parents[1] / "console" / "src" / "api-types.ts"
HEAD = "/** The answers of the API. `make types` writes this from the OpenAPI document: change nothing here. */\n"
READ = (
    "Assistant",
    "AssistantVersion",
    "Cron",
    "GraphDrawing",
    "GraphSchemas",
    "Info",
    "Item",
    "Me",
    "OwnApiKey",
    "Run",
    "SelectedRunMatch",
    "SelectedThreadMatch",
    "StateUpdateResult",
    "ThreadState",
    "ThreadWithTtl",
    "WorkerProcess",
)
"""The answers that the page reads. What they refer to is written too."""
PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def typescript(schema: Mapping[str, Any], names: set[str]) -> str:
    """The type of a JSON schema. Names that it refers to are added to `names`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        names.add(name)
        return name
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(dict.fromkeys(typescript(option, names) for option in options))
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return " | ".join(f'"{value}"' if isinstance(value, str) else str(value).lower() for value in values)
    if schema.get("type") == "array":
        item = typescript(schema.get("items", {}), names)
        return f"({item})[]" if "|" in item else f"{item}[]"
    if schema.get("type") == "object":
        if "properties" in schema:
            return "{ " + "; ".join(_fields(schema, names)) + " }"
        inner = schema.get("additionalProperties", True)
        return f"Record<string, {typescript(inner, names) if isinstance(inner, dict) else 'unknown'}>"
    return PLAIN.get(str(schema.get("type")), "unknown")


def _fields(schema: Mapping[str, Any], names: set[str]) -> list[str]:
    required = schema.get("required", ())
    return [
        f"{name}{'' if name in required else '?'}: {typescript(each, names)}"
        for name, each in schema["properties"].items()
    ]


def generated() -> str:
    """The file as it should be."""
    schemas = openapi.document(TABLE)["components"]["schemas"]
    wanted, written = set(READ), dict[str, str]()
    while missing := sorted(wanted - written.keys()):
        for name in missing:
            if "properties" in schemas[name]:
                lines = "".join(f"  {field};\n" for field in _fields(schemas[name], wanted))
                written[name] = f"export interface {name} {{\n{lines}}}\n"
            else:
                written[name] = f"export type {name} = {typescript(schemas[name], wanted)};\n"
    return HEAD + "".join(f"\n{written[name]}" for name in sorted(written))


def main() -> None:
    """Write the file."""
    FILE.write_text(generated())
    sys.stdout.write(f"{FILE.name} written\n")


if __name__ == "__main__":
    main()
