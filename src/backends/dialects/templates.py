"""Templates of requests: JSON with the payload put in, and URLs with the id of a job put in. Pure.

    {"inputs": "$payload", "parameters": "$payload.options", "request_id": "$id", "price": "$$5"}
    status?task_id={id}

A text that is `$payload`, a path into it, or `$id` is replaced as a whole, by a value of any type. A path that the
payload does not have leaves its key out. A text that begins with `$$` loses one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import msgspec
from msgspec import UNSET, Raw

from .dialect import BadAnswer

LARGEST_TEMPLATE = 16 * 1024
"""Bytes of JSON."""
DEEPEST_TEMPLATE = 32
MOST_PLACEHOLDERS = 32
LONGEST_URL_TEMPLATE = 1024
LONGEST_URL = 8192
LONGEST_JOB_ID = 512

_STEP = re.compile(r"\.([A-Za-z0-9_-]{1,64})|\[([0-9]{1,4})\]")
_PLACEHOLDER = re.compile(r"\$payload((?:\.[A-Za-z0-9_-]{1,64}|\[[0-9]{1,4}\]){0,8})|\$id")
_IN_URL = re.compile(r"\{([^{}]*)\}")
_URL_TEMPLATE = re.compile(r"[!-~]+")
_NO_URL = re.compile(r"[\\<>\"^`|#]")
_object = msgspec.json.Decoder(dict[str, Raw])
_list = msgspec.json.Decoder(list[Raw])
_encode = msgspec.json.Encoder().encode


def check_template(template: Any) -> None:
    """Raise ValueError, whose message says what is wrong with a JSON template."""
    if len(_encode(template)) > LARGEST_TEMPLATE:
        raise ValueError(f"must have at most {LARGEST_TEMPLATE:,} bytes of JSON")
    given = [text for text in _texts(template, DEEPEST_TEMPLATE) if text.startswith("$") and not text.startswith("$$")]
    for text in given:
        if not _PLACEHOLDER.fullmatch(text):
            raise ValueError(
                f"`{text[:80]}` is no placeholder: `$payload`, a path in it such as `$payload.options.size`, or `$id`; "
                "a text that begins with `$` is written `$$`"
            )
    if len(given) > MOST_PLACEHOLDERS:
        raise ValueError(f"must have at most {MOST_PLACEHOLDERS} placeholders")
    if repeated := [text for text in given if text != "$id" and given.count(text) > 1]:
        raise ValueError(f"must have `{repeated[0]}` once")


def fill(template: Any, payload: bytes, job_id: str) -> bytes:
    """Return a JSON template with the payload, which is JSON, and an id put in."""
    filled = _filled(template, payload, job_id)
    return b"null" if filled is UNSET else _encode(filled)


def check_url_template(template: str) -> None:
    """Raise ValueError, whose message says what is wrong with the template of a URL."""
    if len(template) > LONGEST_URL_TEMPLATE:
        raise ValueError(f"must have at most {LONGEST_URL_TEMPLATE} characters")
    if not _URL_TEMPLATE.fullmatch(template) or _NO_URL.search(template):
        raise ValueError("must be part of a URL: printable ASCII, without spaces, backslashes, quotes and `#`")
    if unknown := [name for name in _IN_URL.findall(template) if name != "id"]:
        raise ValueError(f"`{{{unknown[0][:40]}}}` is no placeholder: `{{id}}` is the only one")
    plain = _IN_URL.sub("x", template)
    if "{" in plain or "}" in plain:
        raise ValueError("has a brace without its other one")
    parts = urlsplit(plain)
    if parts.scheme or parts.netloc:
        raise ValueError("must be relative to the predict URL, as in `status/{id}` or `/jobs/{id}`: without a host")


def fill_url(predict_url: str, template: str, job_id: str) -> str:
    """Return a URL from its template, the predict URL for an empty one. Raises BadAnswer for one that cannot be.

    The predict URL counts as a folder: with `http://host/v1/predictions`, `{id}` is `/v1/predictions/{id}`, `../{id}`
    is `/v1/{id}`, and `/{id}` is `/{id}`.
    """
    if not template:
        return predict_url
    base = urlsplit(predict_url)._replace(query="", fragment="")
    folder = base._replace(path=base.path.rstrip("/") + "/").geturl()
    return named_url(folder, template.replace("{id}", quote(job_id, safe="")))


def named_url(base: str, named: str) -> str:
    """Return a URL that a server names, absolute or relative to `base`. Raises BadAnswer for none."""
    try:
        url = urljoin(base, named)
        is_good = urlsplit(url).scheme in ("http", "https") and len(url) <= LONGEST_URL and url.isprintable()
    except ValueError:
        is_good = False
    if not is_good or " " in url:
        raise BadAnswer("names a URL that is none")
    return url


def read_job_id(value: Any) -> str:
    """Return the id that a server gives a job. Raises BadAnswer for none that could be put into a URL."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value or not value.strip("."):
        raise BadAnswer("has no id of the job")  # dots alone would change the path that they are put into
    if len(value) > LONGEST_JOB_ID:
        raise BadAnswer(f"has an id of the job of more than {LONGEST_JOB_ID} characters")
    return value


def _texts(template: Any, levels: int) -> Iterator[str]:
    if levels == 0 and isinstance(template, dict | list):
        raise ValueError(f"must have at most {DEEPEST_TEMPLATE} levels")
    match template:
        case str():
            yield template
        case dict():
            for value in template.values():
                yield from _texts(value, levels - 1)
        case list():
            for value in template:
                yield from _texts(value, levels - 1)
        case _:
            return


def _filled(template: Any, payload: bytes, job_id: str) -> Any:
    """Return a template filled; UNSET for a path that the payload does not have."""
    match template:
        case str() if template.startswith("$"):
            if template.startswith("$$"):
                return template[1:]
            found = _PLACEHOLDER.fullmatch(template)
            if found is None:
                return template
            return job_id if found[1] is None else _at(payload, found[1])
        case dict():
            filled = {name: _filled(value, payload, job_id) for name, value in template.items()}
            return {name: value for name, value in filled.items() if value is not UNSET}
        case list():
            values = (_filled(value, payload, job_id) for value in template)
            return [None if value is UNSET else value for value in values]
        case _:
            return template


def _at(payload: bytes, path: str) -> Any:
    """Return what the payload has at a path, as it came; UNSET for nothing."""
    found = Raw(payload)
    try:
        for name, place in _STEP.findall(path):
            found = _object.decode(found)[name] if name else _list.decode(found)[int(place)]
    except (msgspec.DecodeError, KeyError, IndexError, RecursionError):
        return UNSET
    return found


def has_placeholder(template: Any, placeholder: str) -> bool:
    """Return True if a JSON template has a placeholder."""
    return any(text == placeholder for text in _texts(template, DEEPEST_TEMPLATE))
