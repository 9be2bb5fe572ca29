"""The Helm chart: rendered by Helm's own renderer, checked by Kubernetes' schemas, and compared with the server's settings."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from threadkeep.api.routes import TABLE
from threadkeep.cli import main
from threadkeep.settings import environment_names

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-deploy" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="`make deploytools` installs Helm's renderer")

SECRET = {"image": {"repository": "registry.example/agent"}, "database": {"existingSecret": "postgres"}}
POSTGRES = {"image": SECRET["image"], "cloudnativepg": {"enabled": True, "storage": {"storageClass": "fast"}}}
RELEASES: Mapping[str, Mapping[str, Any]] = {
    "defaults": SECRET,
    "one role": {**SECRET, "split": False, "worker": {"runSlots": 40}},
    "keda": {**SECRET, "worker": {"autoscaling": {"kind": "keda"}}},
    "cpu": {**SECRET, "worker": {"autoscaling": {"kind": "cpu"}}, "api": {"autoscaling": {"enabled": True}}},
    "cloudnativepg": {**POSTGRES, "metrics": {"serviceMonitor": {"enabled": True, "labels": {"team": "agents"}}}},
    "all": {
        "image": {"repository": "registry.example/agent", "digest": f"sha256:{'0' * 64}"},
        "imagePullSecrets": [{"name": "pull"}],
        "database": {"existingSecret": "postgres", "key": "pooled", "directKey": "direct"},
        "project": "shop",
        "env": {"THREADKEEP_LEASE": 20, "OPENAI_BASE_URL": "https://models.example"},
        "envFrom": [{"secretRef": {"name": "model-keys"}}],
        "worker": {"runSlots": 40},
        "migrate": {"existingSecret": "owner"},
        "ingress": {"enabled": True, "className": "nginx", "host": "agents.example.com", "tlsSecret": "tls"},
        "networkPolicy": {"apiFrom": [{"podSelector": {"matchLabels": {"app": "gateway"}}}]},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "agents", "operator": "Exists"}],
        "priorityClassName": "high",
        "podAnnotations": {"a": "b"},
    },
    "no image": {"database": SECRET["database"]},
    "no database": {"image": SECRET["image"]},
    "unknown value": {**SECRET, "replicas": 3},
    "unknown kind": {**SECRET, "auth": {"type": "basic"}},
    "open to all": {**SECRET, "auth": {"type": "none"}},
    "lingers too long": {**SECRET, "lingerSeconds": 60},
}
REFUSED = {
    "no image": "image.repository: name the image with your graphs",
    "no database": "database.existingSecret: name a secret with the address of Postgres",
    "unknown value": "additional properties 'replicas' not allowed",
    "unknown kind": "'/auth/type': value must be one of",
    "open to all": "needs auth.allowUnauthenticated",
    "lingers too long": "lingerSeconds is a part of drainSeconds",
}
ACCEPTED = sorted(RELEASES.keys() - REFUSED.keys())


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


TEXT, COUNT, ANY = {"type": "string"}, {"type": "integer"}, {"type": "object"}
LIST_OF_TEXT = {"type": "array", "items": TEXT}
OF_OPERATORS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ScaledObject": (
        "keda.sh/v1alpha1",
        _object(
            "scaleTargetRef triggers",
            scaleTargetRef=_object("name", name=TEXT),
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            pollingInterval=COUNT,
            cooldownPeriod=COUNT,
            triggers={
                "type": "array",
                "minItems": 1,
                "items": _object(
                    "type metadata",
                    type={"const": "prometheus"},
                    metadata=_object("serverAddress query threshold", serverAddress=TEXT, query=TEXT, threshold=TEXT),
                ),
            },
        ),
    ),
    "ServiceMonitor": (
        "monitoring.coreos.com/v1",
        _object(
            "selector endpoints",
            selector=_object("matchLabels", matchLabels=ANY),
            endpoints={"type": "array", "items": _object("port", port=TEXT, path=TEXT, interval=TEXT)},
        ),
    ),
    "Cluster": (
        "postgresql.cnpg.io/v1",
        _object(
            "instances storage",
            instances=COUNT,
            imageName=TEXT,
            storage=_object("size", size=TEXT, storageClass=TEXT),
            resources=ANY,
            bootstrap=_object(
                "initdb",
                initdb=_object(
                    "database owner", database=TEXT, owner=TEXT, encoding=TEXT, postInitApplicationSQL=LIST_OF_TEXT
                ),
            ),
            postgresql=_object(
                "parameters",
                synchronous=_object("method number", method={"enum": ["any", "first"]}, number=COUNT),
                parameters={"type": "object", "additionalProperties": TEXT},
            ),
        ),
    ),
}
"""Kind of an operator -> its version, and the fields of its `spec` that the chart uses, as the operator documents them."""


@pytest.fixture(scope="module")
def releases() -> Mapping[str, Any]:
    """The result of `rendering.py` for each of `RELEASES`."""
    program = Path(__file__).with_name("rendering.py")
    done = subprocess.run(
        [str(PYTHON), str(program)], input=json.dumps(RELEASES), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _objects(releases: Mapping[str, Any], *kinds: str, release: str | None = None) -> list[dict[str, Any]]:
    names = [release] if release else ACCEPTED
    return [item for name in names for item in releases[name]["objects"] if not kinds or item["kind"] in kinds]


def _pods(releases: Mapping[str, Any], release: str | None = None) -> list[dict[str, Any]]:
    return [item["spec"]["template"] for item in _objects(releases, "Deployment", "Job", release=release)]


def _containers(releases: Mapping[str, Any], release: str | None = None) -> Iterator[dict[str, Any]]:
    for pod in _pods(releases, release):
        yield from pod["spec"]["containers"]


def _variables(container: Mapping[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}


@pytest.mark.parametrize("name", ACCEPTED)
def test_objects_are_valid_for_kubernetes(releases: Mapping[str, Any], name: str) -> None:
    """Issue: rendered and validated. Unknown fields count as faults."""
    assert releases[name].get("error") is None
    assert releases[name]["complaints"] == []


def test_objects_of_operators_have_the_fields_that_these_document(releases: Mapping[str, Any]) -> None:
    """Issue: CloudNativePG, KEDA, and the Prometheus operator."""
    objects = _objects(releases, *OF_OPERATORS)
    for item in objects:
        version, schema = OF_OPERATORS[item["kind"]]
        assert item["apiVersion"] == version
        jsonschema.validate(item["spec"], schema)

    assert {item["kind"] for item in objects} == OF_OPERATORS.keys()


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_values_that_cannot_be_meant_are_refused(releases: Mapping[str, Any], name: str, reason: str) -> None:
    """Ours: at the install and not by a pod that does not start."""
    assert reason in releases[name]["error"]


def test_variables_are_settings_of_the_server(releases: Mapping[str, Any]) -> None:
    """Ours: an unknown THREADKEEP_ name stops the start."""
    names = {name for item in _containers(releases) for name in _variables(item) if name.startswith("THREADKEEP_")}

    assert names - environment_names() == set()
    assert {"THREADKEEP_ROLE", "THREADKEEP_DATABASE_URI", "THREADKEEP_AUTH_TYPE", "THREADKEEP_PROJECT"} <= names


def test_commands_and_probes_are_those_of_the_server(releases: Mapping[str, Any]) -> None:
    """Ours: `threadkeep serve` and `threadkeep migrate`, and paths that are served."""
    containers = [*_containers(releases)]
    probes = [
        item[key] for item in containers for key in ("startupProbe", "livenessProbe", "readinessProbe") if key in item
    ]

    assert {item["args"][0] for item in containers} == {"serve", "migrate"} <= set(main.commands)
    assert {probe["httpGet"]["path"] for probe in probes} == {"/livez", "/readyz"} <= {route.path for route in TABLE}


def test_containers_have_no_rights_that_they_do_not_need(releases: Mapping[str, Any]) -> None:
    """Issue: non-root 10001, a read-only root file system, no capabilities, no token of the cluster."""
    rights = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [item["securityContext"] for item in _containers(releases)] == [rights for _ in _containers(releases)]
    for pod in _pods(releases):
        context = pod["spec"]["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is False


def test_pods_are_given_longer_to_stop_than_runs_are(releases: Mapping[str, Any]) -> None:
    """docs/operations.md: the time of THREADKEEP_DRAIN, and more than 10 s beyond it."""
    for item in _objects(releases, "Deployment"):
        [container] = item["spec"]["template"]["spec"]["containers"]
        drain_s = int(_variables(container)["THREADKEEP_DRAIN"])

        assert item["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= drain_s + 10


def test_roles_are_apart_unless_they_are_joined(releases: Mapping[str, Any]) -> None:
    """Issue: API and worker deployments."""
    apart = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in _pods(releases, "defaults")}
    roles = [_variables(item).get("THREADKEEP_ROLE") for item in _containers(releases, "defaults")]
    [joined] = [_variables(item) for item in _containers(releases, "one role") if item["args"] == ["serve"]]

    assert apart == {"api", "worker", "migrate"}
    assert sorted(filter(None, roles)) == ["api", "worker"]
    assert "THREADKEEP_ROLE" not in joined
    assert joined["THREADKEEP_RUN_SLOTS"] == "40"


@pytest.mark.parametrize("name", ACCEPTED)
def test_selectors_find_their_pods(releases: Mapping[str, Any], name: str) -> None:
    """Ours: of services, disruption budgets, deployments and the network policy."""
    labels = [pod["metadata"]["labels"] for pod in _pods(releases, name)]
    for item in _objects(releases, "Service", "PodDisruptionBudget", "Deployment", "NetworkPolicy", release=name):
        spec = item["spec"]
        selector = spec.get("podSelector", spec.get("selector"))
        wanted = selector.get("matchLabels", selector)

        assert any(wanted.items() <= pod.items() for pod in labels), item["metadata"]["name"]


def test_an_autoscaler_alone_decides_on_the_number_of_pods(releases: Mapping[str, Any]) -> None:
    """Issue: HPA or KEDA. An upgrade must not set the number back."""
    for release in ("keda", "cpu"):
        scalers = _objects(releases, "HorizontalPodAutoscaler", "ScaledObject", release=release)
        scaled = {item["spec"]["scaleTargetRef"]["name"] for item in scalers}
        for item in _objects(releases, "Deployment", release=release):
            assert ("replicas" in item["spec"]) == (item["metadata"]["name"] not in scaled)
        assert "demo-threadkeep-worker" in scaled


def test_the_queue_that_keda_reads_is_a_metric_of_the_server(releases: Mapping[str, Any]) -> None:
    """Issue: KEDA on the depth of the queue."""
    page = (ROOT / "docs" / "how-to" / "observability.md").read_text()
    [scaler] = _objects(releases, "ScaledObject")
    queries = [trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]]
    names = {name for query in queries for name in re.findall(r"threadkeep_\w+", query)}

    assert names == {"threadkeep_run_queue_depth", "threadkeep_run_slots_in_use"}
    assert all(f"`{name}`" in page for name in names)


def test_migrations_run_before_the_servers(releases: Mapping[str, Any]) -> None:
    """Issue: a job before an install and an upgrade. A Postgres of the chart is there only after the install."""
    hooks = {
        name: [item["metadata"]["annotations"]["helm.sh/hook"] for item in _objects(releases, "Job", release=name)]
        for name in ("defaults", "cloudnativepg")
    }
    [job] = [item for item in _containers(releases, "all") if item["args"] == ["migrate"]]

    assert hooks == {"defaults": ["pre-install,pre-upgrade"], "cloudnativepg": ["pre-upgrade"]}
    assert _variables(job)["THREADKEEP_DATABASE_URI"] == {"secretKeyRef": {"name": "owner", "key": "uri"}}


def test_notes_count_the_connections_to_postgres(releases: Mapping[str, Any]) -> None:
    """docs/operations.md: 16 for each process."""
    assert "At most 5 processes run at once" in releases["defaults"]["notes"]
    assert "80 together" in releases["defaults"]["notes"]
    assert "At most 13 processes" in releases["keda"]["notes"]
