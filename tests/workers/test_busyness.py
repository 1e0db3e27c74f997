"""What is assumed about a busy server: how long it is left alone, and how many tasks it is sent."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream.workers.fleet.busy import (
    ACTIVE_SECONDS,
    FIRST_PAUSE,
    LONGEST_GROWN_PAUSE,
    LONGEST_PAUSE,
    OTHERS_FIRST,
    TAKEN_AFTER,
    UNCONFIRMED_PAUSE,
    Begun,
    Busyness,
)

from ..deciders.support import NOW, seconds

A, B = "alice", "bob"


class Story:
    """A server, its busyness, and a clock that a test moves."""

    def __init__(self, most: int = 10) -> None:
        self.most = most
        self.now = 100.0
        self.busy = Busyness()
        self.calls: list[tuple[str, Begun]] = []

    @property
    def capacity(self) -> int:
        return self.most if self.busy.limit is None else min(self.most, self.busy.limit)

    def begin(self, owner: str = A) -> None:
        self.calls.append((owner, self.busy.begin(owner, len(self.calls), self.now)))

    def refuse(self, retry_after: timedelta | None = None, place: int = -1) -> bool:
        owner, begun = self.calls.pop(place)
        return self.busy.refuse(owner, begun, len(self.calls), retry_after, self.now, NOW, 0.0)

    def take(self, place: int = -1) -> None:
        owner, begun = self.calls.pop(place)
        self.busy.take(owner, begun, self.now, self.most)

    def turn_away(self, owner: str = A, retry_after: timedelta | None = None) -> float:
        """Send one task once the server may get one; return the pause that follows the busy answer."""
        self.now = max(self.now, self.busy.paused_until, self.busy.rests_until(owner))
        self.begin(owner)
        self.refuse(retry_after)
        return self.busy.paused_until - self.now


# Pauses


def test_pauses_grow_up_to_a_limit() -> None:
    story = Story()

    assert [story.turn_away() for _ in range(9)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]


def test_pauses_start_anew_once_a_task_was_taken() -> None:
    story = Story()
    for _ in range(5):
        story.turn_away()
    story.now = story.busy.paused_until
    story.begin()
    story.take()

    assert story.busy.since is None
    assert story.turn_away() == FIRST_PAUSE


@pytest.mark.parametrize(
    ("asked", "pause"), [(3.0, 3.0), (0.0, FIRST_PAUSE), (0.001, FIRST_PAUSE), (3_600.0, LONGEST_PAUSE)]
)
def test_a_pause_that_the_server_asks_for_is_kept_within_bounds(asked: float, pause: float) -> None:
    story = Story()

    assert story.turn_away(retry_after=seconds(asked)) == pause


def test_tasks_that_were_refused_together_make_one_pause() -> None:
    story = Story()
    for _ in range(10):
        story.begin()
    for _ in range(7):
        story.refuse()

    assert story.busy.paused_until == story.now + FIRST_PAUSE


# Limit


def test_the_limit_is_what_it_was_running_and_one_at_least() -> None:
    story = Story()
    for _ in range(10):
        story.begin()
    limits = []
    while story.calls:
        story.refuse()
        limits.append(story.capacity)

    assert limits == [9, 8, 7, 6, 5, 4, 3, 2, 1, 1]


def test_after_a_warm_up_the_limit_doubles_from_round_to_round() -> None:
    story = Story(most=64)
    story.turn_away()
    story.now = story.busy.paused_until
    limits = []
    for _ in range(7):
        for _ in range(story.capacity):
            story.begin()
        for _ in range(len(story.calls)):
            story.take()
        limits.append(story.capacity)

    assert limits == [2, 4, 8, 16, 32, 64, 64]
    assert story.busy.limit is None


def test_a_smaller_limit_than_registered_is_found_and_seldom_exceeded() -> None:
    """A server with room for 3, registered with 10; each task takes 0.05 s, for ten minutes."""
    story, real = Story(), 3
    refused = done = 0
    end = story.now + 600
    while story.now < end:
        if story.now >= story.busy.paused_until:
            while len(story.calls) < story.capacity:
                story.begin()
        while len(story.calls) > real:
            story.refuse()
            refused += 1
        for _ in range(len(story.calls)):
            story.take(0)
            done += 1
        story.now += 0.05

    assert refused < 40
    assert done > 0.9 * real * 600 / 0.05


def test_long_calls_are_taken_before_they_end() -> None:
    story = Story()
    story.turn_away()
    story.now = story.busy.paused_until
    story.begin()
    story.now += TAKEN_AFTER
    owner, begun = story.calls[0]
    story.busy.take(owner, begun, story.now, story.most)

    assert story.capacity == 2


def test_a_full_server_is_sent_one_more_after_a_while_though_no_call_ends() -> None:
    story = Story()
    for _ in range(4):
        story.begin()
    story.refuse()
    assert story.capacity == 3

    story.busy.probe(story.busy.probes_at - 0.01, 3, story.most)
    assert story.capacity == 3
    story.busy.probe(story.busy.probes_at, 2, story.most)
    assert story.capacity == 3
    story.busy.probe(story.busy.probes_at, 3, story.most)
    assert story.capacity == 4


# Owners


def test_one_owners_refusals_rest_that_owner_and_not_the_server() -> None:
    """The rate limit of Alice's model key: hers are refused, Bob's are taken."""
    story = Story()
    story.begin(B)
    story.take()

    assert story.turn_away(A, retry_after=seconds(60)) == UNCONFIRMED_PAUSE
    assert story.busy.rests_until(A) == story.busy.paused_until + OTHERS_FIRST
    story.now = story.busy.paused_until
    assert story.busy.rests_until(B) <= story.now
    story.begin(B)
    story.take()
    paused_until, limit = story.busy.paused_until, story.busy.limit
    for _ in range(5):
        story.now = story.busy.rests_until(A)
        story.begin(A)
        assert not story.refuse(seconds(60))
        assert story.busy.rests_until(A) == story.now + 60

    assert (story.busy.paused_until, story.busy.limit, story.busy.since) == (paused_until, limit, None)


def test_an_owner_that_comes_to_a_server_paused_for_another_is_tried_first() -> None:
    """Alice was alone on the server, so it pauses for as long as it asked: once, not each time hers is refused."""
    story = Story()
    assert story.turn_away(A, retry_after=seconds(30)) == 30

    story.now = story.busy.paused_until
    assert story.busy.rests_until(A) == story.now + OTHERS_FIRST
    assert story.busy.rests_until(B) <= story.now
    story.begin(B)
    story.take()
    story.now = story.busy.rests_until(A)
    story.begin(A)
    assert not story.refuse(seconds(30))
    assert story.busy.paused_until < story.now


@pytest.mark.parametrize("asked", [59.0, 60.0, 300.0])
def test_the_refusal_after_a_long_rest_is_still_the_owners_own(asked: float) -> None:
    story = Story()
    story.turn_away(A, retry_after=seconds(asked))
    story.now = story.busy.paused_until
    story.begin(B)
    story.take()

    for _ in range(3):
        story.now = max(story.now, story.busy.rests_until(A))
        story.begin(A)
        assert not story.refuse(seconds(asked))
        assert story.busy.paused_until < story.now


def test_a_refusal_long_after_the_end_of_a_rest_is_the_servers_again() -> None:
    story = Story()
    story.turn_away(A)
    story.now = story.busy.paused_until
    story.begin(B)
    story.take()
    story.now = story.busy.rests_until(A) + ACTIVE_SECONDS

    story.begin(A)

    assert story.refuse()


def test_an_owner_that_was_refused_is_tried_with_one_task_at_a_time() -> None:
    story = Story()
    story.begin(B)
    story.take()
    story.turn_away(A)
    story.now = story.busy.paused_until
    story.begin(B)
    story.take()

    story.now = story.busy.rests_until(A)
    story.begin(A)

    assert story.busy.rests_until(A) == story.now + TAKEN_AFTER
    story.take()
    assert story.busy.rests_until(A) == 0


def test_refusals_of_two_owners_are_the_servers() -> None:
    story = Story()
    for owner in (A, B):
        story.begin(owner)
        story.take()

    assert story.turn_away(A, retry_after=seconds(60)) == UNCONFIRMED_PAUSE
    assert story.turn_away(B, retry_after=seconds(60)) == 60


def test_a_refusal_of_long_ago_does_not_make_another_owners_the_servers() -> None:
    story = Story()
    for _ in range(3):
        story.begin(B)
    story.begin(A)
    story.refuse()
    for _ in range(3):
        story.take()
    story.now = story.busy.rests_until(A) + ACTIVE_SECONDS
    story.begin(B)
    story.take()  # with fewer running, which says nothing about Alice's

    assert story.turn_away("carol", retry_after=seconds(300)) == UNCONFIRMED_PAUSE


def test_a_full_server_that_has_room_again_does_not_accuse_the_refused() -> None:
    story = Story()
    for _ in range(3):
        story.begin(B)
    story.begin(A)
    assert story.refuse()
    story.take()
    story.now = story.busy.paused_until
    story.begin(B)
    story.take()  # as third, where Alice's was the fourth

    story.now = story.busy.rests_until(A)
    story.begin(A)
    assert story.refuse()


# Whatever happens

steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "take", "refuse", "probe"]),
        st.sampled_from([A, B, "carol"]),
        st.sampled_from([0.0, 0.01, 0.3, 2.0, 70.0]),
        st.sampled_from([None, seconds(0), seconds(3), timedelta(days=3)]),
        st.integers(0, 9),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(steps)
def test_whatever_is_answered_pauses_and_limits_stay_within_their_bounds(
    taken: list[tuple[str, str, float, timedelta | None, int]],
) -> None:
    story = Story()
    for step, owner, later, retry_after, place in taken:
        story.now += later
        if step == "begin":
            story.begin(owner)
        elif step == "probe":
            story.busy.probe(story.now, len(story.calls), story.most)
        elif story.calls:
            chosen = place % len(story.calls)
            if step == "take":
                story.take(chosen)
            else:
                story.refuse(retry_after, chosen)
        assert 1 <= story.capacity <= story.most
        assert story.busy.paused_until <= story.now + LONGEST_PAUSE
        assert all(story.busy.rests_until(each) <= story.now + LONGEST_PAUSE + OTHERS_FIRST for each in (A, B))


@given(st.lists(st.sampled_from([None, seconds(0), seconds(0.5)]), min_size=1, max_size=200))
def test_a_server_that_stays_busy_is_asked_ever_more_seldom(answers: list[timedelta | None]) -> None:
    """Bounds the log: each question costs two events."""
    story = Story()
    for retry_after in answers:
        assert story.turn_away(retry_after=retry_after) >= FIRST_PAUSE
    silent = [each for each in answers if each is None]
    if len(silent) == len(answers) > 7:
        assert story.busy.paused_until - story.now == LONGEST_GROWN_PAUSE
