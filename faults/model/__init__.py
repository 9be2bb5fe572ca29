"""The race model: many clients do random things to few threads, and a model says what may have come of it.

`clients` talks to the servers and notes each operation in the `ledger`. `observer` records in Postgres what became of
threads and runs. When everything is quiet, `invariants` compares the two. `scenario` runs it in rounds.
"""
