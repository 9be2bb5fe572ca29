"""Print the digests that webhooks bring: `python receiver.py`."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT = 8099


def receiver(port: int, on_digest: Callable[[str], None]) -> HTTPServer:
    """A server of webhooks. A webhook may come twice in rare cases: compare `run_id` if that matters to you."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            run = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(204)
            self.end_headers()
            on_digest(run["values"]["text"] if run["status"] == "success" else f"the digest failed: {run['status']}")

    return HTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    receiver(PORT, print).serve_forever()
