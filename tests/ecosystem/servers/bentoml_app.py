"""A BentoML service: `/shout` answers, `/stream` streams, `/paint` is a task (submit, status, get). One call at a time."""

from __future__ import annotations

from collections.abc import Iterator

import bentoml
from work import loud_words, set_up


@bentoml.service(workers=1, traffic={"timeout": 120, "max_concurrency": 1})
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
