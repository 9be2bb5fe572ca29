"""Duties: the background work of a process, each with a function for one round."""
