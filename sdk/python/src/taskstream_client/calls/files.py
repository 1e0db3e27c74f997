"""Files: inputs of tasks that are too large for a payload, and whatever else is to be kept."""

from __future__ import annotations

import datetime
import io
import mimetypes
import os
from pathlib import Path
from typing import BinaryIO

from ..core import path_of
from ..flow import Flow, Upload
from ..models import FileLink, StoredFile, convert
from .call import Async, Part, Sync, call, iterates
from .results import pieces, saved, whole

Content = bytes | str | os.PathLike[str] | BinaryIO
"""Bytes, the path of a file, or an open file that can seek."""

UPLOAD_SECONDS = 7200.0
"""How long an upload may take with its retries; the service allows as much."""


def upload_of(content: Content, name: str | None) -> tuple[bytes | Upload, str]:
    """Return content as a body that can be sent again, and its name. Raises ValueError for a file that cannot seek."""
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content), name or ""
    if isinstance(content, (str, os.PathLike)):
        path = Path(content)
        return Upload(lambda: path.open("rb"), path.stat().st_size, closes=True), path.name if name is None else name
    if not content.seekable():
        raise ValueError("the open file cannot seek, so a retry could not send it again: read it first, or give a path")
    start = content.tell()
    size = content.seek(0, io.SEEK_END) - start

    def opened() -> BinaryIO:
        content.seek(start)
        return content

    opened()
    found = getattr(content, "name", "")
    return Upload(opened, size), (Path(found).name if isinstance(found, str) else "") if name is None else name


class FileCalls(Part):
    """Files. A payload refers to one with `file.ref`; the server gets a link in its place."""

    @call
    def upload(
        self,
        content: Content,
        *,
        name: str | None = None,
        media_type: str | None = None,
        purpose: str | None = None,
        expires_at: datetime.datetime | None = None,
        sha256: str | None = None,
        idempotency_key: str | None = None,
        timeout: float = UPLOAD_SECONDS,
    ) -> Flow[StoredFile]:
        """Store a file and return it as soon as it is on disk. It is sent piece by piece, whatever its size.

        Args:
            content: Bytes, the path of a file, or an open file that can seek.
            name: Default: the name of the path.
            media_type: Default: by the name.
            purpose: What it is for; `list` filters by it.
            expires_at: When it is deleted.
            sha256: The digest that the bytes must have, in hex.
            idempotency_key: The same file with the same key is stored once.
            timeout: Seconds for all tries together.
        """
        body, called = upload_of(content, name)
        kind = media_type or mimetypes.guess_type(called)[0] or "application/octet-stream"
        headers = {"Content-Type": kind, "Idempotency-Key": idempotency_key or self._core.new_key()}
        query = {"name": called or None, "purpose": purpose, "expiresAt": expires_at, "sha256": sha256}
        return convert(
            (yield from self._core.upload("/api/files", body, headers, query=query, timeout=timeout)), StoredFile
        )

    @call
    def get(self, file_id: str) -> Flow[StoredFile]:
        """Return what is known of a file."""
        return convert((yield from self._core.ask("GET", path_of("files", file_id, "info"))), StoredFile)

    @iterates(StoredFile)
    def list(self, *, purpose: str | None = None, owner: str | None = None, limit: int | None = None) -> Flow[None]:
        """Iterate over your files, newest first."""
        query = {"purpose": purpose, "owner": owner}
        yield from self._core.items("/api/files", "files", StoredFile, query, limit=limit)

    @iterates(bytes)
    def stream(self, file_id: str) -> Flow[None]:
        """Iterate over the bytes of a file. After a cut it goes on where it was."""
        yield from pieces(self._core, path_of("files", file_id))

    @call
    def read(self, file_id: str) -> Flow[bytes]:
        """Return the bytes of a file."""
        return (yield from whole(self._core, path_of("files", file_id)))

    @call
    def download(self, file_id: str, to: str | os.PathLike[str] | BinaryIO) -> Flow[int]:
        """Write a file to a path or an open file, and return its size. A path appears only when it is complete."""
        return (yield from saved(self._core, path_of("files", file_id), to))

    @call
    def link(self, file_id: str, *, expires_in: float = 3600.0) -> Flow[FileLink]:
        """Return a URL under which anybody reads the file, without a token, for so many seconds."""
        answer = yield from self._core.ask("POST", path_of("files", file_id, "links"), body={"expiresIn": expires_in})
        return convert(answer, FileLink)

    @call
    def delete(self, file_id: str) -> Flow[None]:
        """Delete a file. Raises Refused while tasks that have not ended refer to it."""
        yield from self._core.ask("DELETE", path_of("files", file_id))


class Files(FileCalls, Sync):
    """Files. A payload refers to one with `file.ref`; the server gets a link in its place."""


class AsyncFiles(FileCalls, Async):
    """Files. A payload refers to one with `file.ref`; the server gets a link in its place."""
