"""The open requests of a server's pullers, as its worker knows them."""

from __future__ import annotations

from typing import Any

import pytest

from taskstream.scheduling import asks as asks_module
from taskstream.scheduling.asks import AskMessage, OpenAsk, OpenAsks

from ..deciders.support import registered


def message(name: str, wants: int = 1, **more: Any) -> AskMessage:
    return AskMessage(id=name, wants=wants, lives_seconds=6.0, **more)


def opened(*messages: AskMessage) -> OpenAsks:
    asks = OpenAsks()
    for each in messages:
        assert asks.put(each, f"inbox.{each.id}", 0.0)
    return asks


def reserved(asks: OpenAsks, task_type: str = "clip", **require: str) -> OpenAsk:
    ask = asks.reserve(task_type, require, 1.0)
    assert ask is not None
    return ask


def test_the_oldest_request_that_fits_is_served_first() -> None:
    asks = opened(message("a", types=("resize",)), message("b"), message("c"))

    assert [reserved(asks).id, reserved(asks).id] == ["b", "c"]
    assert asks.reserve("clip", {}, 1.0) is None
    assert reserved(asks, "resize").id == "a"


def test_a_request_gets_as_many_attempts_as_it_wants_and_is_then_forgotten() -> None:
    asks = opened(message("a", wants=2))
    first, second = reserved(asks), reserved(asks)

    assert asks.wanted == 0
    asks.served(first)
    assert len(asks) == 1
    asks.served(second)
    assert len(asks) == 0


def test_an_attempt_that_was_not_started_leaves_its_request_open() -> None:
    asks = opened(message("a"))

    asks.give_back(reserved(asks))

    assert (asks.wanted, reserved(asks).id) == (1, "a")


@pytest.mark.parametrize("end", ["withdrawn", "closed", "silent"])
def test_a_request_that_is_over_gets_nothing_not_even_what_comes_back(end: str) -> None:
    asks = opened(message("a", wants=3))
    ask, other = reserved(asks), reserved(asks)
    match end:
        case "withdrawn":
            assert asks.put(message("a", wants=0), "", 1.0)
        case "closed":
            asks.close(other)
        case "silent":
            assert asks.forget_silent(6.0)

    asks.give_back(ask)

    assert (len(asks), asks.wanted, asks.reserve("clip", {}, 1.0)) == (0, 0, None)


def test_a_request_lives_as_long_as_it_is_heard_of() -> None:
    asks = opened(message("a"))
    asks.put(message("a"), "inbox.a", 5.0)

    assert not asks.forget_silent(10.9)
    assert asks.reserve("clip", {}, 11.0) is None
    assert asks.forget_silent(11.0)


def test_what_is_on_its_way_is_not_counted_twice() -> None:
    asks = opened(message("a", wants=2))
    ask = reserved(asks)

    assert not asks.put(message("a", wants=2), "inbox.a", 1.0)
    assert asks.wanted == 1
    asks.served(ask)
    assert not asks.put(message("a", wants=1), "inbox.a", 2.0)
    assert asks.put(message("a", wants=2), "inbox.a", 3.0)
    assert asks.wanted == 2


def test_a_request_without_a_label_gets_no_task_that_requires_it() -> None:
    asks = opened(message("a", labels={"site": "b"}))

    assert asks.fit("clip", {"site": "b"})
    assert not asks.fit("clip", {"gpu": "a100"})
    assert asks.reserve("clip", {"gpu": "a100"}, 1.0) is None
    assert opened(message("b")).fit("clip", {"gpu": "a100"})


def test_the_types_asked_for_are_those_of_the_server_that_some_request_takes() -> None:
    server = registered("s1", types=("clip", "resize"))

    assert opened(message("a", types=("resize", "other"))).types(server) == ("resize",)
    assert opened(message("a", types=("resize",)), message("b")).types(server) == ("clip", "resize")
    assert opened(message("a", types=("resize",))).types(registered("s2", types=())) == ("resize",)


def test_no_more_requests_are_known_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asks_module, "MOST_ASKS", 1)
    asks = opened(message("a"))

    assert not asks.put(message("b"), "inbox.b", 0.0)
    assert asks.report(7.0).asks == 1
    assert asks.report(7.0).asked_seconds_ago == 7.0
