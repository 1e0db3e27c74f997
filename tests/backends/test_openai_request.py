"""Which endpoint of the OpenAI family a payload is for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from taskstream.backends.dialects.openai_request import Asked, asked, beside, place_of
from taskstream.errors import InvalidInput

BASE = "http://host:8000/v1"


def asked_of(payload: Any, url: str = BASE) -> Asked:
    return asked(url, Raw(json.dumps(payload).encode()))


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"messages": []}, "chat/completions"),
        ({"prompt": "a"}, "completions"),
        ({"input": "a"}, "embeddings"),
        ({"query": "a", "documents": ["b"]}, "rerank"),
        ({"query": "a"}, "chat/completions"),
        ({}, "chat/completions"),
        ({"url": "/v1/responses", "body": {"input": "a"}}, "responses"),
        ({"url": "/v1/embeddings", "method": "POST", "custom_id": "1", "body": {"input": "a"}}, "embeddings"),
        ({"url": "/rerank", "body": {}}, "rerank"),
    ],
)
def test_the_shape_of_a_payload_chooses_the_endpoint_unless_it_is_named(payload: Any, path: str) -> None:
    assert asked_of(payload).url == f"{BASE}/{path}"


@pytest.mark.parametrize("url", [BASE, f"{BASE}/", "http://host:8000", "http://host:8000/", f"{BASE}/chat/completions"])
def test_a_server_is_registered_by_its_base_or_by_an_endpoint(url: str) -> None:
    assert asked_of({"messages": []}, url).url == f"{BASE}/chat/completions"
    assert asked_of({"url": "/v1/embeddings", "body": {}}, url).url == f"{BASE}/embeddings"


def test_the_endpoint_that_a_server_is_registered_by_is_that_of_every_payload() -> None:
    assert asked_of({"prompt": "a cat"}, f"{BASE}/images/generations").endpoint == "images/generations"


def test_the_path_and_the_query_before_the_endpoint_stay() -> None:
    url = "http://host/openai/v1?api-version=1"

    assert asked_of({"messages": []}, url).url == "http://host/openai/v1/chat/completions?api-version=1"
    assert beside(place_of(url)[0], "metrics") == "http://host/openai/metrics"


@pytest.mark.parametrize(
    "url",
    [
        "http://elsewhere/v1/chat/completions", "//elsewhere/v1/embeddings", "/v1/../admin", "/v1/load_lora_adapter",
        "/v1/files", "/v1/embeddings?x=1", "/v1/embeddings/", "@elsewhere/embeddings", "", 5, None,
    ],
)  # fmt: skip
def test_a_payload_reaches_nothing_but_the_endpoints(url: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        asked_of({"url": url, "body": {"messages": []}})

    assert refused.value.path == "$.payload.url"


@pytest.mark.parametrize("payload", [[], "text", None, {"url": "/v1/embeddings", "body": []}])
def test_a_payload_is_an_object(payload: Any) -> None:
    with pytest.raises(InvalidInput):
        asked_of(payload)


def test_completions_are_streamed_whatever_the_payload_says() -> None:
    body = asked_of({"messages": [], "stream": False, "stream_options": {"x": 1}, "top_p": 0.50}).body("with-usage", "")

    assert json.loads(body) == {
        "messages": [], "top_p": 0.5, "stream": True, "stream_options": {"x": 1, "include_usage": True}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "streaming"),
    [
        ({"messages": []}, "with-usage"),
        ({"prompt": ""}, "with-usage"),
        ({"url": "/v1/responses", "body": {}}, "plain"),
        ({"input": ""}, "none"),
    ],
)
def test_only_completions_have_what_was_used_streamed_on_request(payload: Any, streaming: str) -> None:
    assert asked_of(payload).streaming == streaming


def test_other_endpoints_get_the_payload_as_it_is() -> None:
    payload = {"input": "a", "stream_options": {"x": 1}, "background": True}

    assert json.loads(asked_of(payload).body("none", "")) == payload


def test_a_response_is_not_made_in_the_background() -> None:
    asked = asked_of({"url": "/v1/responses", "body": {"input": "a", "background": True}})

    assert json.loads(asked.body("plain", "")) == {"input": "a", "stream": True}


def test_a_payload_without_a_model_gets_the_one_that_its_submitter_chose() -> None:
    named = json.loads(asked_of({"messages": [], "model": "a"}).body("none", "b"))
    unnamed = json.loads(asked_of({"messages": []}).body("none", "b"))

    assert (named["model"], unnamed["model"]) == ("a", "b")
