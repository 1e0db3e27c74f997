"""Conversions of instants: what goes in as a number comes out as the same number, in every year."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskstream import instants
from taskstream.events.ids import new_ref
from taskstream.instants import (
    EPOCH,
    LAST_MILLISECOND,
    epoch_seconds,
    from_milliseconds,
    from_nanoseconds,
    from_seconds,
    iso,
    milliseconds,
    nanoseconds,
    parse_nats_time,
    whole_seconds,
)
from taskstream.wire.fields import instant

every_millisecond = st.integers(0, LAST_MILLISECOND)
every_instant = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999), timezones=st.just(UTC))  # noqa: DTZ001 - the zone follows

EARLY_BY_ONE = 2_148_595_200_002
"""In 2038, the first year in which `int(instant.timestamp() * 1000)` returns the millisecond before."""


# From 1970 to 9999


@given(every_millisecond)
@example(0)
@example(EARLY_BY_ONE)
@example(LAST_MILLISECOND)
def test_a_millisecond_that_goes_in_comes_out(number: int) -> None:
    found = from_milliseconds(number)

    assert milliseconds(found) == number
    assert instant(number, "$") == found
    assert datetime.fromisoformat(iso(found)) == found
    assert iso(found).endswith(f".{number % 1000:03d}Z")


@given(every_instant)
def test_an_instant_is_rounded_down_to_its_millisecond_and_second(at: datetime) -> None:
    assert timedelta(0) <= at - from_milliseconds(milliseconds(at)) < timedelta(milliseconds=1)
    assert timedelta(0) <= at - (EPOCH + timedelta(seconds=whole_seconds(at))) < timedelta(seconds=1)
    assert iso(at) == iso(from_milliseconds(milliseconds(at)))


@given(every_instant, every_instant)
def test_later_instants_never_have_smaller_numbers(one: datetime, other: datetime) -> None:
    earlier, later = sorted((one, other))

    assert milliseconds(earlier) <= milliseconds(later)
    assert whole_seconds(earlier) <= whole_seconds(later)
    assert epoch_seconds(earlier) <= epoch_seconds(later)


@given(st.integers(0, LAST_MILLISECOND * 1_000_000))
@example(1_767_225_600_000_000_999)
def test_a_time_of_nats_is_the_same_as_number_and_as_text(number: int) -> None:
    found = from_nanoseconds(number)

    assert (found - EPOCH) // timedelta(microseconds=1) == number // 1000
    whole = from_milliseconds(number // 1_000_000)
    assert parse_nats_time(f"{whole:%Y-%m-%dT%H:%M:%S}.{number % 10**9:09d}Z") == found


@given(st.timedeltas(timedelta(0), timedelta(days=36_500)))
def test_a_duration_has_a_whole_number_of_nanoseconds(duration: timedelta) -> None:
    assert timedelta(microseconds=nanoseconds(duration) // 1000) == duration


@given(st.timedeltas(timedelta(0), timedelta(days=130 * 365)).map(EPOCH.__add__))
def test_seconds_of_the_scheduler_lead_back_to_the_microsecond(at: datetime) -> None:
    assert from_seconds(epoch_seconds(at)) == at


@pytest.mark.parametrize("text", ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.0Z", "2026-01-01T00:00:00.000000999Z"])
def test_a_time_of_nats_has_up_to_nine_digits(text: str) -> None:
    assert parse_nats_time(text) == datetime(2026, 1, 1, tzinfo=UTC)


@given(every_millisecond, st.integers(0, 2**80 - 1))
@example(EARLY_BY_ONE, 0)
def test_ids_sort_by_the_millisecond_they_were_made_in(number: int, chance: int) -> None:
    later = from_milliseconds(min(number + 1, LAST_MILLISECOND))

    assert new_ref("a", from_milliseconds(number), chance).unique <= new_ref("a", later, chance).unique


# One module

SOURCES = Path(instants.__file__).parent
LOSSY = {"timestamp", "fromtimestamp", "utcfromtimestamp", "utctimetuple", "mktime", "timegm"}


def _conversions(path: Path) -> list[str]:
    """Return where a module converts an instant itself, or scales seconds to another unit as a float."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(attr=name)) if name in LOSSY:
                found.append(f"{path}:{node.lineno}: .{name}()")
            case ast.BinOp(op=ast.Mult() | ast.Div(), left=ast.Call(func=ast.Attribute(attr="total_seconds"))):
                found.append(f"{path}:{node.lineno}: total_seconds() of another unit")
            case ast.Call(
                func=ast.Name(id="int"), args=[ast.BinOp(op=ast.Mult(), right=ast.Constant(value=factor))]
            ) if factor in (1000, 1_000_000, 1_000_000_000):
                found.append(f"{path}:{node.lineno}: int(… * {factor})")
    return found


def test_no_other_module_converts_instants() -> None:
    modules = [path for path in SOURCES.rglob("*.py") if path.name != "instants.py"]

    assert [line for path in modules for line in _conversions(path)] == []
    assert len(modules) > 100


def test_the_search_for_conversions_finds_them(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("a = int(x.timestamp() * 1000)\nb = datetime.fromtimestamp(n / 1000, UTC)\n"
                      "c = d.total_seconds() * 1000\n")  # fmt: skip

    assert len(_conversions(module)) == 4
