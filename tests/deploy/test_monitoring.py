"""The dashboard and the alert rules: their metrics are the server's, and Prometheus' own tool reads and tries them."""

import json
import logging
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from threadkeep.base.logs import JsonFormatter
from threadkeep.base.metrics import Metrics

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD: Any = json.loads((ROOT / "deploy" / "grafana" / "threadkeep.json").read_text())
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="Debian's package prometheus has promtool")
METRIC = re.compile(r"\b(?:threadkeep|http_server|db_client|process|python_gc)_\w+")
NO_METRICS = re.compile(r"\{[^}]*\}|\b(?:by|without|on|ignoring)\s*\([^)]*\)|label_values\((?=\w)|, instance\)$")
"""Labels and their values, which are left out of the search for metrics."""


def _panels() -> list[Any]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def _dashboard_queries() -> list[str]:
    return [target["expr"] for panel in _panels() for target in panel["targets"]]


def _alerts() -> list[Any]:
    groups: Any = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _series() -> Iterator[str]:
    """Names of the series that a server has, before anything happened."""
    for family in Metrics(graphs=["agent"], routes=[("GET", "/ok")]).registry.collect():
        yield from {sample.name for sample in family.samples}
        if family.type == "histogram":  # one with labels has no sample yet
            yield from (f"{family.name}_{end}" for end in ("bucket", "sum", "count"))
        yield f"{family.name}_total" if family.type == "counter" else family.name


@pytest.mark.parametrize("source", ["dashboard", "alerts"])
def test_every_metric_is_one_of_the_server(source: str) -> None:
    """Issue: a renamed metric must not leave an empty panel, or an alert that never fires."""
    queries = _dashboard_queries() if source == "dashboard" else [rule["expr"] for rule in _alerts()]
    variables = [item["query"]["query"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"]
    named = {name for query in [*queries, *variables] for name in METRIC.findall(NO_METRICS.sub(" ", query))}

    assert named - set(_series()) == set()
    assert len(named) > 5


def test_alerts_say_what_happened_and_what_to_do() -> None:
    """Ours: a summary, a description, and a severity for the routing."""
    rules = _alerts()

    assert all(set(rule["annotations"]) == {"summary", "description"} for rule in rules)
    assert {rule["labels"]["severity"] for rule in rules} == {"critical", "warning"}
    assert len({rule["alert"] for rule in rules}) == len(rules)


def test_panels_have_a_place_of_their_own_and_a_text() -> None:
    """Ours: none covers another one."""
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert all(panel["description"] and panel["title"] for panel in _panels())
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def _promtool(folder: Path, *arguments: str) -> str:
    done = subprocess.run([str(PROMTOOL), *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    """Issue: `promtool test rules`. Every rule fires at least once there."""
    shutil.copy(ALERTS, tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yaml"), tmp_path)
    tests = (tmp_path / "alerts_test.yaml").read_text()

    assert f"{len(_alerts())} rules found" in _promtool(tmp_path, "check", "rules", "alerts.yaml")
    _promtool(tmp_path, "test", "rules", "alerts_test.yaml")
    assert [rule["alert"] for rule in _alerts() if f'alertname="{rule["alert"]}"' not in tests] == []


@needs_promtool
def test_prometheus_reads_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """Ours: as rules, because promtool reads no dashboards."""
    queries = [query.replace("$__rate_interval", "5m").replace("$instance", ".*") for query in _dashboard_queries()]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    assert f"{len(queries)} rules found" in _promtool(tmp_path, "check", "rules", "queries.yaml")


def test_log_shippers_read_the_fields_that_a_line_has() -> None:
    """Issue: log shipping. Vector and Fluent Bit do not run here, so their files are compared with a line of the log."""
    record = logging.makeLogRecord({"name": "threadkeep.audit", "levelname": "INFO", "msg": "removed"})
    line: Any = json.loads(JsonFormatter().format(record))
    vector: Any = yaml.safe_load((ROOT / "docs" / "examples" / "vector.yaml").read_text())
    fluent: Any = yaml.safe_load((ROOT / "docs" / "examples" / "fluent-bit.yaml").read_text())
    [parser] = fluent["parsers"]
    labels = re.findall(r"\{\{ (\w+) \}\}", " ".join(vector["sinks"]["loki"]["labels"].values()))
    units = {unit.partition("@")[0].removesuffix(".service") for unit in vector["sources"]["journal"]["include_units"]}

    assert {*labels, parser["time_key"]} <= line.keys()
    assert "parse_timestamp(.time" in vector["transforms"]["threadkeep"]["source"]
    assert parser["time_format"] == "%Y-%m-%dT%H:%M:%S.%L%z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+[+-]\d\d:\d\d", line["time"])
    assert fluent["pipeline"]["filters"][0]["parser"] == parser["name"]
    assert units == {"threadkeep"}
