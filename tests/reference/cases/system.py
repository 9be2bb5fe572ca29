"""What a client asks of the server itself."""

from recording import Server


def about(server: Server) -> None:
    """Health, version, and paths that there are not."""
    server("health", "GET /ok")
    server("health at the root", "GET /")
    server("version and flags", "GET /info")
    server("an unknown path", "GET /nowhere")
    server("a wrong method", "PUT /threads")
    server("a slash too many", "GET /assistants/search/")


CASES = (about,)
