"""The streaming protocol v2: a thread's runs as events with positions, translated by who reads them.

There is one log of a run, the events of the v1 stream modes (`runs/event_log.py`, `run_events`). Nothing is stored or
computed for v2 while nobody reads it; a reader translates, each time to the same events under the same ids.
"""
