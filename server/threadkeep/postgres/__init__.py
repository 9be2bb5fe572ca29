"""Postgres: connections, transactions, retries, notifications and migrations. Knows no table."""
