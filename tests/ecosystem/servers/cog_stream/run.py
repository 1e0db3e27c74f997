"""A Cog model that streams words. `.cog/openapi_schema.json` is what `cog build` writes of it."""

from __future__ import annotations

import sys
from pathlib import Path

from cog import BaseRunner, ConcatenateIterator, Input, streaming

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import loud_words, set_up


class Streamer(BaseRunner):
    def setup(self) -> None:
        set_up()

    @streaming
    def run(
        self,
        text: str = Input(description="What to say"),
        mode: str = Input(default="quick", choices=["quick", "slow", "fail"]),
    ) -> ConcatenateIterator[str]:
        for word in loud_words(text, mode):
            print(f"said {word}")
            yield word + " "
