"""An event once written decodes for ever: one file per type of event, as some version wrote it.

`<Event>.json` has every field, `<Event>.least.json` only those an event cannot be without. A file is never changed: a
field added to an event comes with a default, and in one more file, `<Event>.<field>.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from msgspec import NODEFAULT, Struct

from taskstream.events.batch_job import BatchJobEvent
from taskstream.events.codec import (
    Codec,
    batch_job_codec,
    file_codec,
    key_codec,
    operation_codec,
    owner_codec,
    pool_codec,
    schedule_codec,
    server_codec,
    task_codec,
    type_codec,
    webhook_codec,
)
from taskstream.events.envelope import Actor, Event, Recorded
from taskstream.events.file import FileEvent
from taskstream.events.key import KeyEvent
from taskstream.events.operation import OperationEvent
from taskstream.events.owner import OwnerEvent
from taskstream.events.pool import PoolEvent
from taskstream.events.schedule import ScheduleEvent
from taskstream.events.server import ServerEvent
from taskstream.events.task import TaskEvent
from taskstream.events.task_type import TypeEvent
from taskstream.events.webhook import WebhookEvent

GOLDEN = Path(__file__).parent / "golden"
VOCABULARIES: list[tuple[Any, Codec[Any]]] = [
    (TaskEvent, task_codec),
    (ServerEvent, server_codec),
    (TypeEvent, type_codec),
    (PoolEvent, pool_codec),
    (OwnerEvent, owner_codec),
    (WebhookEvent, webhook_codec),
    (ScheduleEvent, schedule_codec),
    (OperationEvent, operation_codec),
    (BatchJobEvent, batch_job_codec),
    (FileEvent, file_codec),
    (KeyEvent, key_codec),
]
CODECS: dict[str, Codec[Any]] = {
    event.__name__: codec for vocabulary, codec in VOCABULARIES for event in get_args(vocabulary)
}
TYPES = {event.__name__: event for vocabulary, _ in VOCABULARIES for event in get_args(vocabulary)}


def golden(vocabulary: Any) -> list[Any]:
    """Return an event of each type, with every field."""
    names = [event.__name__ for event in get_args(vocabulary)]
    return [CODECS[name].decode((GOLDEN / f"{name}.json").read_bytes()).event for name in names]


files = pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.json")), ids=lambda file: file.stem)


def name_of(file: Path) -> str:
    return file.name.partition(".")[0]


def test_every_event_class_is_in_a_vocabulary() -> None:
    defined = {event.__name__ for event in Event.__subclasses__() if event.__module__.startswith("taskstream.")}

    assert defined == set(TYPES)


def test_every_type_of_event_has_a_golden_file_and_no_file_is_of_another() -> None:
    assert {name_of(file) for file in GOLDEN.iterdir()} == set(TYPES)


@files
def test_a_golden_event_decodes_and_encodes_again_to_the_same(file: Path) -> None:
    codec = CODECS[name_of(file)]

    decoded = codec.decode(file.read_bytes())

    assert type(decoded.event) is TYPES[name_of(file)]
    assert json.loads(codec.encode(decoded)) == json.loads(file.read_bytes())


@pytest.mark.parametrize("name", sorted(TYPES))
def test_the_golden_files_cover_every_field(name: str) -> None:
    found: set[str] = set()
    for file in GOLDEN.glob(f"{name}.*"):
        found |= set(paths(json.loads(file.read_bytes())["event"]))

    assert set(fields(TYPES[name])) <= found


@files
def test_an_event_without_its_optional_fields_decodes_too(file: Path) -> None:
    codec, event_type = CODECS[name_of(file)], TYPES[name_of(file)]
    content = json.loads(file.read_bytes())
    content.pop("cause", None)
    for field in msgspec.structs.fields(event_type):
        if field.default is not NODEFAULT or field.default_factory is not NODEFAULT:
            content["event"].pop(field.name, None)

    decoded = codec.decode(json.dumps(content).encode())

    assert decoded.cause == ""
    assert json.loads(codec.encode(decoded)) == content


@files
def test_fields_that_a_newer_version_wrote_are_passed_over(file: Path) -> None:
    codec = CODECS[name_of(file)]
    content = json.loads(file.read_bytes())
    newer = content | {
        "since": 9,
        "by": content["by"] | {"ip": "?"},
        "event": content["event"] | {"mood": ["good"]},
    }

    assert codec.decode(json.dumps(newer).encode()) == codec.decode(json.dumps(content).encode())


def test_the_circumstances_of_an_event_are_read() -> None:
    decoded: Recorded[Any] = task_codec.decode((GOLDEN / "TaskQueued.json").read_bytes())

    assert decoded.id == "01JGOLDEN0001"
    assert decoded.at.isoformat() == "2026-01-02T03:04:05.678901+00:00"
    assert (decoded.by, decoded.cause) == (Actor("user", "alice@example.com"), "4711")


def fields(struct: type[Struct], prefix: str = "") -> list[str]:
    """Return the paths of all fields of a struct and of the structs in it."""
    found = []
    for name, hint in get_type_hints(struct).items():
        if name in struct.__struct_fields__:
            found.append(prefix + name)
            for inner in get_args(hint) or (hint,):
                if isinstance(inner, type) and issubclass(inner, Struct):
                    found += fields(inner, f"{prefix}{name}.")
    return found


def paths(content: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in content.items():
        found.append(prefix + name)
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                found += paths(inner, f"{prefix}{name}.")
    return found
