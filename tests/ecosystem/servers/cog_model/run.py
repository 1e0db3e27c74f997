"""Cog models: `Shouter` answers, `Streamer` streams words, `Painter` returns a file."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path as Folder

from cog import BaseRunner, ConcatenateIterator, Input, Path, streaming

sys.path.insert(0, str(Folder(__file__).parents[1]))
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


class Painter(BaseRunner):
    def run(self, text: str = Input(description="What to write")) -> Path:
        file = Folder(tempfile.mkdtemp()) / "painted.txt"
        file.write_text(text.upper())
        return Path(file)
