"""A `.creds` file: the JWT that says who we are to NATS, and the seed of the key that proves it."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import nkeys  # type: ignore[import-untyped]

from ...settings import InvalidSettings, variable

JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+([\w.=-]+)\s+-+END NATS USER JWT-+")
SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(S\w+)\s+-+END USER NKEY SEED-+")


class Credentials(NamedTuple):
    """What a `.creds` file holds."""

    jwt: str
    seed: str

    @property
    def expires_at(self) -> datetime | None:
        """None: never, or the token does not say it in a way we read."""
        try:
            body = self.jwt.split(".")[1]
            claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            return datetime.fromtimestamp(claims["exp"], UTC) if claims.get("exp") else None
        except (IndexError, ValueError, TypeError, AttributeError, OverflowError, msgspec.MsgspecError):
            return None

    def sign(self, nonce: str) -> bytes:
        """Return the signature of a nonce in base64. Raises ValueError or nkeys.NkeysError for a seed that is none."""
        pair = nkeys.from_seed(bytearray(self.seed.encode()))
        signature: bytes = pair.sign(nonce.encode())
        pair.wipe()
        return base64.b64encode(signature)


def read_credentials(path: str) -> Credentials:
    """Return what a `.creds` file holds. Raises InvalidSettings."""
    name = variable("nats_creds")
    try:
        text = Path(path).read_text()
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"{name}={path!r}: {getattr(error, 'strerror', None) or error}") from None
    jwt, seed = JWT.search(text), SEED.search(text)
    if jwt is None or seed is None:
        raise InvalidSettings(
            f"{name}={path!r}: is no credentials file: it must hold a NATS user JWT and its NKEY seed"
        )
    credentials = Credentials(jwt[1], seed[1])
    try:
        credentials.sign("")
    except (ValueError, nkeys.NkeysError):
        raise InvalidSettings(f"{name}={path!r}: its NKEY seed is damaged") from None
    return credentials
