"""MCP surface: the state that MCP requests share. The first request loads the protocol, so a server without MCP pays nothing."""

import importlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import anyio
from anyio import to_thread

from threadkeep.api.mcp.schemas import SchemaCache
from threadkeep.postgres.pool import Pool
from threadkeep.settings import Settings
from threadkeep.tables import sealing_keys

if TYPE_CHECKING:
    from threadkeep.api.mcp import exchange

PURPOSE: Final = "mcp-request-state"
"""The purpose of the key that seals `requestState`."""
PROTOCOL_MODULE: Final = "threadkeep.api.mcp.exchange"


@dataclass(slots=True, kw_only=True)
class McpSurface:
    """The state that the requests of one server share."""

    settings: Settings
    pool: Pool
    schemas: SchemaCache = field(default_factory=SchemaCache)
    _protocol: "exchange.Protocol | None" = None
    _loading: anyio.Lock = field(default_factory=anyio.Lock)

    async def protocol(self) -> "exchange.Protocol":
        """The protocol. The first call imports it in a thread, because that takes some tenths of a second."""
        if self._protocol is None:
            async with self._loading:
                if self._protocol is None:
                    self._protocol = await self._load()
        return self._protocol

    async def _load(self) -> "exchange.Protocol":
        # The key is in Postgres, so that any process opens the state that another one has sealed.
        keys = self.settings.state_keys or (await self._shared_key(),)
        module = await to_thread.run_sync(importlib.import_module, PROTOCOL_MODULE)
        return cast("exchange.Protocol", module.Protocol(keys, self.settings.project_id))

    async def _shared_key(self) -> bytes:
        async with self.pool.connection() as conn:
            # Of two processes that start at once, the second gets the key of the first.
            return await sealing_keys.get_or_create(conn, PURPOSE, secrets.token_bytes(sealing_keys.KEY_BYTES))
