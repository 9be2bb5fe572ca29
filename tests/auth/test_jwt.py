"""JWT: whose tokens count, signed with what, and what happens while the issuer is away. Keys and the issuer are real."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt as pyjwt
import pytest
import uvicorn
from anyio import create_task_group, fail_after, sleep
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from conftest import WAIT_S, serving
from threadkeep.auth import jwks
from threadkeep.auth import jwt as door
from threadkeep.base.problems import ServiceUnavailable, StartupError
from threadkeep.settings import Settings

ISSUER, AUDIENCE = "https://issuer.example", "threadkeep"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
SECRET = "a-secret-of-thirty-two-bytes-....."


def token(key: Any = RSA, alg: str = "RS256", kid: str | None = "one", **claims: Any) -> str:
    """A token as the issuer makes it, unless `claims` say otherwise; None takes a claim away."""
    payload = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": time.time() + 60} | claims
    head = {"kid": kid} if kid else {}
    return pyjwt.encode({name: value for name, value in payload.items() if value is not None}, key, alg, headers=head)


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm = pyjwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else pyjwt.algorithms.ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **more}


def pem(key: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@dataclass
class Issuer:
    """The answer of the issuer's address, and the number of its requests."""

    keys: list[dict[str, Any]] = field(default_factory=lambda: [jwk(RSA, "one"), jwk(EC, "two")])
    status: int = 200
    asked: int = 0
    url: str = ""

    async def answer(self, request: Request) -> Response:
        del request
        self.asked += 1
        return JSONResponse({"keys": self.keys}, self.status)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """A JWKS server on the loopback."""
    issuer = Issuer()
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=[Route("/jwks", issuer.answer)]), port=0, log_config=None, lifespan="off")
    )
    async with create_task_group() as tasks:
        tasks.start_soon(server.serve)
        with fail_after(WAIT_S):
            while not server.started:
                await sleep(0.01)
        issuer.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/jwks"
        yield issuer
        server.should_exit = True


def jwt_settings(settings: Settings, **more: Any) -> Settings:
    given = {"auth_type": "jwt", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE} | more
    return Settings(**{**settings.model_dump(), **given})


