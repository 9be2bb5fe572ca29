"""Authentication and authorization: identify the caller, and return the rows that it may access as `Filters`.

The route table names the event of each operation (`api/routes.py`). Every query on a tenant's rows takes the `Filters`
that the authenticator returned for this event. A server has one authenticator: API keys, JWT, or the project's own
`langgraph_sdk.Auth`.
"""

from threadkeep.auth.authenticator import Authenticator as Authenticator
from threadkeep.auth.authenticator import AuthValue as AuthValue
from threadkeep.auth.authorization import AuthEvent as AuthEvent
from threadkeep.auth.principal import Principal as Principal
