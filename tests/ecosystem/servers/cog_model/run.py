"""A Cog model that answers. `.cog/openapi_schema.json` is what `cog build` writes of it."""

from __future__ import annotations

import sys
from pathlib import Path

from cog import BaseRunner, Input

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import loud_words, set_up


class Shouter(BaseRunner):
    def setup(self) -> None:
        print("loading the weights")
        set_up()

    def run(
        self,
        text: str = Input(description="What to say"),
        mode: str = Input(default="quick", choices=["quick", "slow", "fail"]),
    ) -> str:
        words = []
        for word in loud_words(text, mode):
            words.append(word)
            print(f"said {word}")
            self.record_metric("words", len(words))
        return " ".join(words)
