"""What in a payload chooses the server of a task."""

from __future__ import annotations

from typing import Any

import pytest

from taskstream.submission.choice import model_in


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
