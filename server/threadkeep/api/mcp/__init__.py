"""MCP: assistants as tools of the Model Context Protocol, on the runs and threads of this server.

It translates. Authorization, quotas and admission are those of `RunService`. The protocol is spoken by the low-level server
of the `mcp` package, without sessions, so any process answers the next request. `sdk`, `exchange` and `server` import this
package, and the first request imports them (docs/decisions/0025-mcp.md).
"""
