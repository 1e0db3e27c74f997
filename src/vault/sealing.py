"""Secrets at rest: sealed with a key that is not stored beside them.

    SealingError
    |- SealingUnavailable    there is no key
    `- DoesNotOpen           the sealed value is damaged, of another purpose, or its key is gone

No error, repr or log line of this module contains a key, a secret or a part of one.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..settings import InvalidSettings, Settings, variable

DERIVATION = b"taskstream sealing of backend secrets, version 1"
"""HKDF `info` (RFC 5869): makes this key differ from others derived from the same secret. If you change it, nothing
sealed with a derived key opens any more."""


class SealingError(Exception):
    """A value was not sealed or not opened."""


class SealingUnavailable(SealingError):
    """There is no key to seal or open with."""

    def __init__(self) -> None:
        super().__init__(f"secrets cannot be kept: set {variable('seal_keys')} (`taskstream seal-key` makes a key)")


class DoesNotOpen(SealingError):
    """A sealed value is damaged, or was sealed for another purpose or with a missing key."""

    def __init__(self, purpose: str) -> None:
        super().__init__(
            f"the value sealed for {purpose!r} does not open: it is damaged, or sealed for another "
            f"purpose, or its key is no longer in {variable('seal_keys')}"
        )
        self.purpose = purpose


class Envelope(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The plaintext: a secret and its purpose.

    Fernet authenticates only the plaintext, so the purpose is part of it. Without it an attacker who can write to the
    store could replace one server's sealed secret by another's, and we would send it to the wrong server.
    """

    purpose: str
    text: str

    def __repr__(self) -> str:
        return "Envelope(…)"


class Sealer:
    """Seals with the first key and opens with any. To replace a key, put a new one before it."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Take the keys, newest first. Without keys `seal` and `open` raise SealingUnavailable.

        Raises InvalidSettings for a key that is no Fernet key. The message has its place, not its text.
        """
        self._keys = MultiFernet([_fernet(key, place) for place, key in enumerate(keys, 1)]) if keys else None

    @classmethod
    def from_settings(cls, settings: Settings) -> Sealer:
        """Return a sealer with `seal_keys`, else with a key derived from `jwt_secret`, else without a key.

        A value sealed with a derived key does not open any more once `seal_keys` is set or the secret changes.
        """
        if settings.seal_keys:
            return cls(settings.seal_keys)
        return cls([derive_key(settings.jwt_secret)]) if settings.jwt_secret else cls()

    def __repr__(self) -> str:
        return f"Sealer({'ready' if self.available else 'no keys'})"

    @property
    def available(self) -> bool:
        """False: `seal` and `open` raise SealingUnavailable."""
        return self._keys is not None

    def seal(self, text: str, purpose: str) -> bytes:
        """Return the text encrypted. It opens for the same purpose only, such as `server:<id>`.

        The same text sealed twice gives different values. They show the length and the time of sealing. Raises
        SealingUnavailable without a key, ValueError if the text is no valid Unicode.
        """
        keys = self._require_keys()
        if not _encodable(text):
            # Not raised from UnicodeEncodeError, which has the whole text.
            raise ValueError("a secret with unpaired surrogates cannot be sealed")
        return keys.encrypt(msgspec.json.encode(Envelope(purpose, text)))

    def open(self, token: bytes, purpose: str) -> str:
        """Return the text that was sealed for this purpose.

        Raises SealingUnavailable without a key, DoesNotOpen for a damaged value, another purpose or a missing key.
        """
        keys = self._require_keys()
        try:
            envelope = msgspec.json.decode(keys.decrypt(token), type=Envelope)
        except (InvalidToken, msgspec.DecodeError):
            envelope = None
        # Outside the `except`: the context of the error must not have decrypted text.
        if envelope is None or envelope.purpose != purpose:
            raise DoesNotOpen(purpose)
        return envelope.text

    def _require_keys(self) -> MultiFernet:
        if self._keys is None:
            raise SealingUnavailable
        return self._keys


def new_key() -> str:
    """Return a fresh random key for `seal_keys`."""
    return Fernet.generate_key().decode("ascii")


def derive_key(secret: str) -> str:
    """Return the sealing key of a JWT secret: always the same. The secret cannot be derived from it."""
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=DERIVATION).derive(secret.encode())
    return base64.urlsafe_b64encode(derived).decode("ascii")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fernet(key: str, place: int) -> Fernet:
    made = None
    with suppress(ValueError):
        made = Fernet(key)
    if made is None:  # outside the `with`: the context must not have the key
        raise InvalidSettings(
            f"{variable('seal_keys')}: key number {place} is not 32 bytes in URL-safe base64; "
            "`taskstream seal-key` makes one"
        )
    return made
