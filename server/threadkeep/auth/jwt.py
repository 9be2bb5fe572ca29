"""JWT authentication (RFC 7519): tokens that an issuer signed for this server. The identity is the claim `sub`.

The operator decides which algorithms are allowed, never the token. A token is verified with the one configured kind of
key, public or shared, and only with algorithms for that kind.
"""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import jwt as pyjwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from starlette.requests import HTTPConnection

from threadkeep.auth.authenticator import RECHECK_S, AuthValue, CredentialHeader, credentials, invalid_credentials
from threadkeep.auth.authorization import AuthEvent
from threadkeep.auth.jwks import Jwk, JwkSet
from threadkeep.auth.ownership import owner_filters
from threadkeep.auth.principal import Principal, principal
from threadkeep.auth.scopes import ALL_EVENTS, ScopePolicy, check_token_scopes, token_events, token_permissions
from threadkeep.base.problems import StartupError
from threadkeep.base.ttl_cache import TtlCache
from threadkeep.postgres.tenancy import Filters
from threadkeep.settings import Settings

log = logging.getLogger(__name__)

MAX_TOKEN_LENGTH: Final = 16_384
"""Characters."""
KEY_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}
"""Algorithm of public keys -> the key type (`kty`) that it needs."""
HMAC_ALGORITHMS: Final = frozenset({"HS256", "HS384", "HS512"})
MIN_SECRET_BYTES: Final = 32
"""A shorter secret could be guessed."""
FRESH_S: Final = 3.0
"""Seconds for which a verified token is cached, if it does not expire before."""
REMEMBERED: Final = 10_000


class Verified(NamedTuple):
    """The principal of a token, and the seconds until the token expires, counted from its verification."""

    caller: Principal
    lives_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRequirements:
    """The requirements for tokens."""

    issuer: str
    audience: Sequence[str]
    algorithms: frozenset[str]
    leeway_s: float
    scopes: ScopePolicy = "optional"


class JwtAuthenticator:
    """Authenticates callers by signed tokens. Exactly one of `jwks` and `key` is set."""

    reads_body = reads_values = False
    recheck_s = RECHECK_S
    credential_header: CredentialHeader = "authorization"

    def __init__(self, rules: JwtRequirements, *, jwks: JwkSet | None = None, key: Any = None) -> None:
        self._rules = rules
        self._jwks = jwks
        self._key = key
        self._verified: TtlCache[bytes, Verified] = TtlCache(
            capacity=REMEMBERED, ttl_s=FRESH_S, lives_s=lambda verified: verified.lives_s
        )

    async def open(self) -> None:
        """Fetch the issuer's keys, if there is a JWKS URL. Raise StartupError if that fails."""
        if self._jwks is not None:
            await self._jwks.open()

    def granted_scopes(self, principal: Principal) -> Sequence[str] | None:
        """None for a token that may do everything."""
        granted = token_events(principal.user["claims"], self._rules.scopes)
        return None if granted == ALL_EVENTS else sorted(granted)

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        """Return the principal of the request's token. Raise Unauthenticated if it is missing or not valid."""
        token = credentials(connection)
        # Before the hash and the signature, which take time in proportion to the length.
        if len(token) > MAX_TOKEN_LENGTH:
            raise invalid_credentials()
        # The cache does not contain the tokens themselves.
        hashed = hashlib.sha256(token.encode()).digest()
        # `get` first, because it needs no coroutine, and nearly every request has a cached token.
        verified = self._verified.get(hashed) or await self._verified.get_or_read(hashed, partial(self._verify, token))
        return verified.caller

    async def _verify(self, token: str) -> Verified:
        """Verify a token and return its principal. Raise Unauthenticated if it is not valid."""
        try:
            claims = await self._claims(token)
            # The cache must not accept a token for longer than its issuer does.
            return Verified(_caller(claims), int(claims["exp"]) + self._rules.leeway_s - time.time())
        except (pyjwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError) as error:
            log.info("a token was refused", extra={"error_type": type(error).__name__})
            # A client does not learn which check failed.
            raise invalid_credentials() from None

    async def authorize(self, principal: Principal, event: AuthEvent, value: AuthValue) -> Filters:
        """Return the filters of the caller's own rows. Raise Forbidden if the token's scopes do not grant the event."""
        check_token_scopes(principal.user["claims"], event, self._rules.scopes)
        return owner_filters(principal, event, value)

    async def _claims(self, token: str) -> Mapping[str, Any]:
        # The header is not trusted. It only picks one of the operator's algorithms and one of the issuer's keys.
        head = pyjwt.get_unverified_header(token)
        algorithm = head.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
            raise pyjwt.InvalidAlgorithmError("not allowed")
        if self._jwks is None:
            return self._decoded(token, self._key, algorithm)
        kid = head.get("kid")
        keys = [key for key in await self._jwks.keys_for(kid) if _signs(key, algorithm)]
        if len(keys) != 1:  # no key matches, or the token does not say which of several
            raise pyjwt.InvalidKeyError("no one key fits")
        return self._decoded(token, pyjwt.PyJWK(dict(keys[0]), algorithm).key, algorithm)

    def _decoded(self, token: str, key: Any, algorithm: str) -> Mapping[str, Any]:
        rules = self._rules
        return pyjwt.decode(
            token,
            key,
            algorithms=[algorithm],  # never a list, from which the token could choose
            audience=list(rules.audience),
            issuer=rules.issuer,
            leeway=rules.leeway_s,
            # PyJWT checks `exp` only if the token has it, so a token without it would be valid for ever.
            options={"require": ["exp", "sub", "iss", "aud"]},
        )


