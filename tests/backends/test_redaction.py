"""The echoed key is removed from an answer, in each encoding, and nothing else is."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from taskstream.backends.redaction import without_key

KEY = 'sk-a/b+c"d\\e-0123456789=='
FORMS = [
    json.dumps(KEY)[1:-1],
    json.dumps(KEY)[1:-1].replace("/", "\\/"),
    quote(KEY, safe=""),
    base64.b64encode(KEY.encode()).decode(),
    base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("="),
]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_taken_out_and_json_stays_json(form: str) -> None:
    said = json.loads(without_key(b'{"data": {"said": "a %b b"}}' % form.encode(), KEY))

    assert said["data"]["said"].rstrip("=").startswith("a [key removed]")
    assert "0123456789" not in str(said)


@pytest.mark.parametrize("word", ["", "x", "none", "null", "data", "status", "metadata"])
def test_a_key_too_short_to_be_a_secret_is_not_redacted(word: str) -> None:
    text = b'{"data": null, "metadata": {"status": "FINISHED"}}'

    assert without_key(text, word) == text
