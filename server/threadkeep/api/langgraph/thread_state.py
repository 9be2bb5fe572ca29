"""Thread state: read a thread's current or earlier state, list its history, and update it without a run (time travel)."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from threadkeep.api.body import validate
from threadkeep.api.conditions import MetadataCondition
from threadkeep.api.langgraph.threads import require_thread
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import json_list, json_pieces, json_response
from threadkeep.base.answer_budget import AnswerBudget
from threadkeep.base.json import dumps_apart
from threadkeep.runs.request import UnusedConfigBody
from threadkeep.runs.snapshots import checkpoint_ids
from threadkeep.threads import history, updates
from threadkeep.threads.history import LATEST, CheckpointRef, HistoryRequest
from threadkeep.threads.updates import ThreadStateUpdate, ThreadUpdate

STATE_FIELDS = (
    "values",
    "next",
    "tasks",
    "checkpoint",
    "metadata",
    "created_at",
    "parent_checkpoint",
    "interrupts",
    "checkpoint_id",
    "parent_checkpoint_id",
)

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=2000)]
"""An id or a namespace: any text that Postgres accepts, whether LangGraph would make such an id or not."""


def _split_names(value: object) -> object:
    """Split a query parameter into a list: a repeated key, or one value with commas."""
    return [name for name in value.split(",") if name] if isinstance(value, str) else value


def _field(name: str) -> str:
    if name not in STATE_FIELDS and not name.startswith("values."):
        raise PydanticCustomError(
            "field", "must be one of {names}, or values.<key>", {"names": ", ".join(STATE_FIELDS)}
        )
    return name


Select = Annotated[list[Annotated[str, AfterValidator(_field)]] | None, BeforeValidator(_split_names)]


def _id_of(reference: object) -> object:
    """Return the id of a checkpoint from a client's reference: an id, a checkpoint object, or a config with one."""
    if not isinstance(reference, Mapping):
        return reference or None  # an empty id means the newest checkpoint
    checkpoint = cast("Mapping[str, object]", reference)
    configurable = checkpoint.get("configurable")
    if configurable is not None and not isinstance(configurable, Mapping):
        raise ValueError("configurable must be an object")
    return _id_of(cast("object", configurable) or checkpoint.get("checkpoint_id"))


class CheckpointBody(BaseModel):
    """A client's reference to a checkpoint. Its `thread_id` is ignored, because the path contains the thread."""

    model_config = ConfigDict(extra="ignore")

    checkpoint_id: Text | None = None
    checkpoint_ns: Text | None = None

    @property
    def checkpoint(self) -> CheckpointRef:
        return CheckpointRef(checkpoint_id=self.checkpoint_id, checkpoint_ns=self.checkpoint_ns or "")


class StateQuery(BaseModel):
    """The query of a thread's state."""

    model_config = ConfigDict(extra="ignore")

    subgraphs: bool = False
    select: Select = None


class StateBody(StateQuery):
    """The body of a request for the state at a checkpoint."""

    checkpoint: CheckpointBody


class StateUpdateBody(UnusedConfigBody, ThreadStateUpdate):
    """The body of a state update."""

    checkpoint: CheckpointBody | None = None
    checkpoint_id: Text | None = None
    """Deprecated, but still supported."""

    @property
    def checkpoint_ref(self) -> CheckpointRef:
        return self.checkpoint.checkpoint if self.checkpoint else CheckpointRef(checkpoint_id=self.checkpoint_id)


class HistoryQuery(BaseModel):
    """The query of a thread's history."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=1, ge=1, le=1000)
    before: Annotated[Text | None, BeforeValidator(_id_of)] = None


class HistoryBody(HistoryQuery):
    """The body of a request for a thread's history."""

    metadata: MetadataCondition | None = None
    checkpoint: CheckpointBody | None = None
    select: Select = None


async def get(call: AuthorizedRequest[None, StateQuery]) -> Response:
    """GET /threads/{thread_id}/state: read the state at the newest checkpoint."""
    return await _state(call, LATEST, call.query)


async def get_at(call: AuthorizedRequest[None, StateQuery]) -> Response:
    """GET /threads/{thread_id}/state/{checkpoint_id}: read the state at a checkpoint."""
    # A parameter of the path has no model of its own, but the same limits.
    body: CheckpointBody = validate(CheckpointBody, {"checkpoint_id": call.request.path_params["checkpoint_id"]})
    return await _state(call, body.checkpoint, call.query)


async def get_at_checkpoint(call: AuthorizedRequest[StateBody, None]) -> Response:
    """POST /threads/{thread_id}/state/checkpoint: read the state at a checkpoint of the graph or a subgraph."""
    return await _state(call, call.body.checkpoint.checkpoint, call.body)


async def update(call: AuthorizedRequest[StateUpdateBody, None]) -> Response:
    """POST /threads/{thread_id}/state: update the state at the newest checkpoint or at another one."""
    change = ThreadUpdate(checkpoint=call.body.checkpoint_ref, update=call.body)
    config = await updates.update_state(call.state.threads, call.tenant, call.thread_id, change)
    checkpoint = cast("dict[str, object]", checkpoint_ids(config))
    return json_response(
        {"checkpoint": checkpoint, "configurable": checkpoint, "checkpoint_id": checkpoint["checkpoint_id"]}
    )


async def list_history(call: AuthorizedRequest[None, HistoryQuery]) -> Response:
    """GET /threads/{thread_id}/history: list states, newest first.

    The size of a response is limited. If it has the header `x-pagination-next`, pass that checkpoint as `before` to get
    the next page.
    """
    return await _history(call, HistoryRequest(limit=call.query.limit, before=call.query.before), None)


async def search_history(call: AuthorizedRequest[HistoryBody, None]) -> Response:
    """POST /threads/{thread_id}/history: list states with conditions, newest first."""
    body = call.body
    request = HistoryRequest(
        limit=body.limit,
        before=body.before,
        metadata=body.metadata,
        at=body.checkpoint.checkpoint if body.checkpoint else LATEST,
    )
    return await _history(call, request, body.select)


async def _history(call: AuthorizedRequest[Any, Any], request: HistoryRequest, select: list[str] | None) -> Response:
    thread = await require_thread(call)
    page = await history.page(call.state.threads, call.tenant, thread, request, lambda state: _selected(state, select))
    return json_list(page.states, {"x-pagination-next": page.next} if page.next else None)


async def _state(call: AuthorizedRequest[Any, Any], at: CheckpointRef, query: StateQuery) -> Response:
    thread = await require_thread(call)
    sized = await history.get_state(call.state.threads, call.tenant, thread, at, subgraphs=query.subgraphs)
    # The size of the whole state decides, although the selection may be small.
    encoded = await dumps_apart(_selected(sized.state, query.select), size=sized.bytes)
    AnswerBudget(call.state.settings.answer_bytes).take_all(len(encoded), "the state")
    return json_pieces([encoded])


def _selected(state: dict[str, object], select: list[str] | None) -> dict[str, object]:
    """Return only the selected fields. `values.<key>` selects one key of the values."""
    if not select:
        return state
    fields = {name: state[name] for name in STATE_FIELDS if name in select}
    keys = [name.removeprefix("values.") for name in select if name.startswith("values.")]
    values = state["values"]
    # `values` itself includes all its keys.
    if keys and "values" not in fields:
        by_key = cast("Mapping[str, object]", values if isinstance(values, Mapping) else {})
        fields["values"] = {key: by_key[key] for key in keys if key in by_key}
    return fields
