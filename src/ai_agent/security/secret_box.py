"""The secret box: what users entrust to the server, encrypted at rest with AES-256-GCM.

Sealed text is `<key id>.<base64 of nonce and ciphertext>`. Each one is bound to its place, a resource, the row's id and
the field, so that it opens nowhere else. Source: NIST SP 800-38D (GCM), RFC 5869 (HKDF).
"""

import base64
import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES = 12
_KEY_ID_LENGTH = 8


class UnreadableSecret(Exception):
    """Sealed under a key that is not there, in another place, or changed since."""


class SecretBox:
    def __init__(self, secret_key: str, fallbacks: Sequence[str] = ()):
        keys = [_derived(key) for key in (secret_key, *fallbacks)]
        self._newest = _key_id(keys[0])
        self._keys = {_key_id(key): AESGCM(key) for key in keys}

    def seal(self, text: str, place: str) -> str:
        """The text under the newest key, bound to its place."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._keys[self._newest].encrypt(nonce, text.encode(), place.encode())
        return f"{self._newest}.{base64.b64encode(sealed).decode()}"

    def open(self, sealed: str, place: str) -> str:
        """Raises UnreadableSecret."""
        key_id, _, body = sealed.partition(".")
        try:
            raw = base64.b64decode(body, validate=True)
            return self._keys[key_id].decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], place.encode()).decode()
        except (KeyError, ValueError, InvalidTag) as error:
            raise UnreadableSecret(place) from error

    def reseal(self, sealed: str, place: str) -> str:
        """The same secret under the newest key; what is sealed so already stays. Raises UnreadableSecret."""
        return sealed if sealed.startswith(f"{self._newest}.") else self.seal(self.open(sealed, place), place)


def _derived(secret_key: str) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=b"ai-agent secret box").derive(secret_key.encode())


def _key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:_KEY_ID_LENGTH]
