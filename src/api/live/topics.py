"""Topics as clients name them, and the id that resumes a stream of several.

    stats    alarms    fleet    tasks:<query of GET /api/tasks>    task:<id>    log:<query of GET /api/log>

An id is `<topic>=<place>` for each topic that has a position, joined by `|`; `<topic>` is the beginning of a digest. So
a client that opens a stream of other topics resumes those that it had.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias, get_args
from urllib.parse import parse_qsl

import msgspec

from ...errors import InvalidInput
from ...index.query import TaskQuery
from ...projections.log_entries import EntryFilter
from ...wire.validation_errors import invalid
from ..auth.authenticator import Identity
from ..log_query import entry_filter
from ..schemas.bulk import TaskSelection
from ..task_filter import task_filter

TopicKind: TypeAlias = Literal["stats", "alarms", "fleet", "tasks", "task", "log"]
TOPIC_KINDS: tuple[TopicKind, ...] = get_args(TopicKind)
MOST_TOPICS = 20
LONGEST_TOPIC = 2_000
LONGEST_ID = 8 * 1024
LONGEST_PLACE = 4 * 1024
UNKNOWN_PLACE = "-"
_PLACE = re.compile(rf"[!-~]{{1,{LONGEST_PLACE}}}", re.ASCII)
"""It is sent back as it came: a line feed in it would be a line of the stream."""
_LISTS = frozenset({"status", "type", "pool", "server", "priority", "kind", "hold"})
_NAMED = {"label.": "labels", "payload.": "payload"}
_LOG_PARAMETERS = frozenset({"log", "event", "actor", "subject"})


class LiveTopic(NamedTuple):
    """A topic of a client."""

    kind: TopicKind
    text: str
    """As the client wrote it."""
    rest: str
    """The text after the colon."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]


def read_topics(given: Iterable[str]) -> list[LiveTopic]:
    """Return the topics of a request, each once. Raises InvalidInput."""
    topics: dict[str, LiveTopic] = {}
    for text in given:
        kind, _, rest = text.partition(":")
        known = next((each for each in TOPIC_KINDS if each == kind), None)
        if known is None or (known in ("stats", "alarms", "fleet") and text != kind) or len(text) > LONGEST_TOPIC:
            raise InvalidInput(
                "must be `stats`, `alarms`, `fleet`, `tasks:<query of GET /api/tasks>`, `task:<id>` or "
                f"`log:<query of GET /api/log>`, of at most {LONGEST_TOPIC:,} characters",
                "topic",
            )
        topics[text] = LiveTopic(known, text, rest)
    if not 0 < len(topics) <= MOST_TOPICS:
        raise InvalidInput(f"give 1 to {MOST_TOPICS} topics", "topic")
    return list(topics.values())


def tasks_wanted(identity: Identity, query: str) -> TaskQuery:
    """Return the filter of a topic `tasks:`. Raises InvalidInput, Forbidden."""
    fields: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        named = next((prefix for prefix in _NAMED if name.startswith(prefix)), None)
        if named is not None:
            found = fields.setdefault(_NAMED[named], {})
            if name.removeprefix(named) in found:
                raise InvalidInput(f"`{name}` is given more than once", "topic")
            found[name.removeprefix(named)] = value
        elif name in _LISTS:
            values = [value] if name == "server" else [part for part in value.split(",") if part]
            fields.setdefault(name, []).extend(values)
        elif name in fields:
            raise InvalidInput(f"`{name}` is given more than once", "topic")
        else:
            fields[name] = value
    try:
        selection = msgspec.convert(fields, TaskSelection, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(invalid(error, TaskSelection).detail, "topic") from None
    with _at_topic():
        return task_filter(identity, selection, "list")


def lines_wanted(identity: Identity, query: str, now: datetime) -> EntryFilter:
    """Return the filter of a topic `log:`. Raises InvalidInput."""
    given: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _LOG_PARAMETERS:
            raise InvalidInput(f"`log:` takes {', '.join(sorted(_LOG_PARAMETERS))}, not `{name}`", "topic")
        given.setdefault(name, []).append(value)
    for name in ("actor", "subject"):
        if len(given.get(name, [])) > 1:
            raise InvalidInput(f"`{name}` is given more than once", "topic")
    with _at_topic():
        return entry_filter(
            identity,
            now,
            logs=given.get("log"),
            event=given.get("event"),
            actor=next(iter(given.get("actor", [])), None),
            subject=next(iter(given.get("subject", [])), None),
        )


@contextlib.contextmanager
def _at_topic() -> Iterator[None]:
    """Name the parameter `topic` in what a query is refused for."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(str(error), "topic") from None


def read_places(event_id: str | None) -> Mapping[str, str]:
    """Return the places in an id, by the digests of their topics; none of a text that is no id.

    A place that is none becomes UNKNOWN_PLACE, which resets its topic.
    """
    if not event_id or len(event_id) > LONGEST_ID:
        return {}
    parts = (part.partition("=") for part in event_id.split("|"))
    return {
        digest: place if _PLACE.fullmatch(place) else UNKNOWN_PLACE for digest, _, place in parts if digest and place
    }


def write_places(places: Iterable[tuple[LiveTopic, str]]) -> str:
    """Return the id of a stream whose topics are at these places."""
    parts = []
    for topic, place in places:
        # What was seen live of many tasks makes a place long: then some progress may be repeated.
        shown = place if len(place) <= LONGEST_PLACE // MOST_TOPICS else place.partition(";")[0]
        if shown:
            parts.append(f"{topic.digest}={shown}")
    return "|".join(parts)
