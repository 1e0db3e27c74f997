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
"""HKDF `info` (RFC 5869): keeps this key apart from any other made of the same secret. Change it, and
everything sealed with a derived key stops opening."""


class SealingError(Exception):
    """A value was not sealed or not opened."""


class SealingUnavailable(SealingError):
    """There is no key to seal or open with."""

    def __init__(self) -> None:
        super().__init__(f"secrets cannot be kept: set {variable('seal_keys')} (`taskstream seal-key` makes a key)")


class DoesNotOpen(SealingError):
    """A sealed value is damaged, was sealed for another purpose, or with a key that is gone."""

    def __init__(self, purpose: str) -> None:
        super().__init__(
            f"the value sealed for {purpose!r} does not open: it is damaged, or sealed for another "
            f"purpose, or its key is no longer in {variable('seal_keys')}"
        )
        self.purpose = purpose


class Envelope(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What is encrypted.

    The purpose is inside because Fernet authenticates nothing beside the plaintext: without it, who can
    write to the store could put one server's sealed secret in the place of another's, and have us hand it over.
    """

    purpose: str
    text: str

    def __repr__(self) -> str:
        return "Envelope(…)"


class Sealer:
    """Seals with the first key, opens with any: a key is replaced by putting a new one before it."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Take the keys, newest first; none makes a sealer that refuses to work.

        Raises InvalidSettings if one is not a Fernet key, saying which by its place, not its text.
        """
        self._keys = MultiFernet([_fernet(key, place) for place, key in enumerate(keys, 1)]) if keys else None

    @classmethod
    def from_settings(cls, settings: Settings) -> Sealer:
        """Take `seal_keys`; without any, derive a key from `jwt_secret`; without that either, have none.

        What a derived key sealed no longer opens once `seal_keys` is set or the secret changes.
        """
        if settings.seal_keys:
            return cls(settings.seal_keys)
        return cls([derive_key(settings.jwt_secret)]) if settings.jwt_secret else cls()

    def __repr__(self) -> str:
        return f"Sealer({'ready' if self.available else 'no keys'})"

    @property
    def available(self) -> bool:
        """False: `seal` and `open` will raise SealingUnavailable."""
        return self._keys is not None

    def seal(self, text: str, purpose: str) -> bytes:
        """Return the text encrypted, to be opened for the same purpose only (such as `server:<id>`).

        The same text sealed twice looks different. The length and the time of sealing can be seen from
        outside. Raises SealingUnavailable without a key, and ValueError if the text is no valid Unicode.
        """
        keys = self._require_keys()
        if not _encodable(text):
            # Raised here and not where it was noticed: UnicodeEncodeError carries the whole text.
            raise ValueError("a secret with unpaired surrogates cannot be sealed")
        return keys.encrypt(msgspec.json.encode(Envelope(purpose, text)))

    def open(self, token: bytes, purpose: str) -> str:
        """Return the text that was sealed for this purpose.

        Raises SealingUnavailable without a key, DoesNotOpen if anything is not as it was sealed.
        """
        keys = self._require_keys()
        try:
            envelope = msgspec.json.decode(keys.decrypt(token), type=Envelope)
        except (InvalidToken, msgspec.DecodeError):
            envelope = None
        # Outside the `except`, so that nothing decrypted hangs on the error as its context.
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
    """Return the sealing key that belongs to a JWT secret; always the same one, and it does not lead back."""
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
    if made is None:  # raised out here, where no error that might hold the key is its context
        raise InvalidSettings(
            f"{variable('seal_keys')}: key number {place} is not 32 bytes in URL-safe base64; "
            "`taskstream seal-key` makes one"
        )
    return made
