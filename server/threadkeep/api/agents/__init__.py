"""Shared parts of the surfaces for agents: MCP, A2A and AG-UI, and of the OpenAI API.

They turn ids, messages, questions and ends of runs from and into what LangGraph has. They contain no policy: runs are
started, followed and cancelled by `RunService`.
"""
