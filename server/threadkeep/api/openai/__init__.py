"""The OpenAI API: models, Chat Completions, Responses and Conversations, on the runs and threads of this server.

It translates. Authorization, quotas, idempotency and admission are those of `RunService`, and the run's event log is the
only source of an answer.
"""
