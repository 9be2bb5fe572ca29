"""The streaming protocol v2: the runs of a thread as one sequence of numbered events.

A run has one log, the events of the v1 stream modes (`runs/event_log.py`, `run_events`). Nothing is stored or computed
for v2 while no client reads it. Each reader translates the log itself, and always gets the same events with the same
ids.
"""
