"""The race model: many clients do random operations on few threads, and a model computes the possible results.

`clients` talks to the servers and notes each operation in the `ledger`. `observer` records in Postgres what became of
threads and runs. When everything is quiet, `invariants` compares the two. `scenario` runs it in rounds.
"""
