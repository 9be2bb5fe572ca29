"""Runs: from the request to the final state. All graphs are executed here."""
