"""Parts of a stream come out of an event as they went in, however they were summed up."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from taskstream.events.stream_parts import StreamParts, joined, one_part, without_first

texts = st.lists(st.text(alphabet='ab{}"\\é😀', max_size=8), min_size=1, max_size=12)


def summed_up(parts: list[str], groups: list[int]) -> StreamParts:
    """Return the parts, joined one by one in groups, and the groups with each other."""
    found: StreamParts | None = None
    group: StreamParts | None = None
    for place, text in enumerate(parts):
        group = joined(group, one_part(place, text))
        if place in groups:
            found, group = joined(found, group), None
    whole = joined(found, group)
    assert whole is not None
    return whole


@given(parts=texts, groups=st.lists(st.integers(0, 11), max_size=5))
def test_summed_up_parts_are_the_same_texts_in_the_same_order(parts: list[str], groups: list[int]) -> None:
    found = summed_up(parts, groups)

    assert list(found.texts()) == parts
    assert (found.first, found.following) == (0, len(parts))


@given(parts=texts, count=st.integers(0, 13))
def test_what_was_received_already_is_left_out(parts: list[str], count: int) -> None:
    rest = without_first(summed_up(parts, []), count)

    assert (list(rest.texts()) if rest else []) == parts[count:]
    assert rest is None or rest.first == count


def test_what_all_parts_have_in_common_is_held_once() -> None:
    def chunk(text: str) -> str:
        choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        return json.dumps({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]})

    words = [f" word{number}" for number in range(100)]
    found = summed_up([chunk(word) for word in words], [])

    assert found.middles == tuple(word.removeprefix(" word") for word in words)
    assert found.characters < sum(map(len, words)) + 200
