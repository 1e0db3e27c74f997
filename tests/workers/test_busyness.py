"""What is assumed about a busy server: how long it is left alone, and how many tasks it is sent."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

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


# Numbers, and whole states


def refused(busy: Busyness, owner: str = A, *, now: float = 100.0, running: int = 5, **more: Any) -> bool:
    """Begin a call and have it refused at once."""
    begun = busy.begin(owner, running, now)
    retry_after = seconds(more["asked"]) if "asked" in more else None
    return busy.refuse(owner, begun, running, retry_after, now, NOW, more.get("jitter", 0.0))


def test_the_numbers_are_those_of_the_documents() -> None:
    assert (FIRST_PAUSE, LONGEST_GROWN_PAUSE, LONGEST_PAUSE, UNCONFIRMED_PAUSE) == (0.25, 15.0, 300.0, 1.0)
    assert (OTHERS_FIRST, ACTIVE_SECONDS, TAKEN_AFTER) == (0.1, 60.0, 1.0)


def test_a_server_of_which_nothing_is_known_is_not_busy() -> None:
    busy = Busyness()

    assert (busy.since, busy.paused_until, busy.limit, busy.round, busy.taken_after) == (None, 0.0, None, 0, 1.0)
    assert (busy.probes_at, busy.refuses_owners, busy.rests_until(A)) == (0.0, False, 0.0)


def test_a_refusal_sets_pause_limit_round_and_rest() -> None:
    busy = Busyness()

    assert refused(busy)

    assert (busy.since, busy.paused_until, busy.limit, busy.round) == (NOW, 100.25, 5, 1)
    assert busy.probes_at == 101.25
    assert busy.refuses_owners
    assert busy.rests_until(A) == pytest.approx(100.35)
    assert busy.rests_until(B) == 0.0


def test_a_later_refusal_keeps_the_first_instant_and_the_smaller_limit() -> None:
    busy = Busyness()
    for number, running in enumerate((5, 3, 8)):
        refused(busy, now=100.0 + 10 * number, running=running)

    assert (busy.since, busy.limit, busy.round, busy.paused_until) == (NOW, 3, 3, 121.0)


def test_a_pause_is_shorter_by_up_to_a_quarter() -> None:
    busy = Busyness()
    refused(busy, jitter=0.5)
    assert busy.paused_until == 100.0 + 0.25 * 0.875

    own = Busyness()
    own.rest(100.0, 0.5)
    assert own.paused_until == 100.0 + 0.25 * 0.875


@pytest.mark.parametrize("ends", ["taken", "refused"])
def test_requests_that_cannot_be_sent_pause_ever_longer_until_one_is(ends: str) -> None:
    busy = Busyness()
    pauses = []
    for number in range(4):
        busy.rest(100.0 * number, 0.0)
        pauses.append(busy.paused_until - 100.0 * number)
    assert pauses == [0.25, 0.5, 1.0, 2.0]
    assert (busy.since, busy.limit, busy.round) == (None, None, 0)

    if ends == "taken":
        busy.take(A, busy.begin(A, 0, 1_000.0), 1_000.0, 10)
    else:
        refused(busy, now=1_000.0, running=0)
    busy.rest(2_000.0, 0.0)
    assert busy.paused_until == 2_000.25


def test_a_pause_is_never_shortened() -> None:
    busy = Busyness()
    refused(busy, asked=200.0)
    busy.rest(101.0, 0.0)
    refused(busy, now=102.0)

    assert busy.paused_until == 300.0


@pytest.mark.parametrize(("after", "taken_after"), [(0.5, 1.0), (1.0, 1.0), (1.5, 3.0), (20.0, 40.0), (50.0, 60.0)])
def test_a_server_that_refuses_late_is_given_twice_as_long(after: float, taken_after: float) -> None:
    busy = Busyness()
    begun = busy.begin(A, 5, 100.0)

    busy.refuse(A, begun, 5, None, 100.0 + after, NOW, 0.0)

    assert busy.taken_after == taken_after


def test_what_another_worker_assumed_is_taken_over() -> None:
    busy = Busyness.restored(NOW, 4, 130.0, 100.0)
    assert (busy.since, busy.limit, busy.paused_until, busy.probes_at) == (NOW, 4, 130.0, 130.0)
    assert Busyness.restored(NOW, 4, 9_999.0, 100.0).paused_until == 400.0
    assert Busyness.restored(NOW, None, 0.0, 100.0).probes_at == 101.0

    busy.probe(129.9, 4, 10)
    assert busy.limit == 4
    busy.probe(130.0, 3, 10)  # the limit is not used up
    assert busy.limit == 4
    busy.probe(130.0, 4, 10)
    assert (busy.limit, busy.probes_at) == (5, 131.0)
    busy.probe(140.0, 5, 10)  # one more than was too many is out
    assert busy.limit == 5


def test_what_another_worker_found_too_many_is_grown_past_only_by_a_probe() -> None:
    busy = Busyness.restored(NOW, 4, 0.0, 100.0)
    begun = busy.begin(A, 3, 100.5)

    busy.take(A, begun, 100.5, 10)
    assert busy.limit == 4
    busy.take(A, busy.begin(A, 3, 101.0), 101.0, 10)
    assert busy.limit == 5


def test_each_refusal_of_as_many_doubles_the_time_to_the_next_probe() -> None:
    busy = Busyness()
    holds = []
    for number in range(9):
        refused(busy, now=1_000.0 * number, running=5)
        holds.append(busy.probes_at - busy.paused_until)
    assert holds == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]

    refused(busy, now=10_000.0, running=4)
    assert busy.probes_at - busy.paused_until == 1.0


def test_a_server_that_was_refused_while_it_ran_nothing_is_probed_after_a_second() -> None:
    busy = Busyness()
    for number in range(3):
        refused(busy, now=1_000.0 * number, running=0)

    assert (busy.limit, busy.probes_at - busy.paused_until) == (1, 1.0)
    refused(busy, now=5_000.0, running=1)
    assert busy.probes_at - busy.paused_until == 1.0
    refused(busy, now=6_000.0, running=1)
    assert busy.probes_at - busy.paused_until == 2.0


def test_a_task_taken_with_as_many_running_shows_that_they_were_not_too_many() -> None:
    busy = Busyness()
    refused(busy, running=5)
    begun = busy.begin(B, 5, 101.0)

    busy.take(B, begun, 101.0, 10)
    assert (busy.since, busy.limit) == (None, 6)
    busy.take(B, busy.begin(B, 2, 101.0), 101.0, 10)  # nothing is known to be too many: it grows with each
    assert busy.limit == 7
    refused(busy, B, now=200.0, running=9)
    assert busy.paused_until == 200.25


def test_a_call_from_before_the_last_refusal_changes_no_limit() -> None:
    busy = Busyness()
    early = busy.begin(B, 5, 99.0)
    refused(busy, running=5)

    busy.take(B, early, 101.0, 10)

    assert (busy.since, busy.limit) == (NOW, 5)


@pytest.mark.parametrize(("most", "limit"), [(10, 4), (5, 4), (4, None), (3, None)])
def test_a_limit_that_has_grown_to_the_registered_one_is_none(most: int, limit: int | None) -> None:
    busy = Busyness.restored(NOW, 3, 0.0, 100.0)

    busy.probe(200.0, 3, most)

    assert busy.limit == limit


def own_refusal(asked: float | None = None) -> Busyness:
    """Return a server that took Bob's tasks where it refused Alice's, and has refused her once more."""
    busy = Busyness()
    refused(busy, running=5)
    busy.take(B, busy.begin(B, 5, 101.0), 101.0, 10)
    assert not refused(busy, now=102.0, **({} if asked is None else {"asked": asked}))
    return busy


def test_an_owners_own_refusal_rests_the_owner_and_leaves_the_server_as_it_was() -> None:
    busy = own_refusal()
    assert (busy.since, busy.limit, busy.paused_until, busy.round) == (None, 6, 100.25, 1)
    assert busy.rests_until(A) == 102.25

    rests = []
    for number in range(1, 8):
        assert not refused(busy, now=102.0 + 20 * number)
        rests.append(busy.rests_until(A) - (102.0 + 20 * number))
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


def test_an_owner_rests_for_as_long_as_the_server_asks() -> None:
    assert own_refusal(asked=40.0).rests_until(A) == 142.0


@pytest.mark.parametrize(("later", "is_own"), [(59.9, True), (60.0, False)])
def test_a_refusal_is_known_for_a_minute_after_the_rest(later: float, is_own: bool) -> None:
    busy = own_refusal()

    assert refused(busy, now=102.25 + later) is not is_own


def test_an_owner_whose_refusals_are_its_own_is_sent_one_task_at_a_time() -> None:
    busy = own_refusal()

    busy.begin(A, 0, 103.0)
    assert busy.rests_until(A) == 104.0
    busy.begin(B, 0, 103.0)
    assert busy.rests_until(B) == 0.0


def test_each_task_taken_makes_up_for_one_refusal_of_the_owner() -> None:
    busy = own_refusal()
    assert not refused(busy, now=110.0)

    busy.take(A, busy.begin(A, 1, 111.0), 111.0, 10)
    assert (busy.rests_until(A), busy.refuses_owners) == (0.0, True)
    busy.take(A, busy.begin(A, 1, 112.0), 112.0, 10)
    assert not busy.refuses_owners


@pytest.mark.parametrize(
    ("owner", "running", "at", "is_own"),
    [(B, 5, 100.0, True), (B, 6, 101.0, True), (B, 4, 101.0, False), (B, 5, 99.9, False), (A, 5, 101.0, False)],
    ids=["as many", "more", "fewer", "earlier", "its own"],
)
def test_a_refusal_is_the_owners_own_by_another_owners_task_taken_since(
    owner: str, running: int, at: float, is_own: bool
) -> None:
    busy = Busyness()
    early = busy.begin(owner, running, at)
    refused(busy, running=5)

    busy.take(owner, early, 101.0, 10)

    assert refused(busy, now=102.0) is not is_own


@pytest.mark.parametrize(
    ("served", "refused_too", "pause"),
    [
        ([], [], 40.0),
        ([(A, 100.0)], [], 40.0),
        ([(B, 100.0)], [], 1.0),
        ([(B, 40.1)], [], 1.0),
        ([(B, 40.0)], [], 40.0),
        ([(B, 100.0)], [B], 40.0),
        ([(B, 90.0), (A, 95.0)], [], 1.0),
        ([(B, 90.0), ("carol", 92.0), (A, 95.0), ("carol", 96.0)], [], 1.0),
    ],
    ids=["nobody", "herself", "bob", "bob lately", "bob long ago", "confirmed", "both", "three"],
)
def test_a_server_that_serves_others_is_paused_for_a_second_at_most(
    served: list[tuple[str, float]], refused_too: list[str], pause: float
) -> None:
    busy = Busyness()
    for owner, at in served:
        busy.take(owner, busy.begin(owner, 0, at), at, 10)
    for owner in refused_too:
        refused(busy, owner)

    refused(busy, asked=40.0)

    assert busy.paused_until == 100.0 + pause


def test_the_last_two_owners_served_are_remembered_and_a_thousand_refused() -> None:
    busy = Busyness()
    for number in range(4):
        busy.take(f"owner{number}", busy.begin(f"owner{number}", 0, 100.0), 100.0, 10)
    assert list(busy._served) == ["owner2", "owner3"]
    busy.take("owner2", busy.begin("owner2", 0, 101.0), 101.0, 10)
    assert busy._served == {"owner3": 100.0, "owner2": 101.0}

    for number in range(1_000):
        refused(busy, f"owner{number}", now=200.0)
    assert len(busy._refused) == 1_000
    refused(busy, "one more", now=200.0)
    assert list(busy._refused) == ["one more"]
