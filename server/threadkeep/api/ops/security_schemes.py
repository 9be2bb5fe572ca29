"""Security schemes of the OpenAPI document: how clients authenticate."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from threadkeep.api.operation import Operation
from threadkeep.api.ops.schema import Schema
from threadkeep.base.problems import Unauthenticated
from threadkeep.project import Auth
from threadkeep.settings import AuthType

BEARER: Final[Schema] = {"type": "http", "scheme": "bearer"}
SCHEMES: Final[Mapping[AuthType, Schema]] = {
    "none": {},
    "api_key": {"key": BEARER, "header": {"type": "apiKey", "in": "header", "name": "x-api-key"}},
    "jwt": {"token": BEARER | {"bearerFormat": "JWT"}},
    "custom": {"token": BEARER},
}


def add_security(document: Schema, table: Iterable[Operation], kind: AuthType, auth: Auth) -> Schema:
    """Add the security schemes to `document` and return it. `auth.openapi` of the project overrides the defaults."""
    configured = cast("Mapping[str, Any]", auth.openapi)
    schemes = configured.get("securitySchemes") or SCHEMES[kind]
    if not schemes:
        return document
    document["components"]["securitySchemes"] = schemes
    security: list[Any] = configured.get("security") or [{name: []} for name in schemes]
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    refusal = {"description": inspect.getdoc(Unauthenticated) or "", "content": problem}
    for operation in table:
        # Not every operation is in the document: `/` is left out.
        entry = document["paths"].get(operation.path, {}).get(operation.method.lower())
        if entry is not None and operation.event != "public":
            entry["security"] = security
            entry["responses"] = dict(sorted({**entry["responses"], "401": refusal}.items()))
    paths = cast("Mapping[str, Mapping[str, Any]]", configured.get("paths") or {})
    for path, operations in paths.items():
        for method, fields in operations.items():
            # The project may describe paths that a switch disables. Their fields are dropped.
            document["paths"].get(path, {}).get(method, {}).update(fields)
    return document
