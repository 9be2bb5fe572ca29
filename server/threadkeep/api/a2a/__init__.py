"""The A2A surface: assistants as agents, threads as contexts, and chains of runs as tasks, in the protocols 1.0 and 0.3.

It translates requests into runs and runs into tasks. Everything inside has the form of 1.0 (ProtoJSON). `legacy.py` turns
requests and answers of 0.3 from and into it.
"""
