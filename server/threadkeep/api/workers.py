"""Workers: the processes that serve this project."""

from starlette.responses import Response

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import json_response
from threadkeep.tables import workers


async def search(call: AuthorizedRequest[None, None]) -> Response:
    """GET /workers: list the processes that serve this project, the oldest first.

    A process without a heartbeat for `THREADKEEP_LEASE` seconds is removed from the list, and others recover its runs. At most
    1,000 are listed.
    """
    # Processes belong to the project and not to a principal, so no filters apply.
    async with call.state.pool.connection() as conn:
        return json_response(await workers.search(conn))
