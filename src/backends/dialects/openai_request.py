"""Requests of the OpenAI family: which endpoint a payload is for, and its body there. Pure.

    {"messages": [...]}                                    chat/completions      {"prompt": "..."}      completions
    {"query": "...", "documents": [...]}                   rerank                {"input": "..."}       embeddings
    {"url": "/v1/responses", "body": {...}}                a line of an OpenAI batch: the endpoint is named

A server is registered by its base (`http://host:8000/v1`), or by one endpoint (`http://host:8000/v1/embeddings`), which
then is the one of every payload that names none.
"""

from __future__ import annotations

from typing import Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Raw, Struct

from ...errors import InvalidInput
from ...events.task import FacadeRequest
from .openai_responses import chat_of

STREAMED = frozenset({"chat/completions", "completions", "responses"})
"""Endpoints whose answers can be streamed."""
COUNTING = frozenset({"chat/completions", "completions"})
"""Those of them that stream what was used only on request."""
ENDPOINTS = STREAMED | {
    "audio/speech", "classify", "embeddings", "images/generations", "moderations", "pooling", "rerank", "score",
}  # fmt: skip
"""All endpoints that a task may ask for. Others change the server, or concern other callers' files."""
ROOT = "/v1"
"""Beginning of an endpoint's path in an OpenAI batch, and of a server that is registered without a path."""
LONGEST_MODEL = 256
"""Characters of a model's name; the name of a longer one counts as none."""

Streaming: TypeAlias = Literal["with-usage", "plain", "none", "as-given", "whole"]
"""How much is asked of a server: parts and what was used, parts only, or a whole answer; parts with the options of the
payload, or whatever the payload asks for."""

_fields = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


class Asked(Struct, frozen=True, kw_only=True):
    """What a payload asks for."""

    endpoint: str
    """Without a slash before it."""
    url: str
    fields: dict[str, Raw]
    """Of the body."""
    facade: FacadeRequest | None = None
    """The request of OpenAI's API that it is, whose client gets the answer as it is; None: it is none."""

    @property
    def streaming(self) -> Streaming:
        """Return how much of a stream to ask for first."""
        if self.facade is not None and self.facade.endpoint != "responses":
            return "as-given" if self.facade.is_stream else "whole"
        if self.endpoint not in STREAMED:
            return "none"
        return "with-usage" if self.endpoint in COUNTING else "plain"

    def body(self, streaming: Streaming, model: str) -> bytes:
        """Return the body to send. `model`: to use if the payload names none; empty: none."""
        fields = dict(self.fields)
        if model and "model" not in fields:
            fields["model"] = Raw(_encode(model))
        if self.endpoint in STREAMED:
            fields.pop("background", None)  # the caller does not wait on this connection anyway
            if streaming in ("as-given", "whole"):
                return _encode(fields)
            options = fields.pop("stream_options", None)
            fields["stream"] = Raw(b"false" if streaming == "none" else b"true")
            if streaming == "with-usage":
                fields["stream_options"] = _with_usage(options)
        return _encode(fields)


def asked(predict_url: str, payload: Raw, facade: FacadeRequest | None = None) -> Asked:
    """Return what a payload asks of a server. Raises InvalidInput if it is not for any endpoint of the server.

    `facade`: the request of another service's API that the payload is; None: it is none. That of OpenAI's API names the
    endpoint. A response is asked for as a chat completion, unless the server is registered by its `/responses`.
    """
    fields = _object(payload)
    if fields is None:
        raise InvalidInput("must be an object, such as {'messages': […]}", "$.payload")
    base, registered = place_of(predict_url)
    named = None
    if facade is not None and facade.name == "openai":
        endpoint = facade.endpoint
        if endpoint == "responses" and registered != endpoint:
            endpoint, fields = "chat/completions", chat_of(fields)
        return Asked(endpoint=endpoint, url=under(base, endpoint), fields=fields, facade=facade)
    if "url" in fields and "body" in fields:
        named, body = _text(fields["url"]), _object(fields["body"])
        if body is None:
            raise InvalidInput("must be an object", "$.payload.body")
        endpoint = (named or "").removeprefix(ROOT).removeprefix("/")
        if endpoint not in ENDPOINTS:
            raise InvalidInput(
                f"must be one of {', '.join(f'{ROOT}/{each}' for each in sorted(ENDPOINTS))}", "$.payload.url"
            )
        fields = body
    else:
        endpoint = registered or _by_shape(fields)
    return Asked(endpoint=endpoint, url=under(base, endpoint), fields=fields)


def place_of(predict_url: str) -> tuple[str, str]:
    """Return the base of a server, without a slash at its end, and the endpoint that it is registered by; or empty."""
    parts = urlsplit(predict_url)
    path = parts.path.rstrip("/")
    endpoint = max((each for each in ENDPOINTS if path.endswith(f"/{each}")), key=len, default="")
    path = path.removesuffix(f"/{endpoint}") if endpoint else path or ROOT
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")), endpoint


def under(base: str, path: str) -> str:
    """Return the address of a path under a base, with the query of the base."""
    parts = urlsplit(base)
    return urlunsplit((parts.scheme, parts.netloc, f"{parts.path}/{path}", parts.query, ""))


def beside(base: str, path: str) -> str:
    """Return the address of a path of the same server that is outside the API: `/metrics` beside `/v1`."""
    parts = urlsplit(base)
    return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.removesuffix(ROOT)}/{path}", "", ""))


def _by_shape(fields: dict[str, Raw]) -> str:
    if "messages" in fields:
        return "chat/completions"
    if "prompt" in fields:
        return "completions"
    if "query" in fields and "documents" in fields:
        return "rerank"
    return "embeddings" if "input" in fields else "chat/completions"


def _with_usage(options: Raw | None) -> Raw:
    return Raw(_encode({**((_object(options) if options else None) or {}), "include_usage": True}))


def _object(text: Raw) -> dict[str, Raw] | None:
    try:
        return _fields.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _text(text: Raw) -> str | None:
    try:
        found = msgspec.json.decode(text, type=str)
    except msgspec.DecodeError:
        return None
    return found
