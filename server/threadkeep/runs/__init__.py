"""Runs: the one way to run a graph, from a request to its final state."""
