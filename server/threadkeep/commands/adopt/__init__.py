"""Adopt: takes over threads, assistants, store items and crons of another server or of a graph's own saver.

Each source is one module. It names its threads and copies their checkpoints. All of them write by `target`, which decides
what exists already, and makes each thread in one transaction. So an interrupted command leaves no half of a thread, and a
second call goes on.
"""
