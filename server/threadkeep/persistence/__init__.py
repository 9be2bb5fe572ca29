"""Persistence: what LangGraph itself calls to keep state: the checkpointer, the serializer and the store."""
