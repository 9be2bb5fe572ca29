"""Persistence: the checkpointer, the serializer and the store, which LangGraph calls to save and load state."""
