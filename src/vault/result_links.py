"""Links to results: the URL under which a large result is fetched that is not sent along."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from ..events.ids import TaskRef
from ..events.task import StoredFile, StoredResult
from ..instants import milliseconds
from .sealing import DoesNotOpen, Sealer

PURPOSE = "result link"
LONGEST = 2 * 1024
"""Characters of a token."""


class LinkedResult(NamedTuple):
    """A result that a token opens: the one of the task's event at this sequence."""

    task_id: str
    sequence: int


class LinkExpired(Exception):
    """The token was valid until an earlier instant."""


class _Link(Struct, array_like=True, frozen=True):
    task_id: str
    sequence: int
    until: int
    """Milliseconds since the epoch."""


class ResultLinks:
    """Makes links to results, and opens the tokens in them. A token is sealed: nobody can make one without the key."""

    def __init__(self, base_url: str, sealer: Sealer) -> None:
        self.base_url = base_url
        """Without a trailing slash."""
        self._sealer = sealer

    def result(self, ref: TaskRef, sequence: int, size_bytes: int, until: datetime | None = None) -> dict[str, Any]:
        """Return `{"$ref": URL, "bytes": n}` for the result of a task's event.

        With `until`, the URL has a token that opens this result up to then, and nothing else. Without it, or if there
        is no key to seal with, whoever fetches it needs a token of the API.
        """
        return {"$ref": self._url(ref, "result", sequence, until), "bytes": size_bytes}

    def files(self, ref: TaskRef, sequence: int, stored: StoredResult, until: datetime | None = None) -> dict[str, Any]:
        """Return the links to a result's files, as `result` does, by the names `file` and `files`; {} without files.

        A link: `{"$ref": URL, "mediaType": …, "bytes": n}`.
        """

        def link(file: StoredFile, path: str) -> dict[str, Any]:
            url = self._url(ref, path, sequence, until)
            return {"$ref": url, "mediaType": file.media_type, "bytes": file.size_bytes}

        links: dict[str, Any] = {}
        if stored.file is not None:
            links["file"] = link(stored.file, "result/file")
        if stored.files:
            links["files"] = [link(file, f"result/file/{number}") for number, file in enumerate(stored.files)]
        return links

    def shown(self, ref: TaskRef, sequence: int, stored: StoredResult) -> Any:
        """Return a result as it is shown in an event: JSON with links in the place of what is not inline."""
        if stored.object_name is not None:
            return self.result(ref, sequence, stored.size_bytes)
        shown: dict[str, Any] = {"inline": stored.inline, "size_bytes": stored.size_bytes}
        return shown | self.files(ref, sequence, stored)

    def open(self, token: str, now: datetime) -> LinkedResult:
        """Return the result that a token opens. Raises DoesNotOpen, LinkExpired or SealingUnavailable."""
        if len(token) > LONGEST or not token.isascii():
            raise DoesNotOpen(PURPOSE)
        content = msgspec.json.decode(self._sealer.open(token.encode(), PURPOSE), type=_Link)
        if content.until <= milliseconds(now):
            raise LinkExpired
        return LinkedResult(content.task_id, content.sequence)

    def _url(self, ref: TaskRef, path: str, sequence: int, until: datetime | None) -> str:
        url = f"{self.base_url}/api/task/{ref.id}/{path}?sequence={sequence}"
        if until is None or not self._sealer.available:
            return url
        content = _Link(ref.id, sequence, milliseconds(until))
        return f"{url}&token={self._sealer.seal(msgspec.json.encode(content).decode(), PURPOSE).decode()}"
