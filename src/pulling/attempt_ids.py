"""Ids of attempts, as pullers get them: they lead to the task, and do not show its owner."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import NotFound
from ..events.ids import TaskRef
from ..vault.sealing import Sealer, SealingError

PURPOSE = "attempt id"
LONGEST = 512
"""Characters."""
_PLAIN = re.compile(r"([0-9A-Za-z]{26})-([0-9]{1,9})~([A-Za-z0-9_=-]{1,36})", re.ASCII)


class AttemptKey(NamedTuple):
    """An attempt of a task."""

    ref: TaskRef
    attempt: int


class AttemptIds:
    """Makes and reads ids. Each is of letters, digits, `-` and `_`; without a key to seal with it has a `~`, too."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def make(self, key: AttemptKey) -> str:
        """Return an id of an attempt. Each call returns another one."""
        plain = f"{key.ref.unique}-{key.attempt}~{key.ref.owner}"
        if not self._sealer.available:
            return plain
        return self._sealer.seal(plain, PURPOSE).decode().rstrip("=")

    def read(self, attempt_id: str) -> AttemptKey:
        """Return the attempt of an id. Raises NotFound for any other text."""
        text = attempt_id
        if "~" not in text:
            if len(text) > LONGEST or not text.isascii():
                raise NotFound("attempt", attempt_id)
            try:
                text = self._sealer.open(f"{text}{'=' * (-len(text) % 4)}".encode(), PURPOSE)
            except SealingError:
                raise NotFound("attempt", attempt_id) from None
        if (found := _PLAIN.fullmatch(text)) is None:
            raise NotFound("attempt", attempt_id)
        unique, attempt, owner = found.groups()
        return AttemptKey(TaskRef(owner, unique), int(attempt))
