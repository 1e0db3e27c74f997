"""How common clients divide a stream of server-sent events into messages: what each passes to the application.

Written after reading their sources: `@microsoft/fetch-event-source` 2.0.1, npm `eventsource` 4.1 and its parser,
`sseclient` 0.0.27, `sseclient-py` 1.9, `httpx-sse` 0.4, `aiohttp-sse-client` 0.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple


class Passed(NamedTuple):
    """A message as the application receives it."""

    id: str
    data: str


class Heard(NamedTuple):
    """What a client makes of a stream."""

    messages: list[Passed]
    last_id: str
    """What it sends as `Last-Event-ID` when it connects again."""
    retry: str
    """Milliseconds after which it does so; empty: not said."""


def _fields(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.removeprefix(" ")


def _read(lines: list[str], *, passes_empty: bool, keeps_lone_ids: bool) -> Heard:
    messages: list[Passed] = []
    last_id = retry = event_id = ""
    data: list[str] = []
    for line in lines:
        if line == "":
            if data or passes_empty:
                messages.append(Passed(event_id, "\n".join(data)))
            if event_id and (data or keeps_lone_ids):
                last_id = event_id
            event_id, data = "", []
            continue
        match _fields(line):
            case "data", value:
                data.append(value)
            case "id", value:
                event_id = value
            case "retry", value:
                retry = value
            case _:
                pass
    return Heard(messages, last_id, retry)


def browser(stream: bytes) -> Heard:
    """WHATWG HTML, 9.2: a block without data is not passed on; its id is kept."""
    lines = re.split("\r\n|\r|\n", stream.decode())[:-1]
    return _read(lines, passes_empty=False, keeps_lone_ids=True)


def npm_eventsource(stream: bytes) -> Heard:
    """Keep no id of a block without data."""
    lines = re.split("\r\n|\r|\n", stream.decode())[:-1]
    return _read(lines, passes_empty=False, keeps_lone_ids=False)


def fetch_event_source(stream: bytes) -> Heard:
    """Pass on every block, also one of comments alone, with empty data."""
    lines = re.split("\r\n|\r|\n", stream.decode())[:-1]
    return _read(lines, passes_empty=True, keeps_lone_ids=True)


def splitting_lines_of_text(stream: bytes) -> Heard:
    """`sseclient`, and `httpx-sse` before 0.4.1: lines end where `str.splitlines` ends them, as at U+2028."""
    return _read(stream.decode().splitlines(), passes_empty=False, keeps_lone_ids=True)


def splitting_bytes(stream: bytes) -> Heard:
    """`sseclient-py`, `aiohttp-sse-client`, and the Python example of our documentation."""
    lines = [line.decode() for line in stream.split(b"\n")[:-1]]
    return _read(lines, passes_empty=False, keeps_lone_ids=True)


CLIENTS: tuple[Callable[[bytes], Heard], ...] = (
    browser,
    npm_eventsource,
    fetch_event_source,
    splitting_lines_of_text,
    splitting_bytes,
)
