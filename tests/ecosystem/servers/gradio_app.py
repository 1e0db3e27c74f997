"""A Gradio app with two functions: `/shout` answers, `/stream` streams. One call runs and one waits."""

from __future__ import annotations

import os
from collections.abc import Iterator

import gradio
from work import loud_words, set_up

set_up()


def shout(text: str, mode: str = "quick", progress=gradio.Progress()) -> str:  # noqa: B008
    if not isinstance(text, str):
        raise gradio.Error("`text` must be text")
    words = []
    for word in loud_words(text, mode):
        words.append(word)
        progress((len(words), len(text.split())), desc=f"said {word}")
    return " ".join(words)


def stream(text: str, mode: str = "quick") -> Iterator[str]:
    said = ""
    for word in loud_words(text, mode):
        said = f"{said}{word} "
        yield said


with gradio.Blocks(analytics_enabled=False) as app:
    text, mode, said = gradio.Textbox(), gradio.Textbox(value="quick"), gradio.Textbox()
    gradio.Button("shout").click(shout, [text, mode], said, api_name="shout")
    gradio.Button("stream").click(stream, [text, mode], said, api_name="stream")

if __name__ == "__main__":
    app.queue(max_size=1, default_concurrency_limit=1)
    app.launch(server_name="127.0.0.1", server_port=int(os.environ["PORT"]), quiet=True, show_error=True)
