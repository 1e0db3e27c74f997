"""The check of the settings before anything is started. It imports little: `taskstream up` waits for it."""

from __future__ import annotations

from ..runtime.descriptors import raise_descriptor_limit
from ..settings import Settings
from .auth.authenticator import Authenticator
from .connections import limits_of


def check_settings(settings: Settings) -> None:
    """Raise InvalidSettings before anything is started; and let this process, and NATS, open all files they may."""
    Authenticator.from_settings(settings)
    limits_of(settings, raise_descriptor_limit())
