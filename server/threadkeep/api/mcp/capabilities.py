"""Capabilities: the abilities of a request's client. Since 2026-07-28 each request declares them."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from threadkeep.api.mcp.exchange import Exchange

TASKS: Final = "io.modelcontextprotocol/tasks"
"""The extension for calls that take long."""


def can_elicit(exchange: "Exchange") -> bool:
    """Whether the client shows forms to its user. Before 2026-07-28 it could not send the answer without a session."""
    declared = exchange.connection.client_capabilities
    form = None if declared is None else declared.elicitation
    return exchange.is_modern and form is not None and (form.form is not None or form.url is None)


def declares_tasks(exchange: "Exchange") -> bool:
    """Whether the client knows tasks."""
    declared = exchange.connection.client_capabilities
    return exchange.is_modern and declared is not None and TASKS in (declared.extensions or {})
