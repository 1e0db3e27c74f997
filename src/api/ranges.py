"""Ranges of bytes that a client asks for (RFC 9110, 14)."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

_BYTES = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII)


class ByteRange(NamedTuple):
    """Bytes from `start` to before `end`; at least one."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def read_range(header: str | None, size: int) -> ByteRange | Literal["unsatisfiable"] | None:
    """Return the bytes that a `Range` header selects of `size`; None for the whole.

    None also for several ranges, another unit, and what is malformed: a server may ignore the header.
    """
    found = _BYTES.fullmatch(header or "")
    if found is None or found[0].strip() == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    return ByteRange(start, end) if start < end else "unsatisfiable"
