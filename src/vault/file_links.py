"""Signed links of files: URLs that need no header, for backends and players, until an instant."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import Struct

from ..events.ids import FileRef
from ..instants import milliseconds
from .sealing import DoesNotOpen, Sealer

READ = "file link"
LONGEST = 2 * 1024
"""Characters of a token."""


class FileLinkExpired(Exception):
    """The token was valid until an earlier instant."""


class _FileLink(Struct, array_like=True, frozen=True):
    owner: str
    unique: str
    until: int
    """Milliseconds since the epoch."""


class FileLinks:
    """Makes links to files, and opens the tokens in them. A token is sealed: nobody can make one without the key."""

    def __init__(self, base_url: str, sealer: Sealer) -> None:
        self._base_url = base_url
        self._sealer = sealer

    @property
    def are_signed(self) -> bool:
        """False without a key to seal with: whoever fetches a link then needs a token of the API."""
        return self._sealer.available

    def url(self, ref: FileRef, until: datetime | None = None, base_url: str | None = None) -> str:
        """Return the URL of a file's bytes. With `until` it has a token that opens this file up to then.

        The link ends earlier if the file is deleted. `base_url`: of the service as its reader reaches it; default: as
        backends do.
        """
        url = f"{base_url or self._base_url}/api/files/{ref.id}"
        if until is None or not self._sealer.available:
            return url
        content = msgspec.json.encode(_FileLink(ref.owner, ref.unique, milliseconds(until))).decode()
        return f"{url}?token={self._sealer.seal(content, READ).decode()}"

    def open(self, token: str, now: datetime) -> FileRef:
        """Return the file that a token opens. Raises DoesNotOpen, FileLinkExpired or SealingUnavailable."""
        if len(token) > LONGEST or not token.isascii():
            raise DoesNotOpen(READ)
        content = msgspec.json.decode(self._sealer.open(token.encode(), READ), type=_FileLink)
        if content.until <= milliseconds(now):
            raise FileLinkExpired
        return FileRef(content.owner, content.unique)
