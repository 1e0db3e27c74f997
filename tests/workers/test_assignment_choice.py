"""Which worker speaks for which server: all agree, and little changes hands."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.workers.fleet.assignment import preferred

SERVERS = [f"server-{number}" for number in range(2_000)]
WORKERS = [f"worker-{number}" for number in range(5)]

names = st.text("abc=-_019", min_size=1, max_size=20)
crews = st.lists(names, min_size=1, max_size=6, unique=True)


@given(names, crews, st.randoms())
def test_all_agree_whatever_the_order_in_which_they_see_one_another(
    server: str, workers: list[str], random: Random
) -> None:
    shuffled = workers.copy()
    random.shuffle(shuffled)

    assert preferred(server, shuffled) == preferred(server, workers)
    assert preferred(server, workers) in workers


def test_the_choice_is_the_same_in_every_process_and_version() -> None:
    assert [preferred(server, WORKERS) for server in SERVERS[:4]] == ["worker-3", "worker-4", "worker-0", "worker-2"]


@given(names, crews, names)
def test_a_worker_that_comes_takes_servers_for_itself_only(server: str, workers: list[str], new: str) -> None:
    before, after = preferred(server, workers), preferred(server, [*workers, new])

    assert after in (before, new)


@given(names, crews, st.data())
def test_a_worker_that_goes_leaves_the_others_what_they_have(
    server: str, workers: list[str], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(workers))
    before = preferred(server, workers)
    left = [worker for worker in workers if worker != gone]

    if left and before != gone:
        assert preferred(server, left) == before


@pytest.mark.parametrize("count", [2, 3, 5])
def test_servers_are_shared_out_about_evenly(count: int) -> None:
    assignment = Counter(preferred(server, WORKERS[:count]) for server in SERVERS)

    fair = len(SERVERS) / count
    assert len(assignment) == count
    assert all(0.8 * fair < share < 1.2 * fair for share in assignment.values()), assignment


def test_the_servers_of_a_worker_that_goes_are_shared_out_among_those_left() -> None:
    orphans = [server for server in SERVERS if preferred(server, WORKERS) == WORKERS[0]]

    heirs = Counter(preferred(server, WORKERS[1:]) for server in orphans)

    assert set(heirs) == set(WORKERS[1:])
    assert max(heirs.values()) < 2 * min(heirs.values()), heirs
