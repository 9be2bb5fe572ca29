"""Print a token that is valid for an hour: `python make_token.py TENANT USER`. It needs the TOKEN_SECRET of the server."""

import os
import sys
import time

import jwt

VALID_S = 3600


def make_token(tenant: str, user: str) -> str:
    """A token as an identity provider would issue it."""
    claims = {"sub": user, "tenant": tenant, "aud": "threadkeep", "exp": int(time.time()) + VALID_S}
    return jwt.encode(claims, os.environ["TOKEN_SECRET"], algorithm="HS256")


if __name__ == "__main__":
    print(make_token(*sys.argv[1:3]))
