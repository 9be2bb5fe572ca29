"""The `http` key of langgraph.json: which routes, where, for which origins, with which headers, beside which others."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph
from langgraph_sdk import get_client
from openapi_spec_validator import validate

from conftest import WAIT_S, serving
from threadkeep.app import create_app
from threadkeep.base.problems import StartupError
from threadkeep.graphs import as_loaded_graph
from threadkeep.project import Project
from threadkeep.settings import Settings

CUSTOM = """
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route


async def hello(request):
    return JSONResponse({"hello": request.app.state.opened, "from": request.state.lifespan})


async def mine(request):
    return PlainTextResponse("mine")


async def broken(request):
    raise LookupError("gone")


async def on_lookup(request, error):
    return PlainTextResponse("handled", 418)


class Stamp:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def stamped(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-stamp", b"1")]
            await send(message)

        await self.app(scope, receive, stamped)


closed = []


@asynccontextmanager
async def lifespan(app):
    app.state.opened = True
    yield {"lifespan": "theirs"}
    closed.append(True)


app = Starlette(
    routes=[
        Route("/hello", hello),
        Route("/broken", broken),
        *(Route(path, mine) for path in ("/", "/info", "/ok", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json")),
    ],
    middleware=[Middleware(Stamp)],
    exception_handlers={LookupError: on_lookup},
    lifespan=lifespan,
)
"""

PREFLIGHT = {"access-control-request-method": "POST"}


def _project(root: Path, **http: Any) -> Project:
    (root / "custom.py").write_text(CUSTOM)
    return Project.model_validate({"root": root, "graphs": {"g": "g.py:g"}, "http": http})


@asynccontextmanager
async def _http(settings: Settings, project: Project) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings, project=project) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        yield http


async def _allowed(http: httpx.AsyncClient, origin: str) -> str | None:
    answer = await http.options("/threads", headers=PREFLIGHT | {"origin": origin})
    return answer.headers.get("access-control-allow-origin")


async def test_without_cors_only_pages_of_this_machine_may_call(http: httpx.AsyncClient) -> None:
    """Ours: a page on the internet can't use a server on a user's laptop."""
    assert await _allowed(http, "http://localhost:3000") == "http://localhost:3000"
    assert await _allowed(http, "https://app.example") is None


async def test_cors_takes_the_place_of_the_default(settings: Settings, tmp_path: Path) -> None:
    """Protocol: `http.cors`. Ours: the headers that clients rely on are exposed whatever else is."""
    cors = {"allow_origins": ["https://app.example"], "expose_headers": ["X-Own"], "allow_credentials": True}
    async with _http(settings, _project(tmp_path, cors=cors)) as http:
        answer = await http.get("/ok", headers={"origin": "https://app.example"})
        others = [await _allowed(http, origin) for origin in ("http://localhost:3000", "https://app.example.evil")]

    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-allow-credentials"] == "true"
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"content-location", "location", "x-pagination-total", "x-pagination-next", "x-own"} <= set(exposed)
    assert others == [None, None]


@pytest.mark.parametrize(
    ("switch", "gone"),
    [
        ("disable_assistants", [("POST", "/assistants/search")]),
        ("disable_threads", [("POST", "/threads"), ("GET", "/threads/x/state")]),
        ("disable_runs", [("POST", "/runs/wait"), ("POST", "/threads/x/runs"), ("POST", "/query")]),
        ("disable_store", [("GET", "/store/items"), ("POST", "/store/namespaces")]),
        ("disable_meta", [("GET", "/info"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json")]),
        ("disable_mcp", [("POST", "/mcp")]),
        ("disable_agui", [("POST", "/ag-ui/chain")]),
        ("disable_a2a", [("POST", "/a2a/x"), ("GET", "/.well-known/agent-card.json")]),
    ],
)
async def test_disabled_routes_are_not_found_and_others_are(
    settings: Settings, tmp_path: Path, switch: str, gone: list[tuple[str, str]]
) -> None:
    """Protocol: `http.disable_*`."""
    elsewhere = [("POST", "/assistants/search"), ("POST", "/threads"), ("POST", "/store/namespaces"), ("GET", "/info")]
    async with _http(settings, _project(tmp_path, **{switch: True})) as http:
        missing = [(await http.request(method, path, json={})).status_code for method, path in gone]
        found = [await http.request(each[0], each[1], json={}) for each in elsewhere if each not in gone]
        health = [(await http.get(path)).status_code for path in ("/ok", "/livez", "/readyz")]

    assert missing == [404] * len(gone)
    assert {answer.status_code for answer in found} == {200}
    assert health == [200, 200, 200]


async def test_runs_stay_if_threads_are_disabled(settings: Settings, tmp_path: Path) -> None:
    """Ours: each switch takes away its own routes."""
    async with _http(settings, _project(tmp_path, disable_threads=True)) as http:
        answer = await http.post(f"/threads/{'0' * 32}/runs", json={"assistant_id": "chain", "input": {}})

    assert (answer.status_code, answer.json()["detail"]) == (404, "Thread or assistant not found.")


async def test_prefix_stands_before_everything_and_health_is_at_the_root_too(
    settings: Settings, tmp_path: Path
) -> None:
    """Protocol: `http.mount_prefix`."""
    async with _http(settings, _project(tmp_path, mount_prefix="/pre/fix/")) as http:
        both = [
            (await http.get(prefix + path)).status_code
            for prefix in ("", "/pre/fix")
            for path in ("/", "/ok", "/livez", "/readyz")
        ]
        below = (await http.get("/pre/fix/info")).status_code
        root = [(await http.get(path)).status_code for path in ("/info", "/threads", "/pre/info")]

    assert (both, below, root) == ([200] * 8, 200, [404] * 3)


async def test_sdk_finds_its_runs_again_below_a_prefix(settings: Settings, tmp_path: Path) -> None:
    """Protocol: the clients put `location` behind their base address, so it has no prefix."""
    async with (
        serving(settings, project=_project(tmp_path, mount_prefix="/pre")) as url,
        get_client(url=url + "/pre", api_key=None) as client,
    ):
        thread = await client.threads.create()
        made: list[Any] = []
        streamed = [
            part.event
            async for part in client.runs.stream(
                thread["thread_id"],
                "chain",
                input={"items": []},
                stream_resumable=True,
                on_run_created=made.append,
            )
        ]
        waited = await client.runs.wait(thread["thread_id"], "chain", input={"items": []})
        run_id = made[0]["run_id"]
        rejoined = [
            part.event async for part in client.runs.join_stream(thread["thread_id"], run_id, last_event_id="-1")
        ]
        answer = await client.http.client.post("/runs/wait", json={"assistant_id": "chain", "input": {"items": []}})
        again = await client.http.get(f"/threads/{thread['thread_id']}/runs/{run_id}/join")

    assert streamed[0] == "metadata"
    assert rejoined[0] == "metadata"
    assert waited["items"] == ["first", "second", "first", "second"]
    assert again["items"] == waited["items"]
    assert answer.headers["content-location"].startswith("/threads/")


@pytest.fixture
async def custom(settings: Settings, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A server with the user's own application."""
    async with _http(settings, _project(tmp_path, app="./custom.py:app")) as http:
        yield http


async def test_routes_of_the_users_own_application_come_first(custom: httpx.AsyncClient) -> None:
    """Protocol: `http.app`, with its lifespan and its state."""
    assert (await custom.get("/hello")).json() == {"hello": True, "from": "theirs"}
    assert (await custom.get("/info")).text == "mine"
    assert (await custom.get("/")).text == "mine"
    assert (await custom.get("/nowhere")).json() == {"detail": "Not Found", "code": "not-found"}
    assert (await custom.post("/threads", json={})).status_code == 200


async def test_health_and_spec_can_not_be_shadowed(custom: httpx.AsyncClient) -> None:
    """Protocol: /ok, /metrics, /docs and /openapi.json. Ours: the probes too."""
    paths = ("/ok", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json")

    assert [path for path in paths if (await custom.get(path)).text == "mine"] == []


async def test_middleware_of_the_users_own_application_stands_around_ours(custom: httpx.AsyncClient) -> None:
    """Protocol: custom middleware wraps everything. Ours: but for the health checks."""
    answers = [await custom.get("/hello"), await custom.post("/threads", json={}), await custom.get("/nowhere")]

    assert [answer.headers.get_list("x-stamp") for answer in answers] == [["1"], ["1"], ["1"]]
    assert "x-stamp" not in (await custom.get("/ok")).headers
    assert all(answer.headers["x-request-id"] for answer in answers)


async def test_errors_of_the_users_own_routes_are_handled_by_the_user(custom: httpx.AsyncClient) -> None:
    """Ours: an application keeps its exception handlers."""
    answer = await custom.get("/broken")

    assert (answer.status_code, answer.text) == (418, "handled")


async def test_one_application_serves_two_servers(settings: Settings, tmp_path: Path) -> None:
    """Ours: the user's object stays as it was."""
    project = _project(tmp_path, app="./custom.py:app", mount_prefix="/pre")
    for _ in range(2):
        async with _http(settings, project) as http:
            assert (await http.get("/pre/hello")).json() == {"hello": True, "from": "theirs"}
            assert (await http.get("/hello")).status_code == 404
            assert (await http.post("/pre/threads", json={})).status_code == 200


async def _tell(state: MessagesState, config: RunnableConfig) -> Any:
    seen = {
        key: value for key, value in config["configurable"].items() if "-" in key or key in {"cookie", "authorization"}
    }
    return {"messages": [("assistant", repr(sorted(seen.items())))]}


async def test_chosen_headers_reach_the_graph_and_secret_ones_never(settings: Settings, tmp_path: Path) -> None:
    """Protocol: `http.configurable_headers`. Ours: the headers of a proxy take precedence over the body."""
    graph = StateGraph(MessagesState)
    graph.add_node("tell", _tell)
    graph.add_edge(START, "tell")
    graphs = {"telling": as_loaded_graph("telling", graph, where="tests")}
    rule = {"includes": ["X-*", "authorization", "cookie"], "excludes": ["x-inner-*"]}
    project = _project(tmp_path, configurable_headers=rule)
    sent = {
        "X-User": "ada",
        "x-inner-hop": "1",
        "x-api-key": "s",
        "x-tenant-id": "s",
        "Authorization": "s",
        "cookie": "s=1",
    }
    forged = {"assistant_id": "telling", "input": {"messages": []}, "config": {"configurable": {"x-user": "eve"}}}
    async with serving(settings, graphs, project) as url, httpx.AsyncClient(base_url=url, headers=sent) as http:
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        answers = [await http.post(path, json=forged) for path in ("/runs/wait", f"/threads/{thread}/runs/wait")]
        query = await http.post("/query", json={"query": "who?"})

    told = "[('x-user', 'ada')]"
    assert [answer.json()["messages"][-1]["content"] for answer in answers] == [told, told]
    assert query.json()["response"] == told


@pytest.mark.parametrize(
    ("http", "reason"),
    [
        ({"enable_custom_route_auth": True}, "http.enable_custom_route_auth"),
        ({"cors": {"allow_origins": ["*"], "allow_credentials": True}}, "http.cors: allow_credentials"),
        ({"cors": {"allow_origin_regex": ".*", "allow_credentials": True}}, "http.cors: allow_credentials"),
        ({"cors": {"allow_origin_regex": "("}}, "http.cors.allow_origin_regex"),
        ({"app": "./custom.py:closed"}, "http.app: ./custom.py:closed is not a Starlette or FastAPI application"),
        ({"app": "./custom.py:missing"}, "has no missing"),
        ({"mount_prefix": "pre"}, "http.mount_prefix"),
        ({"mount_prefix": "/{x}"}, "http.mount_prefix"),
    ],
)
async def test_an_unsupported_setting_stops_the_start(
    settings: Settings, tmp_path: Path, http: dict[str, Any], reason: str
) -> None:
    """Ours: nothing falls back to open."""
    project = _project(tmp_path, **http)

    with pytest.raises(StartupError, match=reason):
        await anyio.to_thread.run_sync(create_app, settings, "", {}, project)


async def test_settings_without_effect_are_logged(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: a key without effect is no silent one."""
    project = _project(tmp_path, logging_headers={"includes": ["x-*"]}, middleware_order="auth_first")

    with caplog.at_level(logging.WARNING):
        await anyio.to_thread.run_sync(create_app, settings, "", {}, project)

    [line] = [record for record in caplog.records if record.name == "threadkeep.api.mount"]
    assert line.__dict__["keys"] == ["http.logging_headers", "http.middleware_order"]


RAISING = """
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route


async def refuse(request):
    \"\"\"Refuse with a status.

    Whatever it is.
    \"\"\"
    raise HTTPException(request.path_params["status"], "no", headers={"x-why": "because"})


async def answer(request):
    return JSONResponse({"error": "said"}, 402)


async def read(request):
    return JSONResponse(await request.json())


class Things(HTTPEndpoint):
    async def get(self, request):
        \"\"\"List the things.\"\"\"
        return JSONResponse([])

    async def post(self, request):
        return JSONResponse({})


class Own(Starlette):
    def openapi(self):
        run = {"$ref": "#/components/schemas/Run"}
        content = {"application/json": {"schema": run}}
        get = {"operationId": "runs_create", "responses": {"200": {"description": "A run", "content": content}}}
        return {
            "paths": {"/mine": {"get": get}, "/ok": {"get": get}},
            "components": {"schemas": {"Run": {"type": "object", "properties": {"next": run}}}},
            "tags": [{"name": "Mine"}, {"name": "Crons"}],
        }


routes = [
    Route("/refuse/{status:int}", refuse),
    Route("/answer", answer, methods=["POST"]),
    Route("/read", read, methods=["POST"]),
    Mount("/below", routes=[Route("/things", Things)]),
    Route("/hidden", answer, include_in_schema=False),
    Route("/openapi.json", answer),
]
app = Starlette(routes=routes)
handled = Starlette(
    routes=routes, exception_handlers={HTTPException: lambda request, error: PlainTextResponse("mine", error.status_code)}
)
own = Own(routes=routes)
"""


@asynccontextmanager
async def _raising(settings: Settings, root: Path, name: str, **http: Any) -> AsyncIterator[httpx.AsyncClient]:
    (root / "raising.py").write_text(RAISING)
    async with _http(settings, _project(root, app=f"./raising.py:{name}", **http)) as client:
        yield client


async def test_errors_of_own_routes_are_json_with_their_status(settings: Settings, tmp_path: Path) -> None:
    """Protocol: an HTTPException is `{"detail"}` with its status and headers; a body that is no JSON is a 400."""
    statuses = (400, 409, 418, 499, 503, 599)
    async with _raising(settings, tmp_path, "app") as http:
        refused = [await http.get(f"/refuse/{status}") for status in statuses]
        empty = await http.get("/refuse/304")
        said = await http.post("/answer")
        unread = await http.post("/read", content=b"{")

    assert [answer.status_code for answer in refused] == list(statuses)
    assert {answer.json()["detail"] for answer in refused} == {"no"}
    assert {answer.headers["x-why"] for answer in refused} == {"because"}
    assert (empty.status_code, empty.content) == (304, b"")
    assert (said.status_code, said.json()) == (402, {"error": "said"})
    assert (unread.status_code, unread.json()["detail"]) == (400, "the body is not JSON")


async def test_own_handlers_of_errors_go_before_ours(settings: Settings, tmp_path: Path) -> None:
    """Ours: an application that makes its own answers keeps them."""
    async with _raising(settings, tmp_path, "handled") as http:
        answer = await http.get("/refuse/418")

    assert (answer.status_code, answer.text) == (418, "mine")


async def test_own_routes_are_in_the_spec(settings: Settings, tmp_path: Path) -> None:
    """Protocol: `/openapi.json` holds the routes of `http.app`."""
    async with _raising(settings, tmp_path, "app") as http:
        spec = (await http.get("/openapi.json")).json()

    refuse = spec["paths"]["/refuse/{status}"]["get"]
    assert refuse["parameters"] == [{"name": "status", "in": "path", "required": True, "schema": {"type": "integer"}}]
    assert (refuse["summary"], refuse["description"]) == ("Refuse with a status", "Whatever it is.")
    assert list(spec["paths"]["/answer"]) == ["post"]
    assert spec["paths"]["/below/things"]["get"]["summary"] == "List the things"
    assert sorted(spec["paths"]["/below/things"]) == ["get", "post"]
    assert "/hidden" not in spec["paths"]
    assert spec["paths"]["/openapi.json"]["get"]["summary"] == "Read this description of the API"
    assert "/threads" in spec["paths"]
    await anyio.to_thread.run_sync(validate, spec)


async def test_an_application_that_describes_itself_is_asked(settings: Settings, tmp_path: Path) -> None:
    """Protocol: FastAPI's description is merged; names that both use are kept apart."""
    async with _raising(settings, tmp_path, "own", mount_prefix="/pre") as http:
        spec = (await http.get("/pre/openapi.json")).json()

    ours = spec["paths"]["/threads/{thread_id}/runs"]["post"]["operationId"]
    mine = spec["paths"]["/mine"]["get"]
    ref = "#/components/schemas/RunOfApp"
    assert mine["operationId"] not in {ours, ""}
    assert mine["responses"]["200"]["content"]["application/json"]["schema"] == {"$ref": ref}
    assert spec["components"]["schemas"]["RunOfApp"] == {"type": "object", "properties": {"next": {"$ref": ref}}}
    assert "run_id" in spec["components"]["schemas"]["Run"]["properties"]
    assert spec["paths"]["/ok"]["get"]["operationId"] != mine["operationId"]
    assert [tag["name"] for tag in spec["tags"]].count("Crons") == 1
    await anyio.to_thread.run_sync(validate, spec)
