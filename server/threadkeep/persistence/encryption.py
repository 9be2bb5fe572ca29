"""Encryption at rest: encrypts checkpoints by AES-GCM. Only the server's environment has the keys.

The type column of each row names the cipher, so older rows can still be read. It does not name the key. Decryption tries
each key, and the authentication tag shows which one is right.
"""

import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from langgraph.checkpoint.serde.base import CipherProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

NAME: Final = "aes-gcm"
NONCE_BYTES: Final = 12
SEALED: Final = f"\x01{NAME}:"
"""Begins each encrypted text. No value of an HTTP header, which may be such a text, has this control character."""


class DecryptionFailed(ValueError):
    """The value was encrypted with another key or cipher, or was changed."""


class AesGcmCipher(CipherProtocol):
    """AES-GCM with a random nonce before each ciphertext. The first key encrypts, and all keys decrypt."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - takes 9 MB, and few servers have a key
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        # A value that is shorter than a nonce raises ValueError.
        self._invalid = (InvalidTag, ValueError)
        self._ciphers = [AESGCM(key) for key in keys]

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        # Random, because processes share the key but no counter.
        nonce = os.urandom(NONCE_BYTES)
        return NAME, nonce + self._ciphers[0].encrypt(nonce, plaintext, None)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        """The plaintext. DecryptionFailed if no key is right."""
        return self.decrypt_and_locate(ciphername, ciphertext)[0]

    def decrypt_and_locate(self, ciphername: str, ciphertext: bytes) -> tuple[bytes, int]:
        """The plaintext, and the position of its key. DecryptionFailed if no key is right."""
        if ciphername != NAME:
            raise DecryptionFailed(f"encrypted by {ciphername[:20]!r}, which this server does not support")
        for position, cipher in enumerate(self._ciphers):
            try:
                return cipher.decrypt(ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:], None), position
            except self._invalid:
                continue
        raise DecryptionFailed("encrypted with another key, or changed afterwards")


@lru_cache(maxsize=4)
def cipher_of(keys: tuple[bytes, ...]) -> AesGcmCipher:
    """The cipher with these keys."""
    return AesGcmCipher(keys)


def seal_text(keys: tuple[bytes, ...], text: str | None) -> str | None:
    """Encrypt a text for a text column. Without keys it stays as it is."""
    return text if text is None or not keys else seal_with(cipher_of(keys), text)


def seal_with(cipher: AesGcmCipher, text: str) -> str:
    """Encrypt a text for a text column."""
    return SEALED + b64encode(cipher.encrypt(text.encode())[1]).decode()


def open_text(keys: tuple[bytes, ...], stored: str | None) -> str | None:
    """Decrypt a text of `seal_text`, or return a text that was stored without keys. DecryptionFailed if no key is right."""
    if stored is None or not stored.startswith(SEALED):
        return stored
    if not keys:
        raise DecryptionFailed("encrypted, and LANGGRAPH_AES_KEY is not set")
    return open_with(cipher_of(keys), stored)[0]


def open_with(cipher: AesGcmCipher, stored: str) -> tuple[str, int]:
    """Decrypt a sealed text. Return it and the position of its key, which is -1 for a text that is not sealed."""
    if not stored.startswith(SEALED):
        return stored, -1
    plain, position = cipher.decrypt_and_locate(NAME, b64decode(stored.removeprefix(SEALED)))
    return plain.decode(), position


def encrypted_serializer(plain: JsonPlusSerializer, keys: Sequence[bytes]) -> JsonPlusSerializer | EncryptedSerializer:
    """`plain`, or a serializer that encrypts all values if there are keys."""
    return EncryptedSerializer(AesGcmCipher(keys), plain) if keys else plain
