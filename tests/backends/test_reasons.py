"""The reason of a refusal is shown to the user in the forms in which servers give it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.backends.dialects.dialect import Busy, Failed
from taskstream.backends.dialects.reasons import LARGEST_REFUSAL, LONGEST_REASON, reason_in, reason_of

from .test_taskstream_answers import answer

WIDTH = "width must be even"
TRACEBACK = b'Traceback (most recent call last):\n  File "x", line 1\nRuntimeError: CUDA OOM\n'


def fastapi(loc: list[Any], msg: str = "field required", **more: Any) -> dict[str, Any]:
    return {"type": "missing", "loc": loc, "msg": msg, "input": {}, **more}


REFUSALS: list[tuple[str, Any, str]] = [
    ("error text, as Ollama and KServe", {"error": "model 'x' not found"}, "model 'x' not found"),
    (
        "error object, as OpenAI and vLLM",
        {"error": {"message": WIDTH, "type": "BadRequestError", "param": None, "code": 400}},
        WIDTH,
    ),
    ("error object of older vLLM", {"object": "error", "message": WIDTH, "type": "x", "code": 400}, WIDTH),
    ("error and its type, as TEI", {"error": WIDTH, "error_type": "validation"}, WIDTH),
    (
        "error object, as ComfyUI",
        {"error": {"type": "prompt_no_outputs", "message": WIDTH, "details": "", "extra_info": {}}, "node_errors": {}},
        WIDTH,
    ),
    ("failed prediction, as Cog", {"id": "a", "error": WIDTH, "status": "failed"}, WIDTH),
    ("class of the error beside its text, as A1111", {"error": "", "detail": "", "body": "", "errors": WIDTH}, WIDTH),
    ("detail text", {"detail": WIDTH}, WIDTH),
    ("detail of FastAPI and Cog", {"detail": [fastapi(["body", "text"])]}, "body.text: field required"),
    (
        "details of FastAPI",
        {"detail": [fastapi(["body", "items", 0, "w"], WIDTH), fastapi(["query", "q"], "too short")]},
        f"body.items.0.w: {WIDTH}; query.q: too short",
    ),
    (
        "many details",
        {"detail": [fastapi(["body", str(place)]) for place in range(9)]},
        "body.0: field required; body.1: field required; body.2: field required; … (9 in all)",
    ),
    (
        "error and its details, as BentoML",
        {"error": "1 validation error for Input", "detail": [{"loc": ["text"], "msg": WIDTH, "type": "string_type"}]},
        f"1 validation error for Input: text: {WIDTH}",
    ),
    ("error with details that say nothing", {"error": WIDTH, "detail": [{"code": 3}]}, WIDTH),
    ("detail object", {"detail": {"message": WIDTH}}, WIDTH),
    ("message", {"message": WIDTH}, WIDTH),
    ("problem", {"type": "/p", "title": "Invalid image", "status": 422, "detail": WIDTH}, f"Invalid image: {WIDTH}"),
    ("problem with a title only", {"type": "about:blank", "title": "Invalid image", "status": 422}, "Invalid image"),
    ("problem titled by its status", {"title": "Unprocessable Entity", "status": 422, "detail": WIDTH}, WIDTH),
    (
        "problem of ASP.NET",
        {"title": "One or more validation errors occurred.", "errors": {"width": [WIDTH]}},
        f"One or more validation errors occurred.: width: {WIDTH}",
    ),
    ("errors", {"errors": ["too wide", "too high"]}, "too wide; too high"),
    (
        "errors as objects",
        {"errors": [{"message": "too wide"}, {"title": "Too high", "detail": WIDTH}]},
        f"too wide; Too high: {WIDTH}",
    ),
    ("errors by field, as Rails", {"errors": {"width": ["odd"], "height": "even"}}, "width: odd; height: even"),
    ("status in words, as Spring", {"status": 500, "error": "Internal Server Error", "message": WIDTH}, WIDTH),
    ("nothing but the status in words", {"error": "Not Found"}, "Not Found"),
    ("the first of several", {"message": "c", "detail": "b", "error": "a"}, "a"),
    ("a badly typed error beside a good detail", {"error": 7, "detail": WIDTH}, WIDTH),
    ("a badly typed detail beside a good message", {"detail": {"code": 3}, "message": WIDTH}, WIDTH),
    ("one badly typed of several", {"errors": [None, 7, {"code": 3}, WIDTH]}, f"{WIDTH}; … (4 in all)"),
    ("FastAPI without a place", {"detail": [{"loc": None, "msg": WIDTH}]}, WIDTH),
    ("FastAPI with an odd place", {"detail": [{"loc": ["body", {}, None], "msg": WIDTH}]}, f"body: {WIDTH}"),
    ("several lines", {"error": "too\n  wide\x00\x1b[31m"}, "too wide [31m"),
    ("half a character", b'{"error": "too wide \\ud83d"}', "too wide \ufffd"),
    ("a byte order mark", b'\xef\xbb\xbf{"error": "too wide"}', "too wide"),
    ("Latin-1", b'{"error": "caf\xe9"}', "caf\ufffd"),
    ("long", {"error": "x" * 5_000}, "x" * (LONGEST_REASON - 1) + "…"),
    ("none", {"code": 3}, ""),
    ("empty", {"error": "", "detail": None, "message": []}, ""),
    ("deeper than is searched", {"error": {"error": {"error": {"error": {"error": WIDTH}}}}}, ""),
]  # fmt: skip


@pytest.mark.parametrize("status", [422, 500, 503])
@pytest.mark.parametrize(("body", "reason"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_the_reason_of_a_refusal_is_shown(status: int, body: Any, reason: str) -> None:
    found = answer(status, body)

    assert isinstance(found, Failed | Busy)
    assert found.error == f"the server answered {status}" + (f": {reason}" if reason else "")


@pytest.mark.parametrize(
    ("media_type", "body", "reason"),
    [
        ("text/plain", b"too wide\nby far\n", "too wide"),
        ("text/plain; charset=utf-8", "\ufeff\n  zu breit: ä\r\n".encode(), "zu breit: ä"),
        ("TEXT/PLAIN", b"\xff too wide", "\ufffd too wide"),
        ("text/plain", b"x" * 5_000, "x" * (LONGEST_REASON - 1) + "…"),
        ("text/plain", TRACEBACK, "RuntimeError: CUDA OOM"),
        ("text/plain", b"<html><title>502</title>", ""),
        ("text/html", b"too wide", ""),
        ("text/html", b'{"error": "too wide"}', "too wide"),
        ("application/octet-stream", b"too wide", ""),
        ("application/octet-stream", b'{"error": "too wide"}', "too wide"),
        ("", b"too wide", "too wide"),
        ("text/plain", b'"too wide"', "too wide"),
        ("text/plain", b"", ""),
        ("application/json", b'{"error": "' + b"x" * LARGEST_REFUSAL + b'"}', ""),
    ],
    ids=lambda it: str(it)[:30],
)  # fmt: skip
def test_plain_text_is_a_reason_and_markup_is_none(media_type: str, body: bytes, reason: str) -> None:
    found = answer(400, body, media_type=media_type)

    assert found == Failed(kind="rejected", error="the server answered 400" + (f": {reason}" if reason else ""))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=400),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["error", "detail", "message", "errors", "title", "loc", "msg"]), inner)
    ),
)


@given(json_values)
def test_a_reason_is_one_bounded_line(content: Any) -> None:
    reason = reason_in(content)

    assert len(reason) <= LONGEST_REASON
    assert len(reason.splitlines()) <= 1
    if isinstance(content, dict | list):
        assert reason_of(json.dumps(content).encode(), "application/json") == reason


@given(st.binary(max_size=200), st.sampled_from(["", "text/plain", "application/json"]))
def test_any_refusal_has_a_bounded_reason_or_none(body: bytes, media_type: str) -> None:
    assert len(reason_of(body, media_type)) <= LONGEST_REASON
