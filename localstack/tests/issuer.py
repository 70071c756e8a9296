"""A token issuer: a new key pair, and a server that publishes the public key as OpenID Connect specifies."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Issuer:
    """RS256, by hand: the tests run with the system's Python, which has no cryptography."""

    def __init__(self, test: unittest.TestCase):
        self.audience = "longhand"
        self.key = Key("one")
        issuer = self

        class Pages(BaseHTTPRequestHandler):
            def log_message(self, *_) -> None:
                pass

            def do_GET(self) -> None:
                found = issuer.pages().get(self.path)
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

        server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        test.addCleanup(server.server_close)
        test.addCleanup(server.shutdown)

    def pages(self) -> dict[str, dict]:
        jwks = f"{self.url}/keys"
        return {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": jwks},
            "/keys": {"keys": [self.key.public()]},
        }

    def settings(self) -> dict[str, str]:
        """Of the api, and of the gateway."""
        return {
            "LONGHAND_AUTH": "jwt",
            "LONGHAND_JWT_ISSUER": self.url,
            "LONGHAND_JWT_AUDIENCE": self.audience,
            "LONGHAND_JWT_JWKS_URL": f"{self.url}/keys",
        }

    def token(self, user: str, key: Key | None = None, **changed: str) -> str:
        # As long as a test may take, and more.
        claims = {"iss": self.url, "aud": self.audience, "sub": user, "exp": int(time.time()) + 3600, **changed}
        return (key or self.key).sign(claims)


class Key:
    def __init__(self, name: str):
        self.name = name
        self.exponent = 65537
        first, second = prime(), prime()
        self.modulus = first * second
        self.private = pow(self.exponent, -1, (first - 1) * (second - 1))

    def public(self) -> dict[str, str]:
        bare = {"n": number(self.modulus), "e": number(self.exponent)}
        return {"kty": "RSA", "kid": self.name, "alg": "RS256", "use": "sig", **bare}

    def sign(self, claims: dict) -> str:
        header = {"alg": "RS256", "typ": "JWT", "kid": self.name}
        text = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
        # RFC 8017, section 9.2: what a SHA-256 digest is wrapped in.
        digest = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(text.encode()).digest()
        padded = b"\x00\x01" + b"\xff" * (256 - 3 - len(digest)) + b"\x00" + digest
        signature = pow(int.from_bytes(padded, "big"), self.private, self.modulus)
        return f"{text}.{base64url(signature.to_bytes(256, 'big'))}"


def prime() -> int:
    """Of 1024 bits, and such that two of them make 2048."""
    while True:
        candidate = secrets.randbits(1024) | 3 << 1022 | 1
        if candidate % 65537 != 1 and all(pow(base, candidate - 1, candidate) == 1 for base in (2, 3, 5, 7)):
            return candidate


def number(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
