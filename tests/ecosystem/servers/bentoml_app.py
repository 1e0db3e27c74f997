"""A BentoML service: `/shout` answers, `/stream` streams, `/paint` is a task (submit, status, get).

The limit counts every request, also polls of a task, and a task until it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator

import bentoml
from work import loud_words, set_up


@bentoml.service(workers=1, threads=4, traffic={"timeout": 120, "max_concurrency": int(os.environ["MOST_CALLS"])})
class Shouter:
    def __init__(self) -> None:
        set_up()

    @bentoml.api
    def shout(self, text: str, mode: str = "quick") -> dict[str, str]:
        return {"shouted": " ".join(loud_words(text, mode))}

    @bentoml.api
    def stream(self, text: str, mode: str = "quick") -> Iterator[str]:
        for word in loud_words(text, mode):
            yield word + " "

    @bentoml.task
    def paint(self, text: str, mode: str = "quick") -> dict[str, str]:
        return {"shouted": " ".join(loud_words(text, mode))}
