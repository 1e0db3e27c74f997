"""The redaction of keys that a server echoes: its answers enter the log."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import quote

import msgspec

REDACTED = b"[key removed]"
SHORTEST_SECRET = 10
"""Characters. Shorter keys, such as `none`, are no secrets; removing them would break the JSON around them."""


def without_key(text: bytes, key: str | None) -> bytes:
    """Return the text with each form of the key replaced: verbatim, in JSON, in a URL, in Base64."""
    if not key or len(key) < SHORTEST_SECRET:
        return text
    for form in _forms(key):
        text = text.replace(form, REDACTED)
    return text


def without_keys(text: bytes, keys: Iterable[str]) -> bytes:
    """Return the text with each form of each key replaced."""
    for key in keys:
        text = without_key(text, key)
    return text


def _forms(key: str) -> set[bytes]:
    in_json = msgspec.json.encode(key)[1:-1]
    in_url = quote(key, safe="").encode()
    in_base64 = base64.b64encode(key.encode()).rstrip(b"=")
    in_base64url = base64.urlsafe_b64encode(key.encode()).rstrip(b"=")
    # Some serializers escape the slash in JSON.
    return {key.encode(), in_json, in_json.replace(b"/", b"\\/"), in_url, in_base64, in_base64url}
