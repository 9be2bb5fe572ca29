"""The HTTP API: one module for each resource, and the route table in `routes`."""