@asynccontextmanager
async def asking(settings: Settings, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that asks for tokens."""
    async with (
        serving(jwt_settings(settings, **more)) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http,
    ):
        yield http


async def status(http: httpx.AsyncClient, shown: str) -> int:
    return (await http.post("/threads/count", json={}, headers={"authorization": f"Bearer {shown}"})).status_code


async def test_token_of_the_issuer_opens_and_its_subject_owns(settings: Settings, issuer: Issuer) -> None:
    """Issue: JWT with a JWKS, RSA and EC."""
    async with asking(settings, jwt_jwks_url=issuer.url) as http:
        made = await http.post("/threads", json={}, headers={"authorization": f"Bearer {token()}"})
        same = await status(http, token(EC, "ES256", "two"))
        nobody = await http.post("/threads", json={})

    assert made.json()["metadata"] == {"owner": "ada"}
    assert same == 200
    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, 'Bearer realm="threadkeep"')


def forged() -> dict[str, str]:
    """Tokens of which each is wrong in one thing."""
    soon = time.time() + 60
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": soon}
    return {
        "expired": token(exp=time.time() - 60),
        "not yet": token(nbf=soon),
        "another issuer": token(iss="https://other.example"),
        "another audience": token(aud="other"),
        "no expiry": token(exp=None),
        "no issuer": token(iss=None),
        "no audience": token(aud=None),
        "no subject": token(sub=None),
        "empty subject": token(sub=""),
        "subject of two lines": token(sub="a\nb"),
        "another key": token(OTHER_RSA),
        "unsigned": f"{part({'alg': 'none', 'kid': 'one'})}.{part(claims)}.",
        "public key as a shared secret": _hs_with(pem(RSA).encode(), claims),
        "algorithm that is not allowed": token(alg="RS512"),
        "another kind of key": token(EC, "ES256", "one"),
        "no token": "a.b.c",
        "long": "a" * 20_000,
    }


def _hs_with(secret: bytes, claims: dict[str, Any]) -> str:
    """pyjwt itself refuses to make such a token."""
    signed = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims)}"
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


async def test_token_that_is_wrong_in_anything_opens_nothing(settings: Settings, issuer: Issuer) -> None:
    """Issue: issuer, audience, algorithms; never `none`, no mix of shared and public keys."""
    async with asking(settings, jwt_jwks_url=issuer.url) as http:
        opened = {name: code for name, shown in forged().items() if (code := await status(http, shown)) != 401}

    assert opened == {}


async def test_key_that_is_for_something_else_signs_nothing(settings: Settings, issuer: Issuer) -> None:
    """Ours: a key for encryption, or for another algorithm, is no signature's."""
    issuer.keys = [jwk(RSA, "one", use="enc"), jwk(OTHER_RSA, "two", alg="RS512")]
    async with asking(settings, jwt_jwks_url=issuer.url) as http:
        assert await status(http, token()) == 401
        assert await status(http, token(OTHER_RSA, kid="two")) == 401


async def test_key_that_is_new_is_fetched_once_and_not_for_each_stranger(settings: Settings, issuer: Issuer) -> None:
    """Issue: rotated, with a limit on what unknown keys may ask for."""
    async with asking(settings, jwt_jwks_url=issuer.url) as http:
        assert await status(http, token()) == 200
        issuer.keys = [jwk(OTHER_RSA, "three")]
        rotated = await status(http, token(OTHER_RSA, kid="three"))
        asked = issuer.asked
        strangers = {await status(http, token(OTHER_RSA, kid=f"made up {n}")) for n in range(5)}
        old = await status(http, token())

    assert (rotated, asked, strangers, old) == (200, 2, {401}, 401)
    assert issuer.asked == 2


async def test_tokens_are_accepted_for_a_while_without_the_issuer_and_then_refused(issuer: Issuer) -> None:
    """Issue: an outage never allows access. Recent keys still count. Without a key the issuer is not asked each time."""
    now = 0.0
    keys = jwks.JwkSet(issuer.url, lambda: now)
    await keys.open()
    issuer.status = 503

    now += jwks.REFRESH_S
    assert [len(await keys.keys_for("one")) for _ in range(3)] == [1, 1, 1]
    assert issuer.asked == 2
    now += jwks.RETRY_S
    assert (len(await keys.keys_for("one")), issuer.asked) == (1, 3)
    now = jwks.MAX_AGE_S
    for _ in range(3):
        with pytest.raises(ServiceUnavailable):
            await keys.keys_for("one")
    assert issuer.asked == 4

    issuer.status = 200
    now += jwks.RETRY_S
    assert len(await keys.keys_for("one")) == 1


async def test_requests_get_retry_after_while_no_keys_are_known(
    settings: Settings, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue: an outage never opens."""
    for name in ("REFRESH_S", "MAX_AGE_S", "RETRY_S"):
        monkeypatch.setattr(jwks, name, 0.0)
    async with asking(settings, jwt_jwks_url=issuer.url) as http:
        issuer.status = 503
        closed = await http.post("/threads/count", json={}, headers={"authorization": f"Bearer {token()}"})
        issuer.status = 200
        again = await status(http, token())

    assert (closed.status_code, again) == (503, 200)
    assert closed.headers["retry-after"]


async def test_token_is_accepted_no_longer_than_it_lives(settings: Settings, issuer: Issuer) -> None:
    """Ours: the cache of a token ends with the token."""
    async with asking(settings, jwt_jwks_url=issuer.url, jwt_leeway_s=0) as http:
        shown = token(exp=time.time() + 2)
        assert await status(http, shown) == 200
        with fail_after(WAIT_S):
            while await status(http, shown) == 200:
                await sleep(0.05)
    assert time.time() < pyjwt.decode(shown, options={"verify_signature": False})["exp"] + 1


async def test_a_public_key_or_a_secret_will_do(settings: Settings) -> None:
    """Issue: static keys as an option."""
    async with asking(settings, jwt_public_key=pem(RSA)) as http:
        assert await status(http, token(kid=None)) == 200
        assert await status(http, _hs_with(pem(RSA).encode(), {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada"})) == 401
    async with asking(settings, jwt_secret=SECRET) as http:
        assert await status(http, token(SECRET, "HS256", None)) == 200
        assert await status(http, token(RSA)) == 401


async def test_graph_sees_what_the_issuer_says_of_its_user(settings: Settings) -> None:
    """Ours: claims and permissions, by whichever name."""
    caller = door._caller({"sub": "ada", "name": "Ada L.", "scope": "read write", "org": 7})

    assert (caller.identity, caller.display_name, caller.permissions) == ("ada", "Ada L.", ("read", "write"))
    assert caller.user["claims"]["org"] == 7


READS = {"read": 200, "create": 403}
UNRESTRICTED = {"read": 200, "create": 200}
NOTHING = {"read": 403, "create": 403}
SCOPE_CLAIMS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "none": ({}, UNRESTRICTED),
    "a text": ({"scope": "threads.read"}, READS),
    "a list of Okta or Azure": ({"scp": ["threads.read"]}, READS),
    "permissions of Auth0": ({"permissions": ["threads.read"]}, READS),
    "a colon": ({"scope": "openid threads:read"}, READS),
    "all of a resource": ({"scope": "threads.*"}, UNRESTRICTED),
    "all of another resource": ({"scope": "store.*"}, NOTHING),
    "scopes of OpenID Connect": ({"scope": "openid profile email"}, UNRESTRICTED),
    "scopes of OpenID Connect beside permissions": ({"scope": "openid", "permissions": ["threads.read"]}, READS),
    "two claims": ({"scope": "threads.read threads.create", "permissions": ["threads.read"]}, READS),
    "two claims that share nothing": ({"scope": "threads.create", "permissions": ["threads.read"]}, NOTHING),
    "a misspelt scope": ({"scope": "threads.raed"}, NOTHING),
    "a scope of another server": ({"scope": "billing.read"}, NOTHING),
    "an empty text": ({"scope": ""}, NOTHING),
    "an empty list": ({"permissions": []}, NOTHING),
    "a number": ({"scope": 7}, {"read": 401, "create": 401}),
    "a list of numbers": ({"scp": [7]}, {"read": 401, "create": 401}),
}


@pytest.mark.parametrize("name", SCOPE_CLAIMS)
async def test_the_scopes_of_a_token_limit_it(settings: Settings, name: str) -> None:
    """Issue 15: they did not. A claim that is there and grants nothing opens nothing."""
    claims, expected = SCOPE_CLAIMS[name]
    async with asking(settings, jwt_public_key=pem(RSA)) as http:
        assert await allowed(http, claims) == expected


async def test_an_operator_says_what_tokens_without_scopes_may_do(settings: Settings) -> None:
    """Ours: `THREADKEEP_JWT_SCOPES`."""
    async with asking(settings, jwt_public_key=pem(RSA), jwt_scopes="required") as http:
        assert await allowed(http, {}) == NOTHING
        assert await allowed(http, {"scope": "openid"}) == NOTHING
        assert await allowed(http, {"scope": "threads.read"}) == READS
    async with asking(settings, jwt_public_key=pem(RSA), jwt_scopes="ignored") as http:
        assert await allowed(http, {"scp": "user_impersonation"}) == UNRESTRICTED


async def allowed(http: httpx.AsyncClient, claims: dict[str, Any]) -> dict[str, int]:
    """The statuses of reading a thread of the caller's and of making one."""
    owner, limited = ({"authorization": f"Bearer {token(kid=None, **more)}"} for more in ({}, claims))
    if (made := await http.post("/threads", json={}, headers=owner)).status_code == 403:  # scopes are required
        made = await http.post(
            "/threads", json={}, headers={"authorization": f"Bearer {token(kid=None, scope='threads.create')}"}
        )
    read = await http.get(f"/threads/{made.json()['thread_id']}", headers=limited)
    create = await http.post("/threads", json={}, headers=limited)
    return {"read": read.status_code, "create": create.status_code}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"jwt_audience": None, "jwt_secret": SECRET}, "needs THREADKEEP_JWT_ISSUER and THREADKEEP_JWT_AUDIENCE"),
    ({}, "exactly one of"),
    ({"jwt_secret": SECRET, "jwt_public_key": pem(RSA)}, "exactly one of"),
    ({"jwt_secret": "short"}, "at least 32 bytes"),
    ({"jwt_public_key": "no key"}, "not a public key in PEM format"),
    ({"jwt_public_key": pem(RSA), "jwt_algorithms": "none"}, "none is not possible"),
    ({"jwt_public_key": pem(RSA), "jwt_algorithms": "RS256,HS256"}, "HS256 is not possible"),
    ({"jwt_public_key": pem(RSA), "jwt_algorithms": "ES256"}, "this kind of key can't be used with ES256"),
    ({"jwt_secret": SECRET, "jwt_algorithms": "RS256"}, "RS256 is not possible"),
    ({"jwt_jwks_url": "http://issuer.example/jwks"}, "use an https address"),
    ({"jwt_jwks_url": "file:///etc/passwd"}, "use an https address"),
    ({"jwt_jwks_url": "https://issuer.example:port/jwks"}, "THREADKEEP_JWT_JWKS_URL: this is not a URL"),
    ({"jwt_jwks_url": "https:///jwks"}, "use an https address, because"),
]


@pytest.mark.parametrize(("given", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_settings_that_leave_open_whose_tokens_count_stop_the_start(
    given: dict[str, Any], reason: str, settings: Settings
) -> None:
    """Issue: what can't load stops the start."""
    with pytest.raises(StartupError, match=reason):
        door.load_jwt_authenticator(jwt_settings(settings, **given))


@pytest.mark.parametrize("status_code", [200, 404])
async def test_address_without_keys_stops_the_start(settings: Settings, issuer: Issuer, status_code: int) -> None:
    """Issue: an unreachable JWKS."""
    issuer.status, issuer.keys = status_code, []
    authenticator = door.load_jwt_authenticator(
        jwt_settings(settings, jwt_jwks_url=issuer.url if status_code == 404 else "http://127.0.0.1:9/")
    )
    with pytest.raises(StartupError, match="THREADKEEP_JWT_JWKS_URL"):
        await authenticator.open()
