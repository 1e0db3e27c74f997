"""Randomness of ids: nobody else's seed and no fork repeats them."""

from __future__ import annotations

import os
import random

from taskstream.clock import event_id, jitter, random_bits, unique_id


def drawn() -> list[str]:
    return [event_id(), unique_id(), str(random_bits(80)), str(jitter())]


def test_ids_differ_though_somebody_seeds_the_random_module() -> None:
    state = random.getstate()
    random.seed(7)
    first = drawn()
    random.seed(7)
    second = drawn()
    random.setstate(state)

    assert not set(first) & set(second)


def test_processes_that_were_forked_draw_other_ids() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, " ".join(drawn()).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    theirs = os.read(reading, 1024).decode().split(" ")
    os.close(reading)

    assert len(theirs) == 4
    assert not set(theirs) & set(drawn())
