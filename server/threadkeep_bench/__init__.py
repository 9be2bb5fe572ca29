"""The concurrency report: what many turns at once cost on a running server, measured from outside over HTTP.

It measures by the wire alone, so that any server of this API is measured the same way.
"""

from threadkeep_bench.command import run as run
