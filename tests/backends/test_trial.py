"""A trial shows a bounded number of requests, however many its dialect makes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskstream.backends import exchanges
from taskstream.backends.dialects.dialect import Completed, Conversation, Next, Reply, Request, Turn, Update
from taskstream.backends.egress import EgressPolicy
from taskstream.backends.trial import MOST_SHOWN, Trial
from taskstream.clock import utc_now
from taskstream.events.server import ServerRegistered

from .test_conformance import call_of
from .wire_fixtures import Wire
from .wire_server import WireServer


class PollsOften(Conversation):
    """Polls a number of times."""

    def __init__(self, url: str, times: int) -> None:
        self.url = url
        self.left = times

    def begin(self) -> Request:
        return Request(method="POST", url=self.url)

    def read(self, reply: Reply) -> Turn:
        self.left -= 1
        if self.left == 0:
            return Completed(b"{}")
        return Next(request=Request(method="GET", url=self.url), after=timedelta(0))


async def test_the_first_requests_are_shown_and_the_others_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "SHORTEST_PAUSE", 0.0)

    async def on_update(_: Update) -> None:
        raise AssertionError

    async with WireServer() as server, EgressPolicy(allow_private=True).session() as session:
        server.answer = Wire(200, b"{}")
        settings = ServerRegistered(server_id="s1", name="", provider="", predict_url=server.url)
        conversation = PollsOften(server.url, MOST_SHOWN + 5)
        trial = Trial(session, conversation, settings, call_of(), on_update, 1_000, utc_now)

        answer = await trial.run()

    assert isinstance(answer, Completed)
    assert (len(trial.shown), trial.left_out) == (MOST_SHOWN, 5)
    assert all(shown.answer is not None and trial.text_of(shown.answer.body) == "{}" for shown in trial.shown)
