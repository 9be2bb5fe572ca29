"""The LangGraph API (v1), with one module for each resource."""