def _signs(key: Jwk, algorithm: str) -> bool:
    """Whether a key is for signatures with this algorithm."""
    # RFC 7517 makes `use` and `alg` optional, so a key without them is for signatures with any algorithm of its type.
    if key.get("kty") != KEY_TYPES.get(algorithm) or key.get("use", "sig") != "sig":
        return False
    return key.get("alg", algorithm) == algorithm


def _caller(claims: Mapping[str, Any]) -> Principal:
    names = (claims.get(name) for name in ("name", "preferred_username", "email"))
    display_name = next((name for name in names if isinstance(name, str) and name), "")
    return principal(claims["sub"], display_name, token_permissions(claims), user={"claims": dict(claims)})


def load_jwt_authenticator(settings: Settings) -> JwtAuthenticator:
    """Return the authenticator for the settings. Raise StartupError if they do not identify one issuer and kind of key."""
    if not settings.jwt_issuer or not settings.jwt_audience:
        raise StartupError("AUTH_TYPE=jwt needs THREADKEEP_JWT_ISSUER and THREADKEEP_JWT_AUDIENCE")
    key_settings = [name for name in ("jwt_jwks_url", "jwt_public_key", "jwt_secret") if getattr(settings, name)]
    if len(key_settings) != 1:
        raise StartupError(
            "AUTH_TYPE=jwt needs exactly one of THREADKEEP_JWT_JWKS_URL, THREADKEEP_JWT_PUBLIC_KEY and "
            "THREADKEEP_JWT_SECRET"
        )
    rules = JwtRequirements(
        issuer=settings.jwt_issuer,
        audience=[name.strip() for name in settings.jwt_audience.split(",") if name.strip()],
        algorithms=_algorithms(settings),
        leeway_s=settings.jwt_leeway_s,
        scopes=settings.jwt_scopes,
    )
    if settings.jwt_jwks_url:
        return JwtAuthenticator(rules, jwks=JwkSet(settings.jwt_jwks_url))
    if settings.jwt_public_key:
        return JwtAuthenticator(rules, key=_public_key(settings.jwt_public_key, rules.algorithms))
    return JwtAuthenticator(rules, key=_secret(settings))


def _algorithms(settings: Settings) -> frozenset[str]:
    # Never both kinds: with a public key as the secret of HMAC, anybody could sign tokens.
    possible = HMAC_ALGORITHMS if settings.jwt_secret else frozenset(KEY_TYPES)
    setting = settings.jwt_algorithms or ("HS256" if settings.jwt_secret else "RS256,ES256")
    chosen = frozenset(name.strip() for name in setting.split(",") if name.strip())
    if wrong := sorted(chosen - possible):
        raise StartupError(
            f"THREADKEEP_JWT_ALGORITHMS: {wrong[0]} is not possible with this kind of key: "
            f"use {', '.join(sorted(possible))}"
        )
    return chosen


def _public_key(text: str, algorithms: frozenset[str]) -> object:
    try:
        key = load_pem_public_key(text.replace("\\n", "\n").encode())  # env files write line breaks as \n
    except (ValueError, UnsupportedAlgorithm):
        raise StartupError("THREADKEEP_JWT_PUBLIC_KEY: this is not a public key in PEM format") from None
    kinds = {RSAPublicKey: "RSA", EllipticCurvePublicKey: "EC", Ed25519PublicKey: "OKP", Ed448PublicKey: "OKP"}
    kind = next((name for of, name in kinds.items() if isinstance(key, of)), None)
    if not any(KEY_TYPES[name] == kind for name in algorithms):
        raise StartupError(
            f"THREADKEEP_JWT_PUBLIC_KEY: this kind of key can't be used with {', '.join(sorted(algorithms))}"
        )
    return key


def _secret(settings: Settings) -> bytes:
    secret = settings.jwt_secret.get_secret_value().encode() if settings.jwt_secret else b""
    if len(secret) < MIN_SECRET_BYTES:
        raise StartupError(f"THREADKEEP_JWT_SECRET: the secret must have at least {MIN_SECRET_BYTES} bytes")
    return secret
