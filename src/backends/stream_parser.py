"""Reads an answer that is streamed: updates as they come, and how it ends. Pure: bytes in, updates out.

Two framings: server-sent events (WHATWG HTML, 9.2), of which only `data` is read, and a JSON object on each line
(NDJSON). An object is an update as the contract has it, or in short its metadata's fields at the top:

    {"metadata": {"status": "PROCESSING", "progress": 40, "message": "…"}}        {"progress": 40, "message": "…"}
    {"data": …, "metadata": {"status": "FINISHED"}}                               {"data": …}

Without a `status`, one with `data` ends the attempt well, any other is progress.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ..events.envelope import NULL
from ..events.ids import is_task_id
from ..vault.task_keys import without_key
from ..wire.body_limit import AnswerTooLarge
from ..wire.json_depth import deeper_than
from . import task_result
from .progress_update import UpdateMetadata

DEEPEST_UPDATE = 500
"""Levels of nesting, as of an answer that is not streamed."""
LONGEST_PROGRESS = 256 * 1024
"""Bytes of one update that does not end the attempt: it becomes a message of NATS, with others it is summed up with."""

Framing = Literal["events", "lines"]
FRAMINGS: dict[str, Framing] = {
    "text/event-stream": "events",
    "application/x-ndjson": "lines",
    "application/ndjson": "lines",
    "application/jsonl": "lines",
    "application/x-jsonlines": "lines",
}
"""By media type."""
LINE_ENDS: dict[Framing, re.Pattern[bytes]] = {"events": re.compile(rb"\r\n?|\n"), "lines": re.compile(rb"\n")}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadStream(Exception):
    """A part of a streamed answer is no update; the message says which, and why."""


class ProgressUpdate(Struct, frozen=True):
    """The attempt goes on."""

    metadata: UpdateMetadata


class Ending(Struct, frozen=True, kw_only=True):
    """The attempt has ended; nothing after this counts."""

    status: Literal["FINISHED", "FAILED"]
    message: str | None
    data: Raw
    backend_task_id: str | None
    metadata: dict[str, Raw]
    """As it came."""

    def result(self, task_id: str, server_id: str, elapsed_ms: int) -> bytes:
        """Return the TaskResult; what the server did not say of itself is as we saw it."""
        seen = {
            "server_id": server_id,
            "processing_time": elapsed_ms,
            "model_time": 0,
            "queue_time": 0,
            "status": self.status,
            "message": None,
        }
        metadata = {**seen, **({"progress": 100} if self.status == "FINISHED" else {}), **self.metadata}
        return task_result.completed(task_id, self.backend_task_id, self.data, Raw(msgspec.json.encode(metadata)))


Said: TypeAlias = ProgressUpdate | Ending


class _Outer(Struct, kw_only=True):
    metadata: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    backend_task_id: str | None = None
    task_id: Any = None


class _Metadata(UpdateMetadata, kw_only=True):
    status: task_result.Status | UnsetType = UNSET  # type: ignore[assignment]


OUTER = frozenset(_Outer.__struct_fields__)
KNOWN = OUTER | frozenset(_Metadata.__struct_fields__)

_outer = msgspec.json.Decoder(_Outer)
_metadata = msgspec.json.Decoder(_Metadata)
_fields = msgspec.json.Decoder(dict[str, Raw])


class StreamedAnswer:
    """One answer. `feed` it what arrives, in any pieces; after an Ending, stop."""

    def __init__(self, framing: Framing, task_id: str, model_key: str | None, most_bytes: int) -> None:
        """`most_bytes`: of the whole answer. `model_key` is taken out of all that is said."""
        self._task_id = task_id
        self._model_key = model_key
        self._most_bytes = most_bytes
        self._texts = _Events() if framing == "events" else _Lines()
        self._split = _Split(LINE_ENDS[framing])
        self._bytes = 0
        self._count = 0

    def feed(self, chunk: bytes) -> Iterator[Said]:
        """Yield the updates that a piece completes. Raises BadStream, and AnswerTooLarge."""
        self._bytes += len(chunk)
        if self._bytes > self._most_bytes:
            raise AnswerTooLarge(self._most_bytes)
        for line in self._split.feed(chunk):
            yield from self._read(self._texts.take(line))

    def rest(self) -> Iterator[Said]:
        """Yield what came last without the line end that completes it. Raises BadStream."""
        yield from self._read(self._texts.take(self._split.rest()))
        yield from self._read(self._texts.take(b""))

    def _read(self, text: bytes | None) -> Iterator[Said]:
        if text is None or not text.strip():
            return  # some send empty ones to keep the connection open
        self._count += 1
        said = self._update(without_key(text, self._model_key))
        if isinstance(said, ProgressUpdate) and len(text) > LONGEST_PROGRESS:
            raise self._bad(f"is progress of more than {LONGEST_PROGRESS} bytes")
        yield said

    def _update(self, text: bytes) -> Said:
        self._check(text)
        try:
            outer = _outer.decode(text)
            is_short = outer.metadata is UNSET
            metadata = _metadata.decode(text if is_short else cast(Raw, outer.metadata))
        except msgspec.ValidationError as error:
            raise self._bad(f"is no update: {error}") from None
        if isinstance(outer.task_id, str) and outer.task_id != self._task_id and is_task_id(outer.task_id):
            raise self._bad("is of another task")
        data = NULL if outer.data is UNSET else outer.data
        status = metadata.status
        if status is UNSET:
            status = "PROCESSING" if data == NULL else "FINISHED"
        if status not in ("FINISHED", "FAILED"):
            return ProgressUpdate(metadata)
        fields = _fields.decode(text if is_short else cast(Raw, outer.metadata))
        return Ending(
            status=status,
            message=metadata.message,
            data=Raw(bytes(data)),
            backend_task_id=outer.backend_task_id,
            metadata={name: raw for name, raw in fields.items() if not (is_short and name in OUTER)},
        )

    def _check(self, text: bytes) -> None:
        """Raise BadStream for what is no JSON object, or one that has nothing of an update."""
        try:
            content = msgspec.json.decode(text)
            too_deep = deeper_than(DEEPEST_UPDATE, text, content)
        except RecursionError:
            too_deep = True
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise self._bad("is no JSON") from None
        if too_deep:
            raise self._bad(f"is nested deeper than {DEEPEST_UPDATE} levels")
        if not isinstance(content, dict):
            raise self._bad("is no JSON object")
        if not KNOWN & content.keys():
            raise self._bad("has no field of an update")

    def _bad(self, what: str) -> BadStream:
        return BadStream(f"part {self._count} of the streamed answer {what}")


class _Split:
    """Puts pieces together to lines, without their ends."""

    def __init__(self, ends: re.Pattern[bytes]) -> None:
        self._ends = ends
        self._held = bytearray()
        self._after_return = False
        self._is_first = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        if self._after_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the other half of a line end that came in two pieces
            self._after_return = False
        if not chunk:
            return
        self._after_return = chunk.endswith(b"\r") and self._ends is LINE_ENDS["events"]
        *ended, last = self._ends.split(chunk)
        for piece in ended:
            self._held += piece
            yield self.rest()
        self._held += last

    def rest(self) -> bytes:
        """Return what has come since the last line end, and forget it."""
        line = bytes(self._held)
        self._held.clear()
        if self._is_first:
            self._is_first = False
            return line.removeprefix(BYTE_ORDER_MARK)
        return line


class _Lines:
    """NDJSON: each line is a text."""

    def take(self, line: bytes) -> bytes | None:
        return line


class _Events:
    """Server-sent events: a text is the `data` up to an empty line."""

    def __init__(self) -> None:
        self._data: list[bytes] = []

    def take(self, line: bytes) -> bytes | None:
        """Return the text that a line completes, None while there is none."""
        if not line:
            text = b"\n".join(self._data) if self._data else None
            self._data.clear()
            return text
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        return None
