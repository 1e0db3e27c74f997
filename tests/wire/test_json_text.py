"""JSON text from outside is made readable, and changed only where it was not."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.wire.json_text import FLAT, deeper_than, half_surrogate, mend, read_json

values = st.recursive(st.none() | st.integers(-(10**9), 10**9) | st.text(), st.lists)


@given(values, st.booleans())
def test_readable_text_is_not_changed(value: Any, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode()

    assert read_json(text) == (text, value, None)
    assert mend(text) == text


@given(st.lists(st.sampled_from(["\\ud83d", "\\udc00", "\\ud83d\\ude00", "\\\\", "\\\\ud83d", "a", '\\"', "\\n", "é"])))
def test_each_half_of_a_surrogate_pair_is_replaced_and_nothing_else(parts: list[str]) -> None:
    text = '"' + "".join(parts) + '"'
    # Python's own decoder takes halves; encoding by UTF-16 unit shows which of them are not in a pair.
    expected = json.loads(text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    found = read_json(text.encode()).content

    assert found == expected
    assert (half_surrogate(text.encode()) is not None) == ("\ufffd" in expected)


@given(st.recursive(st.floats() | st.sampled_from(["NaN", '"-Infinity', "\\\\", "é"]), st.lists), st.booleans())
def test_numbers_that_json_cannot_hold_are_null_and_texts_stay(value: Any, is_ascii: bool) -> None:
    def expected(found: Any) -> Any:
        if isinstance(found, list):
            return [expected(each) for each in found]
        return None if isinstance(found, float) and not math.isfinite(found) else found

    assert read_json(json.dumps(value, ensure_ascii=is_ascii).encode()).content == expected(value)


@pytest.mark.parametrize(
    "text", [b"[NaN, \x00]", b"[NaNa]", b"[--Infinity]", b'["NaN]', b'[NaN, "\\', b"[1NaN]", b"[-NaN1]", b"{NaN: 1}"]
)
def test_other_words_with_nan_stay_invalid(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_json(text)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    try:
        mended, content, _ = read_json(text)
    except msgspec.DecodeError:
        return
    assert msgspec.json.decode(mended) == content


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'\xef\xbb\xbf"\\ud83d"', "\ufffd"),
        (b'"caf\xe9"', "caf\ufffd"),
        (b'"\xed\xa0\xbd"', "\ufffd\ufffd\ufffd"),
        (b'{"\\udc00": "\\uD83D\\u0041"}', {"\ufffd": "\ufffdA"}),
    ],
)
def test_what_is_not_quite_unicode_is_read(text: bytes, content: Any) -> None:
    assert read_json(text).content == content


def levels(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, dict | list) + max(map(levels, children), default=0)


bracketed = st.text(st.sampled_from('[]{}"\\a'), max_size=6)
nested = st.recursive(
    st.none() | bracketed, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(bracketed, inner, max_size=4)
)


@given(nested, st.integers(0, 6), st.sampled_from([0, FLAT - 1, FLAT, 2 * FLAT]))
def test_the_depth_is_found_in_the_text_whatever_its_strings_hold(value: Any, limit: int, around: int) -> None:
    for number in range(around):
        value = [value] if number % 2 else {"]": value}
    text = json.dumps(value).encode()

    assert deeper_than(limit + around, text) == (levels(value) > limit + around)
