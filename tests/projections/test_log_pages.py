"""Pages of several logs together: complete, each entry once, in the order of time as far as clocks allow."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from taskstream.events.envelope import Actor
from taskstream.projections.log_entries import LOGS, EntryFilter, EventEntry, parse_actor, parse_subject
from taskstream.projections.log_pages import LogPlace, Work, _merged, _Walk, parse_place
from taskstream.streams.jetstream.messages import Position

from ..deciders.support import NOW


class MemoryWalk(_Walk):
    """A log in memory, in the direction of the walk; odd numbers are entries, even ones are searched in vain."""

    def __init__(self, place: int, numbers: list[int], step: int) -> None:
        super().__init__(None, LOGS[place], EntryFilter(), (0, len(numbers)), None)  # type: ignore[arg-type]
        self._numbers = numbers
        self._size = step
        self._time: datetime | None = None

    async def search(self, work: Work) -> None:
        self.is_searched = True
        found = self._numbers[self.low : self.low + self._size]
        work.take([Position(self.low + place, "", b"") for place, _ in enumerate(found, 1)])
        for place, number in enumerate(found, self.low + 1):
            if number % 2:
                self._found.append(entry(self.source.name, place, number))
            self._time = NOW + timedelta(seconds=number)
        self.low += len(found)

    @property
    def bound(self) -> datetime | None:
        return self._time

    def place(self) -> int:
        return self._found[0].sequence - 1 if self._found else self.low


def entry(log: str, sequence: int, number: int) -> EventEntry:
    return EventEntry(
        log=log,  # type: ignore[arg-type]
        sequence=sequence,
        at=NOW + timedelta(seconds=number),
        event="",
        kind="",
        id="",
        by=Actor("user", "alice"),
        cause="",
        data={},
        sizes={},
    )


def read_through(logs: list[list[int]], step: int, limit: int, messages: int, *, forth: bool) -> list[EventEntry]:
    """Read page after page, each from where the one before ended."""
    places = [0] * len(logs)
    found: list[EventEntry] = []
    for _ in range(10_000):
        walks = [MemoryWalk(number, numbers, step) for number, numbers in enumerate(logs)]
        for walk, place in zip(walks, places, strict=True):
            walk.low = place
        page = asyncio.run(_merged([*walks], limit, Work(messages=messages), forth=forth))
        assert len(page) <= limit
        found += page
        before, places = places, [walk.place() for walk in walks]
        if all(walk.is_over for walk in walks):
            return found
        assert places > before
    raise AssertionError("no end")


times = st.lists(st.integers(0, 50), max_size=12)
sizes = st.integers(1, 4)


@given(st.lists(times, min_size=1, max_size=4), sizes, sizes, st.integers(1, 30), st.booleans())
def test_pages_together_have_each_entry_once_and_keep_the_order_of_each_log(
    logs: list[list[int]], step: int, limit: int, messages: int, forth: bool
) -> None:
    found = read_through(logs, step, limit, messages, forth=forth)

    for place, numbers in enumerate(logs):
        expected = [sequence for sequence, number in enumerate(numbers, 1) if number % 2]
        assert [each.sequence for each in found if each.log == LOGS[place].name] == expected


@given(st.lists(times, min_size=1, max_size=4), sizes, sizes, st.integers(1, 30), st.booleans())
def test_entries_of_logs_whose_clocks_agree_come_in_the_order_of_time(
    logs: list[list[int]], step: int, limit: int, messages: int, forth: bool
) -> None:
    ordered = [sorted(numbers, reverse=not forth) for numbers in logs]

    at = [each.at for each in read_through(ordered, step, limit, messages, forth=forth)]

    assert at == sorted(at, reverse=not forth)


@given(st.lists(st.none() | st.integers(0, 10**18), min_size=len(LOGS), max_size=len(LOGS)), st.integers(0, 10**14))
def test_a_place_is_read_as_it_was_written(sequences: list[int | None], milliseconds: int) -> None:
    known = {source.name: number for source, number in zip(LOGS, sequences, strict=True) if number is not None}
    place = LogPlace(at=NOW, sequences=known)

    assert parse_place(str(place)) == LogPlace(at=NOW, sequences=known)
    assert parse_place(f"{milliseconds}.-") == LogPlace(
        at=parse_place(f"{milliseconds}.1").at,
        sequences={},  # type: ignore[union-attr]
    )


@given(st.text(max_size=40))
def test_any_text_is_a_place_or_none_an_actor_and_a_subject_or_refused(text: str) -> None:
    parse_place(text)
    kind, name = parse_actor(text)
    assert text in (name, f"{kind}:{name}")
    with contextlib.suppress(ValueError):
        parse_subject(text)
