"""Auth: who is calling, and what of it all they may see, as `Filters` for the statements.

The table of routes names the event of each (`api/routes.py`); nothing reaches a tenant's rows without the `Filters`
that a door made of it. One door is open at a time: API keys, JWT, or the project's own `langgraph_sdk.Auth`.
"""

from threadkeep.auth.authenticator import Door as Door
from threadkeep.auth.authenticator import Value as Value
from threadkeep.auth.authorization import Event as Event
from threadkeep.auth.principal import Principal as Principal
