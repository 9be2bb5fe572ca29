"""Every SQL statement of ours: a module a table."""
