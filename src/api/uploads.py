"""Uploads: the file in the body of a request, read as it arrives, alone or as a part of a form.

At most one chunk of the body is in memory. What else a form says is complete when the file has been read to its end: a
client may send fields after it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Any

import multipart  # type: ignore[import-untyped]
from litestar.exceptions import ClientException, HTTPException

from ..errors import FileTooLarge, InvalidInput
from .auth.access import ApiRequest
from .middleware import headers_of

FORM = "multipart/form-data"
URL_ENCODED = "application/x-www-form-urlencoded"
"""What `curl --data-binary` says of any bytes."""
FILE_PARTS = ("file", "content")
"""Names of the part that is the file; any part with a file name is one, too."""
MOST_FORM_BYTES = 64 * 1024
"""Of all of a form but its file."""
MOST_PARTS = 64
_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]{1,88}):", re.ASCII)
"""A member of `Repr-Digest` or `Content-Digest` (RFC 9530)."""


class Upload:
    """The file that a request brings. Iterate over it once."""

    def __init__(
        self,
        request: ApiRequest,
        most_bytes: int,
        file_parts: Collection[str] = FILE_PARTS,
        *,
        by_name: bool = False,
    ) -> None:
        """`file_parts`: names of the part of a form that is the file. `by_name`: other parts are none, although they
        have a file name: some clients give one to every part. Raises 415, InvalidInput, FileTooLarge.
        """
        headers = headers_of(request.scope)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise HTTPException(
                status_code=415, detail="bodies must not be compressed; send it without Content-Encoding"
            )
        self._request = request
        self._most_bytes = most_bytes
        self._file_parts = file_parts
        self._by_name = by_name
        given, options = _options(headers.get(b"content-type", b""))
        self.is_form = given == FORM
        self._boundary = options.get("boundary", "")
        if self.is_form and not self._boundary:
            raise InvalidInput("`multipart/form-data` needs a `boundary`", "Content-Type")
        length = headers.get(b"content-length")
        self.size_bytes: int | None = int(length) if length is not None and not self.is_form else None
        """None: not known before its end."""
        if length is not None and int(length) > most_bytes + (MOST_FORM_BYTES if self.is_form else 0):
            raise FileTooLarge(most_bytes)
        self.media_type = "" if given in (FORM, URL_ENCODED) else headers.get(b"content-type", b"").decode("latin-1")
        """Of the file, as it came; empty: not said. Of a form, once its part has begun."""
        self.name = "" if self.is_form else _file_name(headers.get(b"content-disposition", b""))
        """Of the file; empty: not said. Of a form, once its part has begun."""
        self.sha256 = _digest(headers) if not self.is_form else ""
        """That the file should have, hex; empty: any."""
        self.fields: dict[str, str] = {}
        """Of a form, beside its file."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the file. Raises InvalidInput, FileTooLarge, and 400 if the body ends too early."""
        if not self.is_form:
            async for chunk in self._body(self._most_bytes):
                yield chunk
            return
        form = _Form(self, self._boundary, self._file_parts, by_name=self._by_name)
        async for chunk in self._body(self._most_bytes + MOST_FORM_BYTES):
            try:
                for content in form.feed(chunk):
                    yield content
            except multipart.MultipartError as error:
                raise InvalidInput(f"the form is malformed: {error}") from None
        form.end()

    async def _body(self, most_bytes: int) -> AsyncIterator[bytes]:
        size = 0
        while True:
            message: Any = await self._request.receive()
            if message["type"] == "http.disconnect":  # the answer is not read
                raise ClientException("the body ended before it was complete")
            size += len(message["body"])
            if size > most_bytes:
                raise FileTooLarge(self._most_bytes)
            if message["body"]:
                yield message["body"]
            if not message["more_body"]:
                return


class _Form:
    """Splits a form into its file and its fields."""

    def __init__(self, upload: Upload, boundary: str, file_parts: Collection[str], *, by_name: bool) -> None:
        self._upload = upload
        self._file_parts = file_parts
        self._by_name = by_name
        try:
            self._parser = multipart.PushMultipartParser(boundary, max_segment_count=MOST_PARTS, strict=True)
        except multipart.MultipartError as error:
            raise InvalidInput(f"the form is malformed: {error}") from None
        self._has_file = self._in_file = False
        self._field = ""
        self._value = bytearray()
        self._held = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk of the body has of the file. Raises MultipartError, InvalidInput."""
        for event in self._parser.parse(chunk):
            match event:
                case multipart.MultipartSegment():
                    self._begin(event)
                case None:
                    if not self._in_file:
                        self._upload.fields[self._field] = _text(bytes(self._value), self._field)
                    self._in_file = False
                case _ if self._in_file:
                    yield bytes(event)
                case _:
                    self._held += len(event)
                    if self._held > MOST_FORM_BYTES:
                        raise InvalidInput(f"the fields of the form may have {MOST_FORM_BYTES} bytes at most")
                    self._value += event

    def _begin(self, part: multipart.MultipartSegment) -> None:
        self._in_file = part.name in self._file_parts or (bool(part.filename) and not self._by_name)
        if not self._in_file:
            self._field, self._value = part.name, bytearray()
            if part.name in self._upload.fields:
                raise InvalidInput("is given more than once; send one value", part.name)
            return
        if self._has_file:
            raise InvalidInput("the form has several files; send one file per request", part.name)
        self._has_file = True
        self._upload.name = _without_folders(part.filename or "")
        self._upload.media_type = part.header("Content-Type", "") or ""

    def end(self) -> None:
        """Raise InvalidInput unless the form is complete and has a file."""
        try:
            self._parser.close()
        except multipart.MultipartError as error:
            raise InvalidInput(f"the form is malformed: {error}") from None
        if not self._has_file:
            raise InvalidInput(f"the form has no file; send it as the part `{next(iter(self._file_parts))}`")


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidInput("must be UTF-8 text", name) from None


def _options(header: bytes) -> tuple[str, dict[str, str]]:
    given, options = multipart.parse_options_header(header.decode("latin-1"))
    return given.lower(), options


def _file_name(disposition: bytes) -> str:
    """Return the file name in a `Content-Disposition` (RFC 6266); empty: none."""
    if not disposition:
        return ""
    try:
        _, _, name = multipart.parse_content_disposition(disposition.decode("utf-8"))
    except (UnicodeDecodeError, ValueError):
        raise InvalidInput("is malformed; give the name as `?name=`", "Content-Disposition") from None
    return _without_folders(name or "")


def _without_folders(name: str) -> str:
    """Return a file name as RFC 7578, 4.2, asks for: without the folders that some clients send."""
    return re.split(r"[/\\]", name)[-1]


def _digest(headers: Any) -> str:
    """Return the SHA-256 of the body as its headers say, hex; empty: they do not. Raises InvalidInput."""
    for name in (b"repr-digest", b"content-digest"):
        found = _DIGEST.search(headers.get(name, b"").decode("latin-1"))
        if found is None:
            continue
        try:
            digest = base64.b64decode(found[1], validate=True)
        except binascii.Error:
            digest = b""
        if len(digest) != 32:
            raise InvalidInput("`sha-256` must be 32 bytes in base64, between colons", name.decode().title())
        return digest.hex()
    return ""
