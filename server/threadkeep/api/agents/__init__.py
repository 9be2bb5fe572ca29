"""Shared parts of the surfaces for agents: MCP, A2A and AG-UI, and of the OpenAI API.

They translate ids, messages, questions and ends of runs from and to those of LangGraph. They contain no policy:
`RunService` starts, follows and cancels runs.
"""
