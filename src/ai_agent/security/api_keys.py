"""API keys, `sk-<environment>-<24 base62 random><6 base62 CRC32>`, and other secrets of that shape.

A scanner finds leaked keys by the checksum, and a typo is refused without a query. Only a keyed SHA-256 is stored.
Source: GitHub, "Behind GitHub's new authentication token formats" (2021).
"""

import hashlib
import hmac
import secrets
import string
import zlib
from collections.abc import Sequence
from typing import NamedTuple

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CHECKSUM_LENGTH = 6


class Kind(NamedTuple):
    """What a secret is for. `purpose` keeps the digests of one kind apart from those of another."""

    prefix: str
    random_length: int
    purpose: bytes


API_KEY = Kind("sk", 24, b"api-key:")
REFRESH_TOKEN = Kind("rt", 43, b"refresh-token:")
TICKET = Kind("wt", 43, b"ws-ticket:")


def generate(environment: str, kind: Kind = API_KEY) -> str:
    random = "".join(secrets.choice(_ALPHABET) for _ in range(kind.random_length))
    body = f"{kind.prefix}-{environment}-{random}"
    return body + _checksum(body)


def well_formed(key: str, kind: Kind = API_KEY) -> bool:
    """Whether the key's shape and checksum are right; it says nothing of whether the key exists."""
    parts = key.split("-")
    if len(parts) != 3 or parts[0] != kind.prefix or not parts[1].isalnum() or not key.isascii():
        return False
    if len(parts[2]) != kind.random_length + _CHECKSUM_LENGTH or not parts[2].isalnum():
        return False
    return key[-_CHECKSUM_LENGTH:] == _checksum(key[:-_CHECKSUM_LENGTH])


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


class KeyHasher:
    """Keyed SHA-256 of keys: without the secret key, a stolen database helps nobody to guess one."""

    def __init__(self, secret_key: str, fallbacks: Sequence[str] = (), kind: Kind = API_KEY):
        self._keys = [hashlib.sha256(kind.purpose + key.encode()).digest() for key in (secret_key, *fallbacks)]

    def digest(self, key: str) -> str:
        return self.digests(key)[0]

    def digests(self, key: str) -> list[str]:
        """The digest under the secret key, then those under older ones."""
        return [hmac.digest(own, key.encode(), "sha256").hex() for own in self._keys]
