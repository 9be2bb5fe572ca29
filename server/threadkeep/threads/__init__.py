"""Threads: their history, state, updates, copies and retention."""
