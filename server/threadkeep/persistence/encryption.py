"""Encryption: checkpoints at rest, by AES-GCM with keys that only the server's environment has.

What each row says of its type names the cipher, so that rows from before are still read. It does not name the key: a text
is tried with each of them, and its tag says which one fits.
"""

import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from langgraph.checkpoint.serde.base import CipherProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

NAME: Final = "aes-gcm"
NONCE_BYTES: Final = 12


class DecryptionFailed(ValueError):
    """It was encrypted with another key, or by another cipher, or changed since."""


class AesGcmCipher(CipherProtocol):
    """AES-GCM; each text is behind a random nonce of its own. The first key encrypts, all of them decrypt."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = [AESGCM(key) for key in keys]

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        nonce = os.urandom(NONCE_BYTES)
        return NAME, nonce + self._ciphers[0].encrypt(nonce, plaintext, None)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        """The plaintext. DecryptionFailed if no key fits."""
        return self.decrypt_and_locate(ciphername, ciphertext)[0]

    def decrypt_and_locate(self, ciphername: str, ciphertext: bytes) -> tuple[bytes, int]:
        """The plaintext, and the position of the key that it is encrypted with. DecryptionFailed if no key fits."""
        if ciphername != NAME:
            raise DecryptionFailed(f"encrypted by {ciphername[:20]!r}, which is not read here")
        for position, cipher in enumerate(self._ciphers):
            try:
                return cipher.decrypt(ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:], None), position
            except (InvalidTag, ValueError):
                continue
        raise DecryptionFailed("encrypted with another key, or changed since")


def encrypted_serializer(plain: JsonPlusSerializer, keys: Sequence[bytes]) -> JsonPlusSerializer | EncryptedSerializer:
    """`plain`, or one that encrypts all that it writes, if there are keys."""
    return EncryptedSerializer(AesGcmCipher(keys), plain) if keys else plain
