"""Signatures of webhooks. An owner's secret follows from the secret key, so that there is none to keep.

Source: Standard Webhooks 1.0 (standardwebhooks.com), RFC 5869 (HKDF).
"""

import base64
import hmac
from collections.abc import Sequence
from uuid import UUID

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class WebhookSigner:
    def __init__(self, secret_key: str, fallbacks: Sequence[str] = ()):
        self._secret_keys = (secret_key, *fallbacks)

    def secret(self, owner: str) -> str:
        """What the owner verifies with, `whsec_…`, made from the newest secret key."""
        return f"whsec_{_base64(_derived(self._secret_keys[0], owner))}"

    def sign(self, owner: str, message_id: UUID, timestamp: int, body: str) -> str:
        """The header `webhook-signature`: one signature a secret key, the newest first.

        Whoever still holds the secret of an older key finds his own among them.
        """
        signed = f"{message_id}.{timestamp}.{body}".encode()
        digests = (hmac.digest(_derived(key, owner), signed, "sha256") for key in self._secret_keys)
        return " ".join(f"v1,{_base64(digest)}" for digest in digests)


def _derived(secret_key: str, owner: str) -> bytes:
    info = b"ai-agent webhook secret:" + owner.encode()
    return HKDF(SHA256(), length=32, salt=None, info=info).derive(secret_key.encode())


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
