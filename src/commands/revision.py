"""The revision of what admins and users edit: two states with the same settings have the same one."""

from __future__ import annotations

import hashlib

import msgspec

from ..errors import RevisionChanged
from . import schedule, webhook
from .owner import OwnerState
from .server import Present
from .task_type import TypeState

ABSENT = "none"
_encode = msgspec.json.Encoder(order="sorted").encode


def revision_of(state: object) -> str:
    """Return the revision of a type, a server, an owner's limits, a schedule or a webhook; ABSENT for none.

    It is that of the settings: what else happens to the thing does not change it.
    """
    match state:
        case TypeState(definition=settings) | OwnerState(own=settings) | Present(registered=settings):
            content: object = settings
        case schedule.Created(settings=settings):
            content = settings
        case webhook.Registered(settings=settings, active=active):
            content = (settings, active)
        case _:
            content = None
    return ABSENT if content is None else hashlib.blake2b(_encode(content), digest_size=8).hexdigest()


class RevisionCheck:
    """The condition of a change: the thing has one of these revisions. Empty: it exists."""

    def __init__(self, revisions: frozenset[str]) -> None:
        self._revisions = revisions

    def __call__(self, state: object) -> None:
        """Raise RevisionChanged unless a state fulfils the condition."""
        present = revision_of(state)
        if present not in self._revisions if self._revisions else present == ABSENT:
            raise RevisionChanged(present)
