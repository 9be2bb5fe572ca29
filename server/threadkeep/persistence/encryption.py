"""Encryption: checkpoints at rest, by AES-GCM with a key that only the server's environment has.

What each row says of its type names the cipher, so that rows from before are still read.
"""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from langgraph.checkpoint.serde.base import CipherProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

NAME: Final = "aes-gcm"
NONCE_BYTES: Final = 12


class WrongKey(ValueError):
    """It was encrypted with another key, or by another cipher, or changed since."""


class Aes(CipherProtocol):
    """AES-GCM; each text is behind a random nonce of its own."""

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(key)

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        nonce = os.urandom(NONCE_BYTES)
        return NAME, nonce + self._aes.encrypt(nonce, plaintext, None)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        if ciphername != NAME:
            raise WrongKey(f"encrypted by {ciphername[:20]!r}, which is not read here")
        try:
            return self._aes.decrypt(ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            raise WrongKey("encrypted with another key, or changed since") from None


def serializer(plain: JsonPlusSerializer, key: bytes | None) -> JsonPlusSerializer | EncryptedSerializer:
    """`plain`, or what encrypts all that it writes."""
    return plain if key is None else EncryptedSerializer(Aes(key), plain)
