"""Text of users becomes one safe token, and an id leads to its task."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskstream.errors import NotFound
from taskstream.events.ids import (
    NAME_TOKEN_LENGTH,
    OWNER_TOKEN_LENGTH,
    BatchRef,
    ScheduleRef,
    TaskRef,
    WebhookRef,
    batch_for_key,
    batch_index,
    batch_of,
    delivery_id,
    is_delivery_id,
    is_task_id,
    new_batch,
    new_ref,
    new_schedule_ref,
    new_webhook_ref,
    nth,
    owner_token,
    parse_batch_id,
    parse_schedule_id,
    parse_task_id,
    parse_webhook_id,
    ref_for_key,
    run_ref,
    schedule_for_key,
    token,
    triggered_ref,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SAFE = re.compile(r"[A-Za-z0-9_=-]+")

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100)
"""Any text that UTF-8 can say."""
tricky = st.text(st.sampled_from("=hH2E.*> -_aA\n\x00ü"), min_size=1, max_size=70)
lengths = st.sampled_from([OWNER_TOKEN_LENGTH, NAME_TOKEN_LENGTH])


@given(texts | tricky, lengths)
@example("a.b", 36)
@example("*", 36)
@example(">", 64)
@example("a b\tc\r\n", 64)
@example("\x00\x7f", 64)
@example("🜚" * 40, 64)
def test_a_token_is_short_and_made_of_safe_characters_only(text: str, longest: int) -> None:
    found = token(text, longest)

    assert SAFE.fullmatch(found)
    assert len(found) <= longest


@given(texts | tricky, texts | tricky, lengths)
@example("a.b", "a=2Eb", 64)
@example("a", "A", 64)
@example(".", "=2E", 64)
@example("x" * 65, "x" * 66, 64)
@example("." * 40, token("." * 40), 64)
def test_two_different_texts_never_have_the_same_token(one: str, other: str, longest: int) -> None:
    assert (token(one, longest) == token(other, longest)) == (one == other)


@given(tricky)
def test_a_token_is_not_a_token_of_another_text_unless_it_is_that_text(text: str) -> None:
    found = token(text)

    assert (token(found) == found) == (found == text)


@pytest.mark.parametrize("text", ["alice", "a-b_C9", "-", "550e8400-e29b-41d4-a716-446655440000"])
def test_safe_text_is_its_own_token(text: str) -> None:
    assert owner_token(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.b", "a=2Eb"), ("=", "=3D"), ("ü", "=C3=BC"), ("bob@example.com", "bob=40example=2Ecom"), ("\n", "=0A")],
)
def test_unsafe_characters_are_escaped_byte_by_byte(text: str, expected: str) -> None:
    assert token(text) == expected


def test_text_whose_token_gets_too_long_is_replaced_by_a_digest() -> None:
    assert token("x" * 64) == "x" * 64
    assert re.fullmatch("=h[0-9a-f]{32}", token("x" * 65))
    assert re.fullmatch("=h[0-9a-f]{32}", token("." * 22))
    assert len(token("." * 21)) == 63


def test_empty_text_has_no_token() -> None:
    with pytest.raises(ValueError, match="empty"):
        token("")


# Task ids

chances = st.integers(0, 2**80 - 1)
instants = st.integers(0, 250_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
owners = (texts | tricky).map(owner_token)
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255)


@given(owners, instants, chances)
def test_a_new_tasks_id_leads_back_to_it(owner: str, now: datetime, chance: int) -> None:
    ref = new_ref(owner, now, chance)

    assert parse_task_id(ref.id) == ref
    assert len(ref.id) <= 64
    assert ref.owner == owner


@given(owners, keys)
def test_the_id_for_a_key_leads_back_to_its_task(owner: str, key: str) -> None:
    ref = ref_for_key(owner, key)

    assert parse_task_id(ref.id) == ref
    assert ref == ref_for_key(owner, key)


@given(chances, chances)
@example(2**80 - 1, 0)
def test_later_tasks_sort_after_earlier_ones(one: int, other: int) -> None:
    earlier = new_ref("alice", NOW, one)
    later = new_ref("alice", NOW + timedelta(milliseconds=1), other)

    assert earlier.unique < later.unique


def test_chance_tells_tasks_of_one_instant_apart() -> None:
    assert new_ref("alice", NOW, 1) != new_ref("alice", NOW, 2)
    assert new_ref("alice", NOW, 0) != new_ref("alice", NOW, 2**79)


def test_a_key_is_its_owners_own() -> None:
    assert ref_for_key("alice", "k").unique != ref_for_key("bob", "k").unique
    assert ref_for_key("alice", "k") != ref_for_key("alice", "l")


UNIQUE = "01JGXQ0000ABCDEFGHJKMNPQRS"


def test_the_example_is_an_id() -> None:
    assert parse_task_id(f"{UNIQUE}~alice") == TaskRef("alice", UNIQUE)


@pytest.mark.parametrize(
    "task_id",
    [
        "",
        "*",
        ">",
        "../",
        "~",
        "x" * 4096,
        UNIQUE,
        f"{UNIQUE}~",
        f"~{UNIQUE}",
        f"{UNIQUE}~*",
        f"{UNIQUE}~>",
        f"{UNIQUE}~a.b",
        f"{UNIQUE}~a b",
        f"{UNIQUE}~alice\n",
        f"{UNIQUE}~alice~bob",
        f"{UNIQUE}~ü",
        f"{UNIQUE}~" + "a" * 37,
        f"{UNIQUE[:-1]}~alice",
        f"{UNIQUE[:-1]}.~alice",
        f"{UNIQUE[:-1]}*~alice",
        f"{UNIQUE[:-1]}١~alice",  # noqa: RUF001 - a digit, but not of ours
        f" {UNIQUE}~alice",
        "\x00",
        "🜚🜚",
        "null",
        "1' OR '1'='1",
    ],
)
def test_a_hostile_id_is_not_found(task_id: str) -> None:
    with pytest.raises(NotFound):
        parse_task_id(task_id)


@given(st.text(max_size=80))
def test_text_either_is_an_id_of_a_safe_subject_or_is_not_found(text: str) -> None:
    try:
        ref = parse_task_id(text)
    except NotFound:
        return
    assert SAFE.fullmatch(ref.owner)
    assert SAFE.fullmatch(ref.unique)


# Batches

owners = texts.map(owner_token)
keys = st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), min_size=1, max_size=255)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
batches = st.builds(new_batch, owners, moments, st.integers(0, 2**80 - 1)) | st.builds(batch_for_key, owners, keys)
places = st.integers(0, 999)


@given(batches, places)
def test_a_batch_leads_to_its_tasks_and_they_lead_back(batch: BatchRef, place: int) -> None:
    task = nth(batch, place)

    assert parse_task_id(task.id) == task
    assert batch_of(task) == batch
    assert batch_index(task) == place


@given(batches, batches, places, places)
def test_no_two_tasks_of_batches_have_the_same_id(one: BatchRef, other: BatchRef, place: int, another: int) -> None:
    assert (nth(one, place) == nth(other, another)) == (one == other and place == another)


@given(batches)
def test_a_batch_is_found_by_its_id(batch: BatchRef) -> None:
    assert parse_batch_id(batch.id) == batch
    assert len(batch.id) <= 64


@given(batches, st.integers(1, 999))
def test_a_task_is_no_batch_but_for_the_first(batch: BatchRef, place: int) -> None:
    assert nth(batch, 0).id == batch.id
    with pytest.raises(NotFound, match="batch"):
        parse_batch_id(nth(batch, place).id)


@given(batches)
def test_the_tasks_of_a_batch_sort_as_they_are_counted(batch: BatchRef) -> None:
    ids = [nth(batch, place).id for place in range(1_000)]

    assert ids == sorted(set(ids))


def test_later_batches_sort_after_earlier_ones() -> None:
    earlier, later = (new_batch("alice", NOW + timedelta(seconds=second), 2**80 - 1) for second in (0, 1))

    assert nth(earlier, 999).id < later.id


@given(owners, keys)
def test_a_key_is_always_the_same_batch_and_never_the_task_it_would_be(owner: str, key: str) -> None:
    batch = batch_for_key(owner, key)

    assert batch == batch_for_key(owner, key)
    assert batch.owner == owner
    assert batch != batch_of(ref_for_key(owner, key))
    assert batch != batch_for_key(owner + "x", key)
    assert batch != batch_for_key(owner, key + "x")


@pytest.mark.parametrize("text", ["", "x", "*", "0" * 26, "0" * 25 + "1~alice", "u" * 24 + "00~alice", "0" * 26 + "~"])
def test_what_is_no_batch_id_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        parse_batch_id(text)


# Golden values. An id that is derived otherwise is another one: a repeated key makes a second task, a schedule fires a
# run again, and the subjects of stored events are not found.

AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
SCHEDULE = ScheduleRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRV")
HOOK = WebhookRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRT")


def test_the_token_of_a_text_is_the_same_in_every_version() -> None:
    assert token("é.b c") == "=C3=A9=2Eb=20c"
    assert token("." * 21) == "=2E" * 21
    assert token("." * 22) == "=he21612cbaf18a4154633483c1973d9fc"
    assert token("x" * 65) == "=h9537c5fdf120482f7d58d25e9ed583f5"
    assert owner_token("x" * 36) == "x" * 36
    assert owner_token("x" * 37) == "=h6ee29e87d96ee4fcb3baef255923aece"
    assert owner_token("." * 12) == "=2E" * 12
    assert owner_token("." * 13) == "=h1daed90b5518b44bf5d8add9b231fef9"
    assert token("." * 10, 30) == "=2E" * 10


def test_a_new_id_has_its_instant_and_all_its_random_bits() -> None:
    assert new_ref("alice", AT, 0) == TaskRef("alice", "01KDYAK3SE0000000000000000")
    assert new_ref("alice", AT, 123_456_789) == TaskRef("alice", "01KDYAK3SE00000000003NQK8N")
    assert new_ref("alice", AT, 2**80 - 1) == TaskRef("alice", "01KDYAK3SEZZZZZZZZZZZZZZZZ")
    assert new_batch("alice", AT, 2**80 - 1) == BatchRef("alice", "01KDYAK3SEZZZZZZZZZZZZZZ00")
    assert new_schedule_ref("alice", AT, 7) == ScheduleRef("alice", "01KDYAK3SE0000000000000007")
    assert new_webhook_ref("alice", AT, 7) == WebhookRef("alice", "01KDYAK3SE0000000000000007")
    assert new_ref("alice", AT, 7).id == "01KDYAK3SE0000000000000007~alice"


def test_the_id_of_an_idempotency_key_is_the_same_in_every_version() -> None:
    batch = batch_for_key("alice", "k1")

    assert ref_for_key("alice", "k1") == TaskRef("alice", "08GS36RKPAXJX8BESMZ7Z63YF8")
    assert ref_for_key("bob", "k1") == TaskRef("bob", "4CFSZGX2DPCA6BDNYZ5SHA1BCN")
    assert batch == BatchRef("alice", "59VWXFNZW2D175J0H4JVRHM700")
    assert nth(batch, 0) == TaskRef("alice", "59VWXFNZW2D175J0H4JVRHM700")
    assert nth(batch, 33) == TaskRef("alice", "59VWXFNZW2D175J0H4JVRHM711")
    assert nth(batch, 999) == TaskRef("alice", "59VWXFNZW2D175J0H4JVRHM7Z7")
    assert schedule_for_key("alice", "k1") == ScheduleRef("alice", "08GS36RKPAXJX8BESMZ7Z63YF8")
    assert triggered_ref(SCHEDULE, "k1") == TaskRef("alice", "0T3A49W4VH9BQYCHFVJ5P4PFRS")


def test_the_task_of_a_run_is_the_same_in_every_version_and_all_through_its_second() -> None:
    expected = TaskRef("alice", "66DQG2B4VHBT27ACTBGGP22W9Y")

    assert run_ref(SCHEDULE, AT) == run_ref(SCHEDULE, AT.replace(microsecond=0)) == expected
    assert run_ref(SCHEDULE, AT + timedelta(seconds=1)) != expected


def test_the_id_of_a_delivery_is_the_same_in_every_version_and_differs_by_event() -> None:
    assert delivery_id(HOOK, 4711, AT) == "01KDYAK3SE0CZZMPAXBGN58AYK"
    assert delivery_id(HOOK, 4712, AT) == "01KDYAK3SETY0H2E9ADJE5CW06"
    assert delivery_id(HOOK, 4711, AT) != delivery_id(HOOK._replace(owner="bob"), 4711, AT)


@given(instants, st.integers(1, 2**63), st.integers(1, 2**63))
def test_a_delivery_of_a_later_event_sorts_after_it(now: datetime, one: int, other: int) -> None:
    earlier, later = delivery_id(HOOK, one, now), delivery_id(HOOK, other, now + timedelta(milliseconds=1))

    assert earlier < later
    assert is_delivery_id(earlier)


@pytest.mark.parametrize("text", ["", "x", "0" * 25, "0" * 27, "0" * 25 + "I", "0" * 25 + "U", "0" * 26 + "\n"])
def test_another_text_is_no_id_of_a_delivery(text: str) -> None:
    assert not is_delivery_id(text)


@pytest.mark.parametrize(
    ("parse", "kind"),
    [
        (parse_task_id, "task"),
        (parse_batch_id, "batch"),
        (parse_schedule_id, "schedule"),
        (parse_webhook_id, "webhook"),
    ],
)
def test_an_id_that_is_not_found_says_of_what_it_is(parse: Callable[[str], TaskRef], kind: str) -> None:
    ref = parse("0" * 26 + "~alice")
    assert (ref.owner, ref.unique) == ("alice", "0" * 26)

    with pytest.raises(NotFound) as caught:
        parse("no id")

    assert (caught.value.kind, caught.value.name) == (kind, "no id")


def test_a_text_has_the_form_of_a_task_id_or_not() -> None:
    assert is_task_id(f"{UNIQUE}~alice")
    assert not is_task_id(UNIQUE)
