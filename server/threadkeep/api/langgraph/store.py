"""Store: read, write and search the items that graphs keep across threads.

Graphs and clients see the same items. If langgraph.json configures an index, a search with a `query` is a semantic
search. Otherwise the `query` has no effect.
"""

from typing import Annotated, Any, Literal, cast

from langgraph.store.base import NOT_PROVIDED, GetOp, SearchOp
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api.conditions import MetadataCondition
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.paging import MAX_OFFSET, bounded_list
from threadkeep.api.responses import json_pieces, json_response, no_content_response
from threadkeep.base import json
from threadkeep.base.answer_budget import AnswerBudget
from threadkeep.base.problems import InvalidRequest, ValidationFailed
from threadkeep.persistence import store_pages
from threadkeep.persistence.store import OPERATORS, Store
from threadkeep.persistence.store_pages import StoredItem
from threadkeep.postgres.bounded_page import PageRequest
from threadkeep.postgres.statement_timeout import with_search_timeout

MAX_NAMESPACE_DEPTH = 32
MAX_NAMESPACE_BYTES = 1000
MAX_KEY_BYTES = 1000
"""Namespace and key are in one index of Postgres, which takes about 2,700 bytes per row."""
MIN_TTL_MINUTES = 0.001
"""Python writes smaller numbers with an exponent, which Postgres does not accept in an interval."""
MAX_TTL_MINUTES = 10 * 365 * 24 * 60
RESERVED_NAMESPACE = "langgraph"
"""LangGraph stores its own items below this label."""
NUL = "\x00"


def _labels(labels: list[str]) -> list[str]:
    for label in labels:
        if not label or "." in label:
            raise ValueError(f"Namespace label {label[:100]!r} must be a non-empty string without periods")
    if len(".".join(labels).encode()) > MAX_NAMESPACE_BYTES:
        raise ValueError(f"a namespace may have at most {MAX_NAMESPACE_BYTES} bytes")
    return labels


def _own_root(labels: list[str]) -> list[str]:
    if not labels:
        raise ValueError("Namespace cannot be empty.")
    # LangGraph refuses this root too, but by an exception that would be a 500.
    if labels[0] == RESERVED_NAMESPACE:
        raise ValueError(f'Root label for namespace cannot be "{RESERVED_NAMESPACE}"')
    return labels


def _key(key: str) -> str:
    if len(key.encode()) > MAX_KEY_BYTES:
        raise ValueError(f"a key may have at most {MAX_KEY_BYTES} bytes")
    return key


def _filter(conditions: dict[str, Any]) -> dict[str, Any]:
    for condition in conditions.values():
        names = cast("dict[str, Any]", condition) if isinstance(condition, dict) else {}
        operators = {name for name in names if name.startswith("$")}
        if unknown := operators - OPERATORS:
            raise ValueError(f"Unsupported operator: {min(unknown)}. Use one of {', '.join(sorted(OPERATORS))}")
        if operators and len(operators) < len(names):
            raise ValueError("a condition can't have both operators and plain keys")
    return conditions


Namespace = Annotated[list[str], Field(max_length=MAX_NAMESPACE_DEPTH), AfterValidator(_labels)]
Key = Annotated[str, AfterValidator(_key)]


class ItemKey(BaseModel):
    """The namespace and key of an item."""

    model_config = ConfigDict(extra="ignore")

    namespace: Namespace
    key: Key


class PutBody(ItemKey):
    """The body of a request that stores an item."""

    namespace: Annotated[Namespace, AfterValidator(_own_root)]
    value: dict[str, Any]
    index: Literal[False] | Annotated[list[str], Field(max_length=100)] | None = None
    """The fields to index, in place of those in langgraph.json. `false` disables the index for this item."""
    ttl: Annotated[float, Field(ge=MIN_TTL_MINUTES, le=MAX_TTL_MINUTES)] | None = None
    """Minutes until the item expires. `null`: never. Without it, the default of langgraph.json applies."""


class ItemQuery(BaseModel):
    """The query of a request that reads an item."""

    model_config = ConfigDict(extra="ignore")

    namespace: str | list[str] = ""
    """Labels separated by periods, or the parameter repeated for each label."""
    key: str | None = None
    refresh_ttl: bool | None = None


class ItemSearch(BaseModel):
    """The body of a search for items."""

    model_config = ConfigDict(extra="ignore")

    namespace_prefix: Namespace = Field(default_factory=list)
    filter: Annotated[MetadataCondition, AfterValidator(_filter)] | None = None
    """Conditions on keys of the value: a value that must be equal, or an operator such as `{"$gt": 3}`."""
    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)
    query: str | None = None
    refresh_ttl: bool | None = None


