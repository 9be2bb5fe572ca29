"""AG-UI: pages run an assistant by one request, and get its events as SSE.

It translates. Runs are started, followed and cancelled by `RunService`, and the run's event log is the only source of the
events, so that each reader gets the same ones, in any process and later.
"""
