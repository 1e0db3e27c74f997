"""References to files in payloads: found with their places, refused if malformed, replaced to the byte."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskstream.errors import FileMissing, InvalidInput
from taskstream.files.references import MOST_FILES, place_of, referenced, replaced

ONE = "01HF7YAT31JZ8Q4N9P2R5S6T7V~alice"
TWO = "01HF7YAT31JZ8Q4N9P2R5S6T7W~alice"


def found(text: str, owner: str = "alice") -> tuple[str, ...]:
    return referenced(msgspec.json.decode(text), text.encode(), owner, "$.payload")


def test_references_are_found_anywhere_each_file_once() -> None:
    text = f'{{"a": {{"$file": "{ONE}"}}, "b": [1, {{"c": {{ "$file" :\n"{TWO}" }}}}, {{"$file":"{ONE}"}}]}}'

    assert found(text) == (ONE, TWO)
    assert place_of(msgspec.json.decode(text), TWO, "$.payload") == "$.payload.b[1].c.$file"
    assert found(f'{{"$file": "{ONE}"}}') == (ONE,)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"a": "$file"}',
        f'{{"a": "{{\\"$file\\": \\"{ONE}\\"}}"}}',
        f'["{{", "$file", "{ONE}"]',
        '{"file": "x", "$files": 1}',
        '{"\\u0024file": "an escaped name is a field like any other"}',
    ],
)
def test_what_is_no_reference_is_left_as_it_is(text: str) -> None:
    assert found(text) == ()
    assert replaced(text.encode(), lambda _: "never") == text.encode()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"a": {"$file": 1}}', "$.payload.a.$file"),
        ('{"a": {"$file": "no id"}}', "$.payload.a.$file"),
        (f'{{"a": {{"$file": "{ONE}", "name": "x"}}}}', "$.payload.a"),
        (f'{{"a": {{"$file": "{ONE}"}}, "b": {{"\\u0024file": "{TWO}"}}}}', "$.payload"),
        (f'{{"a": {{"$file": "{ONE.replace("0", chr(92) + "u0030", 1)}"}}}}', "$.payload"),
    ],
)
def test_what_only_looks_like_a_reference_is_refused_with_its_place(text: str, path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        found(text)

    assert refused.value.path == path


def test_a_file_of_another_owner_is_missing() -> None:
    with pytest.raises(FileMissing) as missing:
        found(f'{{"a": {{"$file": "{ONE}"}}}}', owner="bob")

    assert (missing.value.file_id, missing.value.path) == (ONE, "$.payload.a.$file")


def test_a_reference_that_a_later_key_hides_is_refused_whatever_else_is_escaped() -> None:
    hidden = ONE.replace("~alice", "~bob")
    text = f'{{"a": {{"$file": "{hidden}"}}, "a": 1, "b": {{"\\u0024file": "{ONE}"}}, "c": {{"$file": "{ONE}"}}}}'

    with pytest.raises(InvalidInput, match="without escapes"):
        found(text)


def test_a_payload_refers_to_a_bounded_number_of_files() -> None:
    ids = [f"{number:026d}~alice" for number in range(MOST_FILES + 1)]

    assert len(found(msgspec.json.encode([{"$file": each} for each in ids[1:]]).decode())) == MOST_FILES
    with pytest.raises(InvalidInput, match="100 files at most"):
        found(msgspec.json.encode([{"$file": each} for each in ids]).decode())


@pytest.mark.parametrize(
    "rest", ['"n": 1.0', '"n": 12345678901234567890', '"n":  [1e3 , -0.0]', '"t": "\\u00e9 \\/ {\\"$file\\"}"']
)
def test_all_of_a_payload_but_its_references_stays_to_the_byte(rest: str) -> None:
    text = f'{{ {rest}, "a": {{"$file": "{ONE}"}} , "b": 1}}'.encode()

    urls: list[str] = []

    def url_of(file_id: str) -> str:
        urls.append(file_id)
        return 'https://x/?a="1"'

    assert replaced(text, url_of) == f'{{ {rest}, "a": "https://x/?a=\\"1\\"" , "b": 1}}'.encode()
    assert urls == [ONE]
    decoded: Any = msgspec.json.decode(replaced(text, url_of))
    assert decoded["a"] == 'https://x/?a="1"'
