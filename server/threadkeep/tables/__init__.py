"""Tables: the SQL statements, one module a table."""
