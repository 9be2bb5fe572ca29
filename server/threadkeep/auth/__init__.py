"""Auth: who is calling, and what of it all they may see, as `Filters` for the statements.

The table of routes names the event of each (`api/routes.py`); nothing reaches a tenant's rows without the `Filters`
that a door made of it. One door is open at a time: API keys, JWT, or the project's own `langgraph_sdk.Auth`.
"""

from threadkeep.auth.authenticator import Authenticator as Authenticator
from threadkeep.auth.authenticator import AuthValue as AuthValue
from threadkeep.auth.authorization import AuthEvent as AuthEvent
from threadkeep.auth.principal import Principal as Principal
