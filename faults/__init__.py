"""Faults: scenarios that break the server for real and check the result. `make faults` runs them.

Each starts processes of its own on loopback and a Postgres of its own, stops by itself, and says what it did, what it
measured, and which promise did not hold. tests/faults/ runs a short form of each.
"""
