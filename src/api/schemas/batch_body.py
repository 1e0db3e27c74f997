"""Reads the body of a batch: tasks as a JSON array, or one on each line (NDJSON), each as `POST /api/task` takes it.

A task may name others of its batch by their places in `dependsOn`: they become ids.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Raw
from msgspec.structs import replace

from ...commands.task import SubmitTask
from ...errors import InvalidInput, InvalidItems
from ...events.ids import BatchRef
from ...submission.body import Submission, SubmissionParser, TaskIdText, fingerprint, parse_json, read_submission
from ...wire.json_depth import deeper_than
from .batch_parents import resolve

MOST_TASKS = 1_000
"""As many as JetStream stores together."""
LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
"""Media types of a body that has a task on each line."""

Position = Annotated[int, Meta(ge=0, lt=MOST_TASKS)]


class BatchItem(Submission, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A task of a batch: the full form, in which `dependsOn` may name others of the batch by their places."""

    depends_on: Annotated[list[TaskIdText | Position], Meta(max_length=1_000)] = []  # type: ignore[assignment]  # noqa: RUF012 - msgspec copies it
    """Ids of tasks of the same owner, or places in this batch (from 0), that must have ended before."""


_item = msgspec.json.Decoder(BatchItem)
_array = msgspec.json.Decoder(list[Raw])


class _Item(NamedTuple):
    """An item as it came."""

    body: bytes
    content: Any


class _Asked(NamedTuple):
    """What an item asks for."""

    submission: Submission
    payload: Any
    in_payload: bool


class BatchBodies:
    """Turns bodies into commands."""

    def __init__(self, submissions: SubmissionParser, max_depth: int, max_task: int) -> None:
        self._submissions = submissions
        self._max_depth = max_depth
        self._max_task = max_task

    def parse(self, body: bytes, media_type: str, batch: BatchRef, owner: str, *, repeatable: bool) -> list[SubmitTask]:
        """Return a command for each task of a batch, in order.

        Raises InvalidInput for a body that is no batch, InvalidItems naming what is wrong with each of its items.
        """
        found: dict[int, InvalidInput] = {}
        items = _lines(body, self._max_depth, found) if media_type in LINES else _elements(body, self._max_depth)
        count = len(items)
        if not 1 <= count <= MOST_TASKS:
            raise InvalidInput(f"a batch has 1 to {MOST_TASKS:,} tasks; this one has {count:,}")
        asked: dict[int, _Asked] = {}
        for place, item in enumerate(items):
            if place not in found:
                with _noted(found, place):
                    asked[place] = self._read(item)
        parents = {place: item.submission.depends_on for place, item in asked.items() if item.submission.depends_on}
        for place, ids in resolve(parents, batch, count, found).items():
            asked[place].submission.depends_on = ids
        commands = []
        whole = fingerprint(body)
        for place, (submission, payload, in_payload) in asked.items():
            if place in found:
                continue
            with _noted(found, place):
                command = self._submissions.command(
                    submission, payload, owner, b"", repeatable=repeatable, in_payload=in_payload
                )
                commands.append(replace(command, fingerprint=whole, batch=batch.id, batch_size=count))
        if found:
            raise InvalidItems(found, count)
        return commands

    def _read(self, item: _Item) -> _Asked:
        body, content = item
        if not isinstance(content, dict):
            raise InvalidInput("a task must be a JSON object", "$")
        if len(body) > self._max_task:
            raise InvalidInput(f"a task may have {self._max_task} bytes at most; send a reference to large inputs")
        if deeper_than(self._max_depth, body, content):
            raise InvalidInput(f"the task is nested deeper than {self._max_depth} levels")
        submission, in_payload = read_submission(content, body, _item)
        return _Asked(submission, content["payload"] if in_payload else content, in_payload)


class _noted:  # noqa: N801 - reads as a word of the language
    """Keep what is wrong with an item instead of raising it. A class: ten thousand of these a second."""

    def __init__(self, found: dict[int, InvalidInput], place: int) -> None:
        self._found = found
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InvalidInput):
            self._found[self._place] = error
            return True
        return False


def _elements(body: bytes, max_depth: int) -> list[_Item]:
    if not body.lstrip().startswith(b"["):
        text = "the body must be a JSON array of tasks; for one on each line say `Content-Type: application/x-ndjson`"
        raise InvalidInput(text, "$")
    # Decoded whole once: what the array's parts are taken as, undecoded, is so known to be good JSON.
    contents = parse_json(body, "body", max_depth)
    return [_Item(bytes(raw), content) for raw, content in zip(_array.decode(body), contents, strict=True)]


def _lines(body: bytes, max_depth: int, found: dict[int, InvalidInput]) -> list[_Item]:
    """Return what the lines have, but for empty ones; one that is no JSON is noted as found."""
    items = []
    for place, line in enumerate(line for line in body.split(b"\n") if line.strip()):
        content: Any = None
        with _noted(found, place):
            content = parse_json(line, "line", max_depth)
        items.append(_Item(line, content))
    return items
