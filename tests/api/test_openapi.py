"""The spec, and the page that shows it."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from openapi_spec_validator import validate
from pydantic import TypeAdapter

from conftest import WAIT_S, serving
from threadkeep.api.ops import openapi
from threadkeep.api.routes import TABLE
from threadkeep.project import Project
from threadkeep.settings import Settings

DESCRIBED = [operation for operation in TABLE if operation.path != "/"]


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return openapi.document(TABLE)


def _project(root: Path, **http: Any) -> Project:
    return Project.model_validate({"root": root, "graphs": {"g": "g.py:g"}, "http": http})


async def test_the_server_serves_its_spec(http: httpx.AsyncClient, spec: dict[str, Any]) -> None:
    """Protocol: /openapi.json, OpenAPI 3.1."""
    answer = await http.get("/openapi.json")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == spec
    assert spec["openapi"] == "3.1.0"
    await anyio.to_thread.run_sync(validate, spec)


def test_every_route_is_described_and_nothing_else(spec: dict[str, Any]) -> None:
    """Ours: the spec is made from the table; `/` is `/ok` by another name."""
    described = {(method.upper(), path) for path, methods in spec["paths"].items() for method in methods}

    assert described == {(operation.method, operation.path) for operation in DESCRIBED}


@pytest.mark.parametrize("operation", DESCRIBED, ids=lambda one: f"{one.method} {one.path}")
def test_an_operation_describes_its_purpose_request_and_responses(spec: dict[str, Any], operation: Any) -> None:
    """Ours: a line of the table without a docstring or a shape is not finished."""
    entry = spec["paths"][operation.path][operation.method.lower()]
    success = entry["responses"][str(operation.response.status)]
    parameters = {one["name"] for one in entry.get("parameters", []) if one["in"] == "path"}

    assert entry["summary"]
    assert len(entry["tags"]) == 1
    assert bool(entry.get("requestBody")) == bool(operation.documented_body)
    assert parameters == set(re.findall(r"\{(\w+)\}", operation.path))
    assert list(success.get("content", {})) == (
        [operation.response.media_type] if operation.response.media_type else []
    )
    if operation.response.media_type == "application/json":
        assert operation.response.schema is not None
    problem = {"$ref": "#/components/schemas/Problem"}
    others = {int(status): one for status, one in entry["responses"].items() if int(status) >= 400}
    for status, response in others.items():
        assert (
            status in operation.response.other_responses or response["content"]["application/json"]["schema"] == problem
        )


def test_names_of_operations_are_their_own(spec: dict[str, Any]) -> None:
    """OpenAPI: `operationId` is unique; generated clients name their methods by it."""
    names = [entry["operationId"] for methods in spec["paths"].values() for entry in methods.values()]

    assert sorted(set(names)) == sorted(names)


def test_every_operation_has_a_name_that_a_person_chose(spec: dict[str, Any]) -> None:
    """Issue: clients name their functions by it."""
    assert set(openapi.OPERATION_IDS) == {operation.name for operation in DESCRIBED}
    assert spec["paths"]["/threads/{thread_id}/runs/wait"]["post"]["operationId"] == "create_run_and_wait"


def test_titles_of_schemas_are_their_own(spec: dict[str, Any]) -> None:
    """Issue: generators name classes by titles, and drop what comes twice."""
    titles = {name: schema["title"] for name, schema in spec["components"]["schemas"].items() if "title" in schema}

    assert titles == {name: name for name in titles}


@pytest.mark.parametrize("name", openapi.EXAMPLES)
def test_examples_are_right(spec: dict[str, Any], name: str) -> None:
    """Issue: a body that can be sent as it stands."""
    [operation] = [each for each in DESCRIBED if each.name == name]
    shown = spec["paths"][operation.path][operation.method.lower()]["requestBody"]["content"]["application/json"]

    TypeAdapter(operation.documented_body).validate_python(shown["example"])


def test_streams_are_texts_whose_events_are_described(spec: dict[str, Any]) -> None:
    """Issue: generated code reads a stream as text; what an event holds stands beside it."""
    streams = [operation for operation in DESCRIBED if operation.response.media_type == "text/event-stream"]
    for operation in streams:
        answer = spec["paths"][operation.path][operation.method.lower()]["responses"]["200"]
        described = answer["content"]["text/event-stream"]
        assert described["schema"]["type"] == "string"
        assert described["x-event-schema"] == {"$ref": "#/components/schemas/Event"}

    assert "Event" in spec["components"]["schemas"]
    assert streams


def test_refusals_that_pass_say_when_to_try_again(spec: dict[str, Any]) -> None:
    """Issue: `Retry-After`, where the server sends it."""
    responses = spec["paths"]["/runs/wait"]["post"]["responses"]
    later = {status for status, response in responses.items() if "Retry-After" in response.get("headers", {})}

    assert later == {"409", "429", "503"}


def test_bodies_have_no_defaults_that_clients_would_send(spec: dict[str, Any]) -> None:
    """Ours: a generated client sends only the fields that were set, and requires only the required ones."""
    body = spec["components"]["schemas"]["ThreadRunBody"]["properties"]

    assert body["durability"]["x-default"] == "async"
    assert [name for name, schema in body.items() if "default" in schema] == []


def test_rows_and_bodies_are_described_by_their_docstrings(spec: dict[str, Any]) -> None:
    """Ours: JSON columns are objects, docstrings under attributes are descriptions, `select` makes fields optional."""
    schemas = spec["components"]["schemas"]

    assert schemas["Run"]["properties"]["metadata"] == {"type": "object", "additionalProperties": True}
    assert "run_id" in schemas["Run"]["required"]
    assert "required" not in schemas["SelectedRun"]
    assert schemas["Cron"]["properties"]["timezone"]["description"] == "An IANA name. null: UTC."
    assert schemas["Command"]["properties"]["resume"]["description"].startswith("The answer")


@pytest.mark.parametrize("path", ["/info", "/ok?check_db=1", "/livez", "/readyz", "/me", "/workers"])
async def test_answers_have_no_fields_that_the_document_lacks(
    http: httpx.AsyncClient, spec: dict[str, Any], path: str
) -> None:
    """Ours: `database` of `/info` was not in the document, so generated clients did not have it."""
    response = await http.get(path)
    documented = spec["paths"][path.partition("?")[0]]["get"]["responses"]["200"]["content"]["application/json"]

    assert response.status_code == 200
    assert _undocumented(response.json(), documented["schema"], spec) == []


def _undocumented(value: object, schema: dict[str, Any], spec: dict[str, Any], place: str = "") -> list[str]:
    """The places of fields that an object schema with properties does not have."""
    if "$ref" in schema:
        schema = spec["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    if isinstance(value, list):
        return [error for item in value for error in _undocumented(item, schema["items"], spec, f"{place}[]")]
    properties = schema.get("properties")
    if not isinstance(value, dict) or properties is None:
        return []
    lacking = [f"{place}.{name}" for name in value if name not in properties]
    inner = [(name, item) for name, item in value.items() if name in properties]
    return lacking + [
        error for name, item in inner for error in _undocumented(item, properties[name], spec, f"{place}.{name}")
    ]


async def test_disabled_routes_are_not_described_and_the_prefix_is_named(settings: Settings, tmp_path: Path) -> None:
    """Ours: the spec tells of this server, not of all that there could be."""
    project = _project(tmp_path, mount_prefix="/pre", disable_store=True)
    async with (
        serving(settings, project=project) as url,
        httpx.AsyncClient(base_url=url + "/pre", timeout=WAIT_S) as http,
    ):
        spec = (await http.get("/openapi.json")).json()
        page = await http.get("/docs")

    assert spec["servers"] == [{"url": "/pre"}]
    assert [path for path in spec["paths"] if path.startswith("/store")] == []
    assert "/threads" in spec["paths"]
    assert page.status_code == 200


async def test_page_needs_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    """Ours: /docs works without an internet, and its policy lets it load nothing."""
    answer = await http.get("/docs")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert re.findall(r"https?://", answer.text) == []
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        [inline] = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
