"""Results, however large, and the files in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from ..core import Core, path_of
from ..errors import BadAnswer, NotFound, Unavailable
from ..flow import Broken, Close, Emit, Flow, Pause, Read, Request
from ..models import ResultFile, TaskResult, convert, decode
from .call import Async, Part, Sync, call, iterates

MOST_CUTS = 20
"""Cuts in a row, without a byte between them, after which a read gives up."""

Source = str | ResultFile
"""The id of a task, or a file within its result."""


def pieces(core: Core, path: str) -> Flow[None]:
    """Emit a body piece by piece. After a cut it goes on where it was, if the body is still the same."""
    had = 0
    size: int | None = None
    tag = ""
    tries = 0
    while True:
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if had:
            headers |= {"Range": f"bytes={had}-", "If-Range": tag}
        opened = yield from core.open(Request("GET", path, headers=headers), timeout=core.patience)
        answer = opened.answer
        if had and answer.status != 206:
            yield Close(opened.handle)
            raise Unavailable(f"{path} changed while it was being read: read it again")
        if not had:
            tag = answer.headers.get("etag", "")
            length = answer.headers.get("content-length", "")
            size = int(length) if length.isdigit() else None
        broken: Broken | None = None
        while True:
            chunk = yield Read(opened.handle)
            if chunk is None or isinstance(chunk, Broken):
                broken = chunk
                break
            had += len(chunk)
            tries = 0
            yield Emit(chunk)
        yield Close(opened.handle)
        if broken is None and (size is None or had >= size):
            return
        tries += 1
        if not tag or tries > MOST_CUTS:
            reason = "it ended early" if broken is None else broken.reason
            raise Unavailable(f"{path} was cut after {had} bytes: {reason}")
        yield Pause(core.retries.pause(tries, None))


def whole(core: Core, path: str) -> Flow[bytes]:
    """Return all bytes of a body."""
    found: list[bytes] = []
    flow = pieces(core, path)
    yield from into(flow, found.append)
    return b"".join(found)


def into(flow: Flow[None], take: object) -> Flow[None]:
    """Carry out a flow and hand what it emits to a function."""
    outcome: object = None
    while True:
        try:
            effect = flow.send(outcome)
        except StopIteration:
            return
        if isinstance(effect, Emit):
            take(effect.item)  # type: ignore[operator]
            outcome = None
        else:
            outcome = yield effect


def _path(source: Source) -> str:
    if isinstance(source, ResultFile):
        if not source.path.startswith("/api/task/"):
            raise BadAnswer(f"{source.path!r} is no file of a result")
        return source.path
    return path_of("task", source, "result", "file")


class ResultCalls(Part):
    """Results of tasks, and their files."""

    @call
    def get(self, task_id: str, *, sequence: int | None = None) -> Flow[TaskResult | None]:
        """Return the whole result of a task; None if it has none.

        `sequence` is that of the event that brought the result: also one from before a retry.
        """
        path = path_of("task", task_id, "result") + (f"?sequence={sequence}" if sequence is not None else "")
        try:
            text = yield from whole(self._core, path)
        except NotFound:
            yield from self._core.ask("GET", path_of("task", task_id), query={"bodies": False})
            return None
        return convert(decode(text), TaskResult) if text and text != b"null" else None

    @iterates(bytes)
    def stream(self, source: Source) -> Flow[None]:
        """Iterate over the bytes of a file: of a task whose result is one, or of one of `result.files`."""
        yield from pieces(self._core, _path(source))

    @call
    def read(self, source: Source) -> Flow[bytes]:
        """Return the bytes of a file: of a task whose result is one, or of one of `result.files`."""
        return (yield from whole(self._core, _path(source)))

    @call
    def download(self, source: Source, to: str | os.PathLike[str] | BinaryIO) -> Flow[int]:
        """Write a file to a path or an open file, and return its size. A path appears only when it is complete."""
        return (yield from saved(self._core, _path(source), to))


def saved(core: Core, path: str, to: str | os.PathLike[str] | BinaryIO) -> Flow[int]:
    """Write a body to a path or an open file, and return its size."""
    size = 0

    def write(out: BinaryIO) -> object:
        def take(chunk: bytes) -> None:
            nonlocal size
            size += out.write(chunk)

        return take

    if not isinstance(to, (str, os.PathLike)):
        yield from into(pieces(core, path), write(to))
        return size
    target = Path(to)
    part = target.with_name(target.name + ".part")
    try:
        with part.open("wb") as out:
            yield from into(pieces(core, path), write(out))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return size


class Results(ResultCalls, Sync):
    """Results of tasks, and their files."""


class AsyncResults(ResultCalls, Async):
    """Results of tasks, and their files."""
