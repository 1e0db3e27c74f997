"""Answers in several parts: JSON becomes the data, other parts are files in it; what is malformed is a bad answer."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.backends.dialects.contents import Parts, read_content
from taskstream.backends.dialects.dialect import BadAnswer, Reply
from taskstream.backends.dialects.multipart import MOST_HEAD, MOST_PARTS, read_parts

PNG = b"\x89PNG\r\n--not a boundary\r\n\x00"


def body(*parts: tuple[str, bytes], boundary: str = "b") -> bytes:
    """Return a body; a part has headers, without the last line break, and content."""
    text = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary.encode(), head.encode(), each) for head, each in parts)
    return text + b"--%b--\r\n" % boundary.encode()


def content_of(content_type: str, text: bytes) -> Any:
    headers = {"Content-Type": content_type}
    found = read_content(Reply(status=200, headers=headers, body=text, elapsed_ms=1))
    assert isinstance(found, Parts)
    return msgspec.json.decode(found.data("/files")), [(file.media_type, file.content) for file in found.files]


JSON = ("Content-Type: application/json", b'{"label": "cat", "n": 1.0}')
PICTURE = ('Content-Type: image/png\r\nContent-Disposition: form-data; name="picture"; filename="a.png"', PNG)


@pytest.mark.parametrize("kind", ["mixed", "form-data", "related"])
def test_json_is_the_data_and_other_parts_are_files_in_it(kind: str) -> None:
    data, files = content_of(f'multipart/{kind}; boundary="b"', body(JSON, PICTURE))

    assert files == [("image/png", PNG)]
    assert data == {
        "label": "cat",
        "n": 1.0,
        "picture": {"$ref": "/files/0", "mediaType": "image/png", "bytes": len(PNG)},
    }


def test_parts_of_one_name_become_a_list_and_parts_without_a_name_are_files() -> None:
    bare = ("Content-Type: audio/wav", b"RIFF")
    data, files = content_of("multipart/mixed; boundary=b", body(PICTURE, PICTURE, bare, bare))

    assert [each["$ref"] for each in data["picture"]] == ["/files/0", "/files/1"]
    assert [each["$ref"] for each in data["files"]] == ["/files/2", "/files/3"]
    assert len(files) == 4


def test_fields_of_a_form_are_text_and_json_that_is_no_object_is_the_result() -> None:
    text = ('Content-Disposition: form-data; name="seed"', b"42")
    data, files = content_of("multipart/form-data; boundary=b", body(text, ("Content-Type: application/json", b"[1]")))

    assert (data, files) == ({"seed": "42", "result": [1]}, [])


def test_parts_within_a_part_are_a_file() -> None:
    inner = body(("Content-Type: text/plain", b"x"), boundary="inner")
    data, files = content_of(
        "multipart/mixed; boundary=b", body(("Content-Type: multipart/mixed; boundary=inner", inner))
    )

    assert files == [("multipart/mixed", inner)]
    assert data["files"]["bytes"] == len(inner)


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("multipart/mixed", body(JSON)),
        ("multipart/mixed; boundary=b", b""),
        ("multipart/mixed; boundary=b", b"no boundary"),
        ("multipart/mixed; boundary=b", b"--b\r\nContent-Type: image/png\r\n\r\nPNG"),
        ("multipart/mixed; boundary=b", b"--bb\r\n\r\nPNG\r\n--b--"),
        ("multipart/mixed; boundary=b", b"--b\r\nno end of the headers\r\n--b--"),
        ("multipart/mixed; boundary=b", body((f"X: {'x' * MOST_HEAD}", b"1"))),
        ("multipart/mixed; boundary=b", body(*[PICTURE] * (MOST_PARTS + 1))),
    ],
)
def test_what_is_malformed_or_too_much_is_a_bad_answer(content_type: str, text: bytes) -> None:
    with pytest.raises(BadAnswer):
        read_parts(content_type, text)


@pytest.mark.parametrize("text", [b"{", b'{"a": NaN}', b"[" * 100_000])
def test_a_part_that_is_no_json_is_a_bad_answer(text: bytes) -> None:
    with pytest.raises(BadAnswer):
        content_of("multipart/mixed; boundary=b", body(("Content-Type: application/json", text)))


@given(st.lists(st.binary(max_size=200).filter(lambda each: b"--boundary" not in each), min_size=1, max_size=5))
def test_any_bytes_of_parts_come_back_as_they_were(contents: list[bytes]) -> None:
    text = body(*[("Content-Type: application/octet-stream", each) for each in contents], boundary="boundary")

    assert [part.content for part in read_parts("multipart/mixed; boundary=boundary", text)] == contents


@given(st.binary(max_size=300))
def test_no_bytes_at_all_make_more_than_a_bad_answer(text: bytes) -> None:
    for whole in (text, b"--b\r\n" + text, text.replace(b"\x00", b"\r\n--b\r\n")):
        with contextlib.suppress(BadAnswer):
            read_parts("multipart/mixed; boundary=b", whole)
