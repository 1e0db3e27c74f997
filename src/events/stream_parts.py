"""The parts of a streamed answer, as events hold them: most have a long beginning and end in common. Pure.

{"id":"c-1","choices":[{"delta":{"content":"He"}}]}      head    {"id":"c-1","choices":[{"delta":{"content":"
{"id":"c-1","choices":[{"delta":{"content":"llo"}}]}     middles He, llo
                                                         tail    "}}]}
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace


class StreamParts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Parts of the answer that a server streams, in order, each as it came: the text of a server-sent event."""

    first: int
    """Place of the first one among all parts of the attempt, from 0."""
    middles: tuple[str, ...]
    """What is between `head` and `tail` in each."""
    head: str = ""
    tail: str = ""

    @property
    def following(self) -> int:
        """Return the place of the part that follows."""
        return self.first + len(self.middles)

    @property
    def characters(self) -> int:
        return len(self.head) + len(self.tail) + sum(map(len, self.middles))

    def texts(self) -> Iterator[str]:
        """Yield the parts."""
        for middle in self.middles:
            yield f"{self.head}{middle}{self.tail}"


def one_part(place: int, text: str) -> StreamParts:
    """Return a part alone."""
    return StreamParts(first=place, middles=(text,))


def without_first(parts: StreamParts, count: int) -> StreamParts | None:
    """Return the parts after the first few; None if there are none."""
    if count >= len(parts.middles):
        return None
    return replace(parts, first=parts.first + count, middles=parts.middles[count:]) if count else parts


def joined(earlier: StreamParts | None, later: StreamParts | None) -> StreamParts | None:
    """Return the parts of both, with what all of them have in common taken out. The later ones follow the earlier."""
    if earlier is None or later is None:
        return later or earlier
    shortest = min(len(text) for text in (_shortest(earlier), _shortest(later)))
    head = _beginning_of_both(_common_head(earlier), _common_head(later))
    tail = _beginning_of_both(_common_tail(earlier)[::-1], _common_tail(later)[::-1])[::-1]
    tail = tail[max(0, len(tail) - (shortest - len(head))) :]
    return StreamParts(
        first=earlier.first, head=head, tail=tail, middles=(*_cut(earlier, head, tail), *_cut(later, head, tail))
    )


def _beginning_of_both(one: str, other: str) -> str:
    """Return the longest text that both begin with."""
    if other.startswith(one):
        return one
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one[:middle] == other[:middle]:
            least = middle
        else:
            most = middle - 1
    return one[:least]


def _shortest(parts: StreamParts) -> str:
    return f"{parts.head}{min(parts.middles, key=len)}{parts.tail}"


def _common_head(parts: StreamParts) -> str:
    """Return a text that all parts begin with: of a single one, all of it."""
    return parts.head + parts.middles[0] + parts.tail if len(parts.middles) == 1 else parts.head


def _common_tail(parts: StreamParts) -> str:
    return parts.head + parts.middles[0] + parts.tail if len(parts.middles) == 1 else parts.tail


def _cut(parts: StreamParts, head: str, tail: str) -> tuple[str, ...]:
    """Return what is between a head and a tail in each of the parts."""
    if parts.head == head and parts.tail == tail:
        return parts.middles
    end = len(tail)
    return tuple(text[len(head) : len(text) - end] for text in parts.texts())
