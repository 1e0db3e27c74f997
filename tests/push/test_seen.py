"""A follower receives from a batch's event only the reports that it did not receive live."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskstream.events.envelope import Actor
from taskstream.events.stream_parts import joined, one_part
from taskstream.events.task import ProgressReported
from taskstream.push.live import LiveReport, Seen

reports = st.lists(st.tuples(st.lists(st.text(max_size=3), max_size=2), st.text(max_size=4)), min_size=1, max_size=8)


def live(index: int, lines: list[str], output: str, batch: str) -> LiveReport:
    event = ProgressReported(attempt=1, lines=tuple(lines), output=output)
    return LiveReport(
        batch=batch, index=index, at=datetime(2026, 1, 1, tzinfo=UTC), by=Actor("server", "s"), event=event
    )


@given(batches=st.lists(reports, min_size=1, max_size=4), lost=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 7))))
def test_every_line_and_every_piece_of_output_is_sent_once_and_in_order(
    batches: list[list[tuple[list[str], str]]], lost: set[tuple[int, int]]
) -> None:
    """Each batch is pushed with some reports lost; then its event arrives from the log."""
    seen = Seen()
    for number, batch in enumerate(batches):
        lines: list[str] = []
        output = ""
        for index, (some_lines, some_output) in enumerate(batch):
            report = live(index, some_lines, some_output, str(number))
            if (number, index) not in lost and seen.takes(report):
                lines += report.event.lines
                output += report.event.output
        all_lines = tuple(line for some_lines, _ in batch for line in some_lines)
        all_output = "".join(some_output for _, some_output in batch)
        summed = ProgressReported(attempt=1, lines=all_lines, output=all_output, batch=str(number), reports=len(batch))
        rest = seen.rest_of(summed)
        if rest is not None:
            lines += rest.lines
            output += rest.output

        assert (tuple(lines), output) == (all_lines, all_output)


def test_the_next_batch_may_begin_before_the_log_has_the_one_before() -> None:
    seen = Seen()
    assert seen.takes(live(0, ["a"], "", "first"))
    assert seen.takes(live(0, ["b"], "", "second"))

    assert seen.rest_of(ProgressReported(attempt=1, lines=("a",), batch="first")) is None
    assert seen.rest_of(ProgressReported(attempt=1, lines=("b",), batch="second")) is None


def test_an_event_without_a_batch_is_sent_whole() -> None:
    event = ProgressReported(attempt=1, progress=5.0)

    assert Seen().rest_of(event) is event


def test_a_report_later_than_the_event_of_its_batch_is_not_sent_again() -> None:
    seen = Seen()

    assert seen.rest_of(ProgressReported(attempt=1, lines=("a",), batch="first")) is not None
    assert not seen.takes(live(0, ["a"], "", "first"))


def test_parts_of_a_stream_are_sent_once_though_some_came_live() -> None:
    seen = Seen()
    first, second = one_part(0, "a"), one_part(1, "b")
    report = live(0, [], "", "first")
    assert seen.takes(replace(report, event=replace(report.event, parts=first)))
    summed = ProgressReported(attempt=1, batch="first", reports=2, parts=joined(first, second))

    for resumed in (Seen(str(seen)), seen):
        rest = resumed.rest_of(summed)

        assert rest is not None
        assert rest.parts is not None
        assert (rest.parts.first, list(rest.parts.texts())) == (1, ["b"])
