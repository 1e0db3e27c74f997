"""Tests of answers, as registrations state them: by status, by a condition on the body, by a text in it. Pure."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ...events.exchange import AnswerTest
from ...wire.json_text import Json
from .contents import Content, read_content
from .dialect import BadAnswer, Reply
from .json_paths import json_condition, json_path
from .reasons import reason_in

MOST_SEARCHED_FOR_TEXT = 64 * 1024
"""Bytes of a body that are searched for a text."""


class TestedAnswer:
    """An answer, or a part of a streamed one, as tests and paths see it."""

    def __init__(self, status: int, body: bytes, content: Content | BadAnswer) -> None:
        self.status = status
        self.body = body
        self.found = content

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def json(self) -> Json | None:
        """Return the JSON of the body; None for any other content."""
        return self.found if isinstance(self.found, Json) else None

    @property
    def value(self) -> Any:
        """Return what conditions are about: what JSON holds, or text; None for a file, nothing, and broken JSON."""
        if isinstance(self.found, Json):
            return self.found.content
        return self.found if isinstance(self.found, str) else None

    def meets(self, test: AnswerTest | None, *, on_success: bool = False) -> bool:
        """Return True if a test holds; False without one. Raises BadAnswer.

        `on_success`: a test that names no status holds for 2xx only.
        """
        if test is None or (on_success and not test.status and not self.is_success):
            return False
        if test.status and self.status not in test.status:
            return False
        if test.contains and test.contains.casefold() not in self._text:
            return False
        if test.body:
            return self.value is not None and json_condition(test.body).holds(self.value, len(self.body))
        return True

    def at(self, path: str) -> Any:
        """Return the value at a path; None for none, and without a path. Raises BadAnswer."""
        return json_path(path).value(self.value, len(self.body)) if path and self.value is not None else None

    def reason(self, path: str) -> str:
        """Return the reason of a failure at a path, on one line; empty for none. Never raises."""
        try:
            found = self.at(path)
        except BadAnswer:
            return ""
        return reason_in(found) if found is not None else ""

    @cached_property
    def _text(self) -> str:
        return self.body[:MOST_SEARCHED_FOR_TEXT].decode(errors="replace").casefold()


def tested(reply: Reply) -> TestedAnswer:
    """Return an answer to test; a body that is broken JSON meets no condition."""
    content: Content | BadAnswer
    try:
        content = read_content(reply)
    except BadAnswer as error:
        content = error
    return TestedAnswer(reply.status, reply.body, content)
