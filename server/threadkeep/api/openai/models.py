"""Models: the assistants of the caller whose graph takes messages. A graph's own assistant has the graph's name."""

from typing import Any, Final, cast
from uuid import UUID

from starlette.responses import Response
from typing_extensions import TypedDict

from threadkeep.api.openai.errors import rate_limit_headers, unknown_model
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import json_response
from threadkeep.base.problems import NotFound
from threadkeep.postgres.bounded_page import PageRequest
from threadkeep.runs.assistants import AssistantCache, ResolvedAssistant
from threadkeep.tables import assistants
from threadkeep.tables.assistants import Assistant, AssistantFilter

MAX_MODELS: Final = 1000
"""Largest number of models in a list."""


class Model(TypedDict):
    """A model of the OpenAI API: an assistant."""

    id: str
    object: str
    created: int
    owned_by: str
    name: str


class ModelList(TypedDict):
    """The models of the caller."""

    object: str
    data: list[Model]


async def list_models(call: AuthorizedRequest[None, None]) -> Response:
    """GET /v1/models: list the models: your assistants whose graph accepts messages."""
    state, page = call.state, PageRequest(limit=MAX_MODELS, offset=0, answer_bytes=call.state.settings.answer_bytes)
    served = [graph_id for graph_id in state.graphs if await state.message_graphs.takes_messages(graph_id)]
    async with state.pool.connection(call.filters) as conn:
        # The API has no pages for models.
        rows = await assistants.search(
            conn, call.filters, AssistantFilter(served=served), order=("created_at", "asc"), page=page
        )
    data = [_model(call, each.row) for each in rows]
    return json_response({"object": "list", "data": data}, headers=headers_of(call))


async def get_model(call: AuthorizedRequest[None, None]) -> Response:
    """GET /v1/models/{model}: read a model."""
    named = str(call.request.path_params["model"])
    assistant_id = assistant_of(call.assistants, named)
    async with call.state.pool.connection(call.filters) as conn:
        row = await assistants.get(conn, call.filters, assistant_id)
    if row is None or not await call.state.message_graphs.takes_messages(row.graph_id):
        raise unknown_model(named)
    return json_response(_model(call, row), headers=headers_of(call))


def assistant_of(known: AssistantCache, model: str) -> UUID:
    """Return the assistant of a model: its id, or the name of a graph. Raise ResourceNotFound."""
    if (assistant_id := known.find_id(model)) is None:
        raise unknown_model(model)
    return assistant_id


async def resolve_model(call: AuthorizedRequest[Any, Any], filters: Any, model: str) -> ResolvedAssistant:
    """Return the assistant of a model. Raise ResourceNotFound if the caller has none or it takes no messages."""
    try:
        assistant = await call.assistants.resolve(filters, model)
    except NotFound:
        raise unknown_model(model) from None
    if not await call.state.message_graphs.takes_messages(assistant.graph_id):
        raise unknown_model(model)
    return assistant


def streams_subgraphs(assistant: ResolvedAssistant) -> bool:
    """Whether the messages of subgraphs are a part of the answer: `openai.stream_subgraphs` of its metadata."""
    options: object = assistant.metadata.get("openai")
    return isinstance(options, dict) and cast("dict[str, object]", options).get("stream_subgraphs") is True


def headers_of(call: AuthorizedRequest[Any, Any]) -> dict[str, str]:
    """Return the headers of every response: the rest of the caller's requests."""
    return rate_limit_headers(call.state.quotas.request_share(call.caller.identity))


def _model(call: AuthorizedRequest[Any, Any], row: Assistant) -> Model:
    own = call.assistants.is_of_graph(row.assistant_id)
    return {
        # Clients show the id as the name of the model, so a graph has its readable one.
        "id": row.graph_id if own else str(row.assistant_id),
        "object": "model",
        "created": int(row.created_at.timestamp()),
        "owned_by": "threadkeep",
        "name": row.name,
    }
