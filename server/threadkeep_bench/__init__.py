"""The concurrency report: measures the cost of many turns at once on a running server, from outside over HTTP.

It measures by the wire alone, so that any server of this API is measured the same way.
"""

from threadkeep_bench.command import run as run
