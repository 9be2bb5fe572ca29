"""Rendering: a program for .venv-deploy, which has Helm's own renderer and Kubernetes' schemas.

It reads a JSON object from standard input: by name, the values of a release. It prints, by name, the objects of the chart,
the notes, what Kubernetes' schemas say against them, and the error if there is one.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import helm_python  # pyright: ignore[reportMissingImports]
import kubernetes_validate  # pyright: ignore[reportMissingImports]
import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "threadkeep"
KUBERNETES = ("1.29", "1.37")
"""The oldest version that the chart allows, and a new one."""
OF_OPERATORS = {"Cluster", "ScaledObject", "ServiceMonitor"}
"""Kinds that operators bring. Their schemas are in the test."""


def render(chart: Any, values: dict[str, Any]) -> dict[str, Any]:
    try:
        files = chart.render(values, name="demo", namespace="prod")
    except helm_python.HelmError as error:
        return {"error": str(error)}
    notes = next(text for name, text in files.items() if name.endswith("NOTES.txt"))
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    objects = [item for text in texts for item in yaml.safe_load_all(text) if item is not None]
    return {
        "objects": objects,
        "notes": notes,
        "complaints": [text for item in objects for text in complaints(json.dumps(item))],
    }


@functools.cache
def complaints(text: str) -> list[str]:
    """What the schemas of Kubernetes say against an object in JSON. Unknown fields are complaints too."""
    item: dict[str, Any] = json.loads(text)
    found: list[str] = []
    for version in () if item["kind"] in OF_OPERATORS else KUBERNETES:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{version} {item['kind']} {list(error.path)}: {error.message}")
    return found


if __name__ == "__main__":
    with helm_python.Chart.load(str(CHART)) as loaded:
        json.dump({name: render(loaded, values) for name, values in json.load(sys.stdin).items()}, sys.stdout)
