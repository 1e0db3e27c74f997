"""What in a payload chooses the server of a task."""

from __future__ import annotations

from typing import Any

import pytest

from taskstream.submission.choice import model_in, session_in


@pytest.mark.parametrize(
    ("payload", "model"),
    [
        ({"model": "llama"}, "llama"),
        ({"url": "/v1/embeddings", "body": {"model": "llama"}}, "llama"),
        ({"url": "/v1/embeddings", "model": "outer", "body": {"model": "inner"}}, "inner"),
        ({"body": {"model": "no line of a batch"}}, ""),
        ({"url": "/v1/embeddings", "body": "text", "model": "llama"}, "llama"),
        ({"model": "x" * 256}, "x" * 256),
        ({"model": "x" * 257}, ""),
        ({"model": "line\nbreak"}, ""),
        ({"model": 5}, ""),
        ({"model": None}, ""),
        ({}, ""),
        ([], ""),
        ("text", ""),
        (None, ""),
    ],
)
def test_the_model_is_what_the_request_names(payload: Any, model: str) -> None:
    assert model_in(payload) == model


HELLO = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "Be brief."}
REPLY = {"role": "assistant", "content": "hello"}
AGAIN = {"role": "user", "content": "again"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"messages": [HELLO]}, {"messages": [HELLO, REPLY, AGAIN]}),
        ({"messages": [SYSTEM, HELLO]}, {"messages": [SYSTEM, HELLO, REPLY, AGAIN], "temperature": 1}),
        ({"messages": [HELLO]}, {"url": "/v1/chat/completions", "body": {"messages": [HELLO]}}),
        ({"messages": [{"content": "hello", "role": "user"}]}, {"messages": [HELLO]}),
        ({"user": "u1", "messages": [HELLO]}, {"user": "u1", "prompt": "x"}),
        ({"session_id": "s1", "user": "u1"}, {"session_id": "s1", "user": "u2"}),
        ({"user": 5, "messages": [HELLO]}, {"messages": [HELLO]}),
    ],
)
def test_these_are_of_one_session(one: Any, other: Any) -> None:
    assert session_in(one, "alice") == session_in(other, "alice") != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"messages": [HELLO]}, {"messages": [AGAIN]}),
        ({"messages": [HELLO]}, {"messages": [SYSTEM, HELLO]}),
        ({"user": "u1"}, {"user": "u2"}),
    ],
)
def test_these_are_of_two_sessions(one: Any, other: Any) -> None:
    assert session_in(one, "alice") != session_in(other, "alice")


def test_two_owners_share_no_session() -> None:
    assert session_in({"user": "u1"}, "alice") != session_in({"user": "u1"}, "bob")


@pytest.mark.parametrize("payload", [None, [], {}, {"prompt": "x"}, {"messages": []}, {"messages": "x"}, {"user": ""}])
def test_these_are_of_no_session(payload: Any) -> None:
    assert session_in(payload, "alice") == ""
