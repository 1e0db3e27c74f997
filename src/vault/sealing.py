"""Secrets at rest: sealed with a key that is not stored beside them.

    SealingError
    |- SealingUnavailable    there is no key
    `- DoesNotOpen           the sealed value is damaged, of another purpose, or its key is missing
       `- SecretMissing      there is no sealed value, and no key could open it

No error, repr or log line of this module contains a key, a secret or a part of one.
"""

from __future__ import annotations

import base64
import hashlib
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
FINGERPRINT = b"taskstream fingerprint of a seal key\n"
"""Makes this hash of a key differ from every other."""


class SealingError(Exception):
    """A value was not sealed or not opened."""


class SealingUnavailable(SealingError):
    """There is no key to seal or open with."""

    def __init__(self) -> None:
        super().__init__(
            f"secrets cannot be stored: set {variable('seal_keys')} to the same keys for every process "
            "(`taskstream seal-key` makes a key)"
        )


class DoesNotOpen(SealingError):
    """A sealed value is damaged, or was sealed for another purpose or with a missing key."""

    def __init__(self, purpose: str) -> None:
        super().__init__(
            f"the value sealed for {purpose!r} does not open: it is damaged, or sealed for another "
            f"purpose, or its key is no longer in {variable('seal_keys')}"
        )
        self.purpose = purpose


class SecretMissing(DoesNotOpen):
    """The secret was destroyed, or never stored."""


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
    """Seals with the newest key and opens with any. To replace a key, put a new one before it."""

    __slots__ = ("_all", "_newest", "fingerprints")

    def __init__(self, keys: Sequence[str] = (), *, only_open: Sequence[str] = ()) -> None:
        """Take the keys, newest first, and older ones that must seal nothing more.

        Raises InvalidSettings for a key that is no Fernet key. The message has its place, not its text.
        """
        found = [_fernet(key, place) for place, key in enumerate((*keys, *only_open), 1)]
        self._newest = found[0] if keys else None
        self._all = MultiFernet(found) if found else None
        self.fingerprints = tuple(map(fingerprint, keys))
        """Of the keys that may seal, newest first."""

    @classmethod
    def for_secrets(cls, settings: Settings) -> Sealer:
        """Return the sealer of stored secrets: `seal_keys`, never the JWT secret, which may change.

        A key derived from the JWT secret only opens: earlier versions sealed with it.
        """
        return cls(settings.seal_keys, only_open=_derived_keys(settings))

    @classmethod
    def for_tokens(cls, settings: Settings) -> Sealer:
        """Return the sealer of tokens that are valid for a time: with `seal_keys`, else by the JWT secret.

        A change of either ends the tokens made before, and nothing else.
        """
        if settings.seal_keys:
            return cls(settings.seal_keys)
        derived = _derived_keys(settings)
        return cls(derived[:1], only_open=derived[1:])

    def __repr__(self) -> str:
        return f"Sealer({'ready' if self.available else 'no keys'})"

    @property
    def available(self) -> bool:
        """False: `seal` raises SealingUnavailable."""
        return self._newest is not None

    def seal(self, text: str, purpose: str) -> bytes:
        """Return the text encrypted. It opens for the same purpose only, such as `server:<id>`.

        The same text sealed twice gives different values. They show the length and the time of sealing. Raises
        SealingUnavailable without a key, ValueError if the text is no valid Unicode.
        """
        if self._newest is None:
            raise SealingUnavailable
        if not _encodable(text):
            # Not raised from UnicodeEncodeError, which has the whole text.
            raise ValueError("a secret with unpaired surrogates cannot be sealed")
        return self._newest.encrypt(msgspec.json.encode(Envelope(purpose, text)))

    def open(self, token: bytes, purpose: str) -> str:
        """Return the text that was sealed for this purpose.

        Raises SealingUnavailable without a key, DoesNotOpen for a damaged value, another purpose or a missing key.
        """
        if self._all is None:
            raise SealingUnavailable
        try:
            envelope = msgspec.json.decode(self._all.decrypt(token), type=Envelope)
        except (InvalidToken, msgspec.DecodeError):
            envelope = None
        # Outside the `except`: the context of the error must not have decrypted text.
        if envelope is None or envelope.purpose != purpose:
            raise DoesNotOpen(purpose)
        return envelope.text

    def reseal(self, token: bytes) -> bytes | None:
        """Return a sealed value sealed with the newest key; None if it is already.

        Raises SealingUnavailable without a key that seals, DoesNotOpen if no key opens it.
        """
        if self._newest is None or self._all is None:
            raise SealingUnavailable
        with suppress(InvalidToken):
            self._newest.decrypt(token)
            return None
        with suppress(InvalidToken):
            return self._all.rotate(token)
        raise DoesNotOpen("an unknown purpose")


def new_key() -> str:
    """Return a fresh random key for `seal_keys`."""
    return Fernet.generate_key().decode("ascii")


def derive_key(secret: str) -> str:
    """Return the sealing key of a JWT secret: always the same. The secret cannot be derived from it."""
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=DERIVATION).derive(secret.encode())
    return base64.urlsafe_b64encode(derived).decode("ascii")


def fingerprint(key: str) -> str:
    """Return a short name of a key, which does not reveal it: 16 hexadecimal digits."""
    return hashlib.sha256(FINGERPRINT + base64.urlsafe_b64decode(key)).hexdigest()[:16]


def _derived_keys(settings: Settings) -> list[str]:
    """Return the keys derived from the JWT secret and from former ones, newest first."""
    return [derive_key(secret) for secret in (settings.jwt_secret, *settings.jwt_old_secrets) if secret]


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
