"""The reason of a failure, in the forms in which servers give one. Pure.

{"error": {"message": "…"}}    {"error": "…"}    {"message": "…"}    {"detail": "…"}
{"detail": [{"loc": ["body", "text"], "msg": "field required"}]}     FastAPI: `body.text: field required`
{"error": "1 error", "detail": [{"loc": ["text"], "msg": "…"}]}      BentoML: `1 error: text: …`
{"title": "…", "detail": "…"}                                        a problem document (RFC 9457)
{"errors": ["…", {"message": "…"}]}    {"errors": {"width": ["…"]}}
text/plain
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from ...wire.json_text import read_json

LONGEST_REASON = 300
"""Characters of a server's own words."""
LARGEST_REFUSAL = 256 * 1024
"""Bytes. A longer refusal is not searched for a reason."""
MOST_REASONS = 3
"""Entries of a list that are shown."""
DEEPEST_REASON = 4
"""Levels of nesting searched."""
FIELDS = ("error", "detail", "message", "msg", "errors", "error_description", "reason", "details")
"""Fields that hold a reason, the most specific form first."""

_PHRASES = frozenset(status.phrase.casefold() for status in HTTPStatus)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")


def reason_of(body: bytes, media_type: str) -> str:
    """Return the reason that a refusal gives, on one line of at most LONGEST_REASON characters; empty if it has none.

    `media_type`: in lower case, without parameters; empty if the answer has none.
    """
    if len(body) > LARGEST_REFUSAL:
        return ""
    try:
        content = read_json(body).content
    except (ValueError, RecursionError):  # ValueError: no JSON, or no UTF-8
        return _plain(body) if media_type in ("text/plain", "") else ""
    return reason_in(content) if isinstance(content, dict | list) or media_type == "text/plain" else ""


def reason_in(content: Any) -> str:
    """Return the reason in decoded JSON, on one line of at most LONGEST_REASON characters; empty if it has none."""
    return shortened(_CONTROL.sub(" ", _reason(content, DEEPEST_REASON)).strip(), LONGEST_REASON)


def shortened(text: str, longest: int) -> str:
    """Return a text of at most `longest` characters; a longer one ends in an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _reason(content: Any, levels: int) -> str:
    """Return the reason at any of the known places; one badly typed field does not hide another."""
    match content:
        case str():
            return content[: LONGEST_REASON + 1].strip()
        case list() if levels:
            return _listed(_entries(content, levels - 1), len(content))
        case dict() if levels:
            return _of_object(content, levels - 1)
        case _:
            return ""


def _of_object(content: dict[str, Any], levels: int) -> str:
    if place := _place(content.get("loc")):
        return f"{place}: {_reason(content.get('msg'), levels)}"
    fallback = ""
    for name in FIELDS:
        # Rails, Laravel and ASP.NET list the errors of each field by its name.
        found = _by_field(content.get(name), levels) if name == "errors" else _reason(content.get(name), levels)
        if not found:
            continue
        if found.casefold() not in _PHRASES:  # the status in words says nothing more than its number
            details = content.get("detail") if name == "error" else None
            if isinstance(details, list) and (parts := _reason(details, levels)):
                return f"{found}: {parts}"
            title = _reason(content.get("title"), levels)
            return f"{title}: {found}" if title and title.casefold() not in _PHRASES and title != found else found
        fallback = fallback or found
    return _reason(content.get("title"), levels) or fallback


def _by_field(errors: Any, levels: int) -> str:
    if not isinstance(errors, dict):
        return _reason(errors, levels)
    return _reason(errors, levels) or _listed(
        (f"{name[:100]}: {found}" for name, value in errors.items() if (found := _reason(value, levels))), len(errors)
    )


def _entries(content: list[Any], levels: int) -> Iterator[str]:
    return (found for entry in content if (found := _reason(entry, levels)))


def _listed(found: Iterator[str], count: int) -> str:
    """Return the first few reasons, and how many entries there are if they are more."""
    texts = [text for text, _ in zip(found, range(MOST_REASONS), strict=False)]
    if not texts:
        return ""
    return "; ".join(texts) + (f"; … ({count} in all)" if count > MOST_REASONS else "")


def _place(loc: Any) -> str:
    """Return where a FastAPI error is, as in `body.items.0.text`."""
    if not isinstance(loc, list):
        return ""
    return ".".join(str(step)[:50] for step in loc[:10] if isinstance(step, str | int))


def _plain(body: bytes) -> str:
    """Return the first line of a text that is meant to be read; of a Python traceback the last, which has the error."""
    text = body.decode(errors="replace").strip("\ufeff \t\r\n\x00")
    if text.startswith("<"):
        return ""  # HTML or XML
    lines = text.splitlines() or [""]
    line = lines[-1] if lines[0].startswith("Traceback (most recent call last)") else lines[0]
    return shortened(_CONTROL.sub(" ", line).strip(), LONGEST_REASON)
