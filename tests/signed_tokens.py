"""JWTs good and bad, the keys that sign them, and a server of their JWKS."""

import base64
import json
import threading
import time
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

Claims = dict[str, Any]


def claims(**changes: Any) -> Claims:
    """Good ones; None leaves a claim out."""
    good = {"sub": "alice", "exp": int(time.time()) + 300}
    return {name: value for name, value in (good | changes).items() if value is not None}


def part(value: object) -> str:
    """A part of a token as a peer could write it, whether it is JSON or not."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def handmade(header: object, payload: object, sign: Callable[[bytes], bytes]) -> str:
    """A token by hand, for what no library writes."""
    body = f"{part(header)}.{part(payload)}"
    return f"{body}.{part(sign(body.encode()))}"


@cache
def private_key(algorithm: str, number: int = 0, bits: int = 2048) -> Any:
    """A key of its own for each number."""
    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm: str, kid: str | None = None, *, key: Any = None, **more: object) -> dict[str, Any]:
    """The public half of a key, as a member of a JWKS."""
    public = (key or private_key(algorithm)).public_key()
    kinds: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
    member: dict[str, Any] = kinds[algorithm].to_jwk(public, as_dict=True)
    member.pop("key_ops", None)
    return member | ({} if kid is None else {"kid": kid}) | more


def signed(
    algorithm: str,
    payload: Claims | None = None,
    *,
    key: Any = None,
    kid: str | None = None,
    headers: dict[str, Any] | None = None,
) -> str:
    named = {} if kid is None else {"kid": kid}
    given = claims() if payload is None else payload
    return jwt.encode(given, key or private_key(algorithm), algorithm=algorithm, headers=(headers or {}) | named)


def jwks(*members: dict[str, Any]) -> bytes:
    return json.dumps({"keys": members}).encode()


class KeyServer:
    """Answers a JWKS, or what it is told to; counts who asks."""

    def __init__(self, body: bytes = b""):
        self.body = body
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                self.send_response(server.status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)

            def log_message(self, *_: object) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/jwks.json"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> "KeyServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
