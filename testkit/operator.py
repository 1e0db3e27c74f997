"""An operator, an account and its users in the form of `nsc`: for servers that require credentials files."""

from __future__ import annotations

import base64
import secrets
import time
from pathlib import Path
from typing import Any

import msgspec
import nkeys


class Identity:
    """A key pair of NATS' kind."""

    def __init__(self, prefix: int) -> None:
        self.seed: bytes = nkeys.encode_seed(secrets.token_bytes(32), prefix)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public = self._pair.public_key.decode()

    def sign(self, subject: Identity, name: str, claims: dict[str, Any], ends_at: int | None = None) -> str:
        """Return a JWT in which this identity vouches for another."""
        now = int(time.time())
        body = {"jti": secrets.token_hex(8), "iat": now, "iss": self.public, "sub": subject.public, "name": name}
        body |= {"exp": ends_at} if ends_at else {}
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, body | {"nats": {"version": 2, **claims}})
        text = b".".join(_base64(msgspec.json.encode(part)) for part in parts)
        return (text + b"." + _base64(self._pair.sign(text))).decode()


class Operator:
    """An operator with one account that has JetStream."""

    def __init__(self) -> None:
        self._operator = Identity(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Identity(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = Identity(nkeys.PREFIX_BYTE_ACCOUNT)

    def config(self) -> str:
        """Return the lines that a server's configuration needs."""
        unlimited = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1}
        unlimited["wildcards"] = True
        storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        account = {"type": "account", "limits": unlimited | storage}
        operator = {"type": "operator", "system_account": self._system.public}
        known = {
            self._account.public: self._operator.sign(self._account, "taskstream", account),
            self._system.public: self._operator.sign(self._system, "SYS", {"type": "account", "limits": unlimited}),
        }
        preload = "\n".join(f"  {key}: {jwt}" for key, jwt in known.items())
        return (
            f"operator: {self._operator.sign(self._operator, 'operator', operator)}\n"
            f"system_account: {self._system.public}\nresolver: MEMORY\nresolver_preload {{\n{preload}\n}}\n"
        )

    def credentials(self, path: Path, lifetime_seconds: float | None = None) -> Path:
        """Write a credentials file of a new user and return it."""
        user = Identity(nkeys.PREFIX_BYTE_USER)
        ends_at = int(time.time() + lifetime_seconds) if lifetime_seconds is not None else None
        limits = {"subs": -1, "data": -1, "payload": -1}
        jwt = self._account.sign(user, "taskstream", {"type": "user", **limits}, ends_at)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return path


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
