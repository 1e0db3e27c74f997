"""A successful answer without JSON is a result: text, a file, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.backends.dialects.dialect import Accepted, Completed, Failed, File

from .test_taskstream_answers import answer

PNG = b"\x89PNG\r\n\x1a\n\x00\xff"
UNICODE = "Grüße, 你好 🜚"

DATA: list[tuple[str, bytes, Any]] = [
    ("text/plain", b"It was a dark night.\n", "It was a dark night.\n"),
    ("text/plain; charset=utf-8", UNICODE.encode(), UNICODE),
    ("text/plain; charset=UTF-16", UNICODE.encode("utf-16"), UNICODE),
    ("text/plain; charset=iso-8859-1", b"Gr\xfc\xdfe", "Grüße"),
    ('text/plain; charset="windows-1252"', b"\x80 5", "€ 5"),
    ("text/plain; charset=shift_jis", "夜".encode("shift_jis"), "夜"),
    ("text/plain; charset=idna", b"xn--caf-dma", "xn--caf-dma"),
    ("text/plain; charset=zip", b"x", "x"),
    ("text/plain; charset=nonsense", "ü".encode(), "ü"),
    ("text/plain", b"Gr\xfc\xdfe", "Gr\ufffd\ufffde"),
    ("text/plain", b"\xef\xbb\xbfIt was", "It was"),
    ("text/plain", b" ", " "),
    ("text/plain", b"42", "42"),
    ("text/plain", b'"quoted"', '"quoted"'),
    ("text/plain", b"[a link](x)", "[a link](x)"),
    ("text/plain", b'{"broken": ', '{"broken": '),
    ("text/markdown", b"# It was", "# It was"),
    ("text/html", b"<html>", "<html>"),
    ("TEXT/CSV", b"a,b", "a,b"),
    # JSON, whatever its type: Flask says text/html, aiohttp application/octet-stream
    ("text/html; charset=utf-8", b'{"a": 1}', {"a": 1}),
    ("text/plain", b" [1, 2]\n", [1, 2]),
    ("application/octet-stream", b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
    ("application/vnd.api+json", b"7", 7),
    ("text/json", b'"x"', "x"),
    ("application/json; charset=utf-16", json.dumps({"a": UNICODE}).encode("utf-16"), {"a": UNICODE}),
    ("application/json; charset=latin1", b'{"a": "\xfc"}', {"a": "ü"}),
    # no type
    ("", b"42", 42),
    ("", b"null", None),
    ("", b'"x"', "x"),
    ("", b"It was", "It was"),
    ("", b"true story", "true story"),
    # nothing
    ("", b"", None),
    ("text/plain", b"", None),
    ("application/json", b"", None),
    ("image/png", b"", None),
    ("text/plain", b"\xef\xbb\xbf", None),
]


@pytest.mark.parametrize(("media_type", "body", "data"), DATA)
def test_text_is_a_string_and_nothing_is_null(media_type: str, body: bytes, data: Any) -> None:
    for status in (200, 201, 204):
        found = answer(status, body, media_type=media_type)

        assert isinstance(found, Completed)
        assert json.loads(found.result)["data"] == data
        assert json.loads(found.result)["metadata"]["status"] == "FINISHED"
        assert found.file is None


FILES: list[tuple[str, bytes, str]] = [
    ("image/png", PNG, "image/png"),
    ("IMAGE/PNG; x=y", PNG, "image/png"),
    ("image/svg+xml", b"<svg/>", "image/svg+xml"),
    ("audio/wav", b'{"not": "read as JSON"}', "audio/wav"),
    ("video/mp4", b"[]", "video/mp4"),
    ("application/pdf", b"%PDF-1.7", "application/pdf"),
    ("application/octet-stream", b"It was", "application/octet-stream"),
    ("application/zip", b"{not JSON", "application/zip"),
    ("multipart/mixed; boundary=x", b"--x--", "multipart/mixed"),
    ("", b"\xff\x00", "application/octet-stream"),
    ("", b"nul\x00", "application/octet-stream"),
    ("nonsense", b"\xff", "application/octet-stream"),
    ("a/b/c", b"\xff", "application/octet-stream"),
    ("a b/c", b"\xff", "application/octet-stream"),
    ("image/" + "x" * 65, PNG, "application/octet-stream"),
    ("image/p\u00f1g", PNG, "application/octet-stream"),
]


@pytest.mark.parametrize(("media_type", "body", "kept"), FILES, ids=lambda it: str(it)[:30])
@pytest.mark.parametrize("reports", [False, True], ids=["synchronous", "reporting"])
def test_other_bytes_are_a_file_with_a_valid_media_type(media_type: str, body: bytes, kept: str, reports: bool) -> None:
    found = answer(200, body, media_type=media_type, reports=reports)

    assert isinstance(found, Completed)
    assert found.file == File(kept, body)
    assert json.loads(found.result)["data"] == {
        "$ref": "/api/task/t1/result/file",
        "mediaType": kept,
        "bytes": len(body),
    }


@pytest.mark.parametrize(
    ("media_type", "body", "called"),
    [
        ("text/plain", b"It was", "text/plain"),
        ("image/png", PNG, "image/png"),
        ("", b"It was", "no JSON"),
        ("", b"", "nothing"),
        ("application/json", b"", "nothing"),
    ],
)
def test_a_type_that_accepts_json_refuses_anything_else(media_type: str, body: bytes, called: str) -> None:
    for status in (200, 204):
        assert answer(status, body, media_type=media_type, accepts="json") == Failed(
            kind="bad_answer",
            error=f"the server answered {status}, and the answer is {called}; the task's type accepts JSON only",
        )
    for json_type in ("application/json", "text/html", ""):
        assert isinstance(answer(200, {"a": 1}, media_type=json_type, accepts="json"), Completed)


@pytest.mark.parametrize(("media_type", "body"), [("text/plain", b"ok"), ("text/html", b"<p>queued"), ("", b"")])
def test_a_server_that_reports_later_accepts_by_any_word(media_type: str, body: bytes) -> None:
    for status in (200, 202, 204):
        assert answer(status, body, media_type=media_type, reports=True) == Accepted(None)


@pytest.mark.parametrize(("media_type", "body"), [("text/plain", b"queued"), ("image/png", PNG), ("", b"")])
def test_a_202_without_json_is_no_result(media_type: str, body: bytes) -> None:
    found = answer(202, body, media_type=media_type)

    assert isinstance(found, Failed)
    assert found.kind == "bad_answer"


@given(
    st.sampled_from(["", "text/plain", "application/json", "image/png", "application/zip"]) | st.text(max_size=30),
    st.binary(max_size=60) | st.text(max_size=20).map(str.encode),
)
def test_any_answer_is_kept_or_refused(media_type: str, body: bytes) -> None:
    found = answer(200, body, media_type=media_type)

    assert isinstance(found, Completed | Failed)
    if isinstance(found, Completed):
        json.loads(found.result)
    if isinstance(found, Completed) and found.file is not None:
        assert found.file.content == body


@pytest.mark.parametrize("media_type", ["", "text/plain", "text/html", "application/octet-stream"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"metadata": {"status": "FAILED"}, "data": NaN}',
        b'[{"metadata": {"status": "FAILED", "progress": NaN}}]',
        b'{"data": 1, "metadata": {"status": "FINISHED"',
        b'{"metadata": {"status": "PROCESSING"}}\n{"metadata": {"status": "FAILED"}}',
        b'{"metadata": {"status": "FAILED"}, "data": ' + b"[" * 600 + b"]" * 600 + b"}",
    ],
    ids=["not a number", "not a number in a list", "cut", "several", "too deep"],
)
def test_a_report_that_is_not_json_is_no_text(media_type: str, body: bytes) -> None:
    found = answer(200, body, media_type=media_type)

    assert isinstance(found, Failed)
    assert found.kind == "bad_answer"
