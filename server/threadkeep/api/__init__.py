"""HTTP in, HTTP out: one module a resource, the table of all of them in `routes`."""
