"""The concurrency report: what many turns at once cost on a running server, measured from outside over HTTP.

It knows the wire and nothing of the server's insides, so that it measures any server of this API the same way.
"""

from threadkeep.concurrency_report.command import run as run