class NamespaceSearch(BaseModel):
    """The body of a list of namespaces. In `prefix` and `suffix`, `*` matches any one label."""

    model_config = ConfigDict(extra="ignore")

    prefix: Namespace | None = None
    suffix: Namespace | None = None
    max_depth: int | None = Field(default=None, ge=1, le=MAX_NAMESPACE_DEPTH)
    limit: int = Field(default=100, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)


async def put(call: AuthorizedRequest[PutBody, None]) -> Response:
    """PUT /store/items: create an item or replace its value."""
    body = call.body
    # `null` means never, and an absent field means the default of langgraph.json.
    ttl = body.ttl if "ttl" in body.model_fields_set else NOT_PROVIDED
    await _store(call).aput(tuple(body.namespace), body.key, body.value, index=body.index, ttl=ttl)
    return no_content_response()


async def get(call: AuthorizedRequest[None, ItemQuery]) -> Response:
    """GET /store/items: read an item, or `null` if it does not exist."""
    query = call.query
    if query.key is None:
        raise InvalidRequest("Key is required")
    namespace = _of_query(query.namespace)
    # Bodies replace NUL in the same way, so an item is found under the key with which it was stored.
    key = query.key.replace(NUL, "\N{REPLACEMENT CHARACTER}")
    op = GetOp(namespace, key, refresh_ttl=_refreshes(call, query.refresh_ttl))
    item = await store_pages.get(_store(call), op)
    if item is None:
        return json_response(None)
    encoded = json.dumps(_item_fields(call, item))
    AnswerBudget(call.state.settings.answer_bytes).take_all(len(encoded), "the item")
    return json_pieces([encoded])


async def delete(call: AuthorizedRequest[ItemKey, None]) -> Response:
    """DELETE /store/items: delete an item. If it does not exist, nothing happens."""
    await _store(call).adelete(tuple(call.body.namespace), call.body.key)
    return no_content_response()


async def search(call: AuthorizedRequest[ItemSearch, None]) -> Response:
    """POST /store/items/search: search the items below a namespace by their values.

    The size of a response is limited. If it has the header `x-pagination-next`, the next page starts at that offset.
    """
    body, settings = call.body, call.state.settings
    op = SearchOp(
        tuple(body.namespace_prefix),
        # An empty text would be embedded and compared.
        query=body.query or None,
        filter=body.filter,
        limit=body.limit,
        offset=body.offset,
        refresh_ttl=_refreshes(call, body.refresh_ttl),
    )
    page = PageRequest(limit=body.limit, offset=body.offset, answer_bytes=settings.answer_bytes)
    items = await with_search_timeout(
        store_pages.search(_store(call), op, page.answer_bytes), settings.search_timeout_s
    )
    listing = await bounded_list(items, page, lambda item: _item_fields(call, item) | {"score": item.score})
    return json_pieces([b'{"items":', *listing.pieces, b"}"], listing.headers)


async def list_namespaces(call: AuthorizedRequest[NamespaceSearch, None]) -> Response:
    """POST /store/namespaces: list the namespaces that have items."""
    body = call.body
    listing = _store(call).alist_namespaces(
        prefix=tuple(body.prefix or ()),
        suffix=tuple(body.suffix or ()),
        max_depth=body.max_depth,
        limit=body.limit,
        offset=body.offset,
    )
    return json_response({"namespaces": await with_search_timeout(listing, call.state.settings.search_timeout_s)})


def _store(call: AuthorizedRequest[Any, Any]) -> Store:
    """Return the store with the caller's prefix and filters."""
    return call.state.store.scoped(call.filters.store_prefix, call.filters, principal=call.caller.identity)


def _of_query(namespace: str | list[str]) -> tuple[str, ...]:
    joined = namespace if isinstance(namespace, str) else ".".join(namespace)
    try:
        return tuple(_labels(joined.replace(NUL, "\N{REPLACEMENT CHARACTER}").split(".")))
    except ValueError as error:
        raise ValidationFailed(error.args[0]) from None


def _refreshes(call: AuthorizedRequest[Any, Any], requested: bool | None) -> bool:
    """Whether a read renews the item's TTL: as requested, else as langgraph.json configures it."""
    config = cast("dict[str, Any]", call.state.store.ttl_config or {})
    # True is the default of LangGraph.
    return bool(config.get("refresh_on_read", True)) if requested is None else requested


def _item_fields(call: AuthorizedRequest[Any, Any], item: StoredItem) -> dict[str, object]:
    return {
        "namespace": item.namespace(call.filters.store_prefix),
        "key": item.key,
        "value": item.value,
        "created_at": item.created_at,
        "updated_at": item.updated_at,
    }
