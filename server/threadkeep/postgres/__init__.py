"""Postgres: connections, transactions, retries, notifications and migrations. It does not know any table."""
