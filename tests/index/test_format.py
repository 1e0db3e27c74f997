"""FORMAT names one content of the index. A change of the tables, or of what is folded into them, must raise it.

A process that finds a file of its FORMAT continues it, so a file of the same number with another content would be half
of each. After a change raise FORMAT in src/index/schema.py, and run this test with UPDATE_FORMAT=1.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import closing
from pathlib import Path

from taskstream.events.ids import TaskRef
from taskstream.events.task import PRIORITIES, Plan
from taskstream.index import figures, schema, shapes
from taskstream.index.comparison import compared_figures, compared_tasks
from taskstream.index.facts import HOLDS
from taskstream.projections.task_view import TaskView

from ..deciders.support import (
    NOW,
    attempt_failed,
    cancel_reported,
    cancelled,
    failed,
    queued,
    started,
    submitted,
    succeeded,
)
from .test_task_index import indexed, log_of, opened

FORMATS = Path(__file__).with_name("formats.json")
"""The digest of each FORMAT."""
HISTORIES = (
    [submitted(owner="bob", indexed={"$.customer": "acme"}), started(), succeeded()],
    [submitted(plan=Plan(require={"region": "eu"}, depends_on=("p",), concurrency_key="k"), held=True)],
    [submitted(batch="b", batch_size=2, schedule="s", priority="high"), started(), attempt_failed(error="code 7")],
    [submitted(project="p"), started(), failed(error="no such model: 'x'"), queued(renewed=True), started(2)],
    [submitted(task_type="other"), cancelled()],
    [submitted(), started(), failed(error="a\0b")],
    [submitted(), started(), cancelled(1, "s1"), cancel_reported()],
)
TEXTS = (
    "cannot reach 10.0.0.7:8000 after 2.5 s",
    "no file '/srv/a b/x.bin' of 12 at 2026-01-02T03:04:05Z",
    "task 01KDW1Z6P0C6N4T0Z5V3Q9H8RB~alice: HTTP 503, `x`, https://example.org/a?b=1, 0xdeadbeef",
)


def digest(folder: Path) -> str:
    """Return a digest of the tables, of all that has places or names in them, and of what a log is folded into."""
    told: list[object] = [
        schema.SCHEMA, schema.STATUSES, schema.FAILURE_KINDS, schema.SLOTS, HOLDS, PRIORITIES, shapes.VERSION,
        TaskView.__struct_fields__, figures.Failures.__struct_fields__, figures.Shape.__struct_fields__,
        [shapes.shape_and_fingerprint("failed", text) for text in TEXTS],
        [figures.bucket_of(7**power) for power in range(16)],
    ]  # fmt: skip
    with closing(opened(folder)) as connection:
        index = indexed(connection)
        for number, events in enumerate(HISTORIES):
            index.apply(log_of(TaskRef("alice", f"{number:026d}"), *events, first=index.position + 1))
        index.flush()
        told += compared_tasks(connection)
        told += sorted(compared_figures(connection, NOW).items(), key=str)
    return hashlib.sha256("\n".join(map(repr, told)).encode()).hexdigest()[:16]


def test_another_content_of_the_index_has_another_format(tmp_path: Path) -> None:
    known = json.loads(FORMATS.read_text())
    found, number = digest(tmp_path), str(schema.FORMAT)
    if os.environ.get("UPDATE_FORMAT") and number not in known:
        known[number] = found
        FORMATS.write_text(json.dumps(known, indent=2) + "\n")

    assert known.get(number) == found, "raise FORMAT in src/index/schema.py, then run this with UPDATE_FORMAT=1"
    assert len(set(known.values())) == len(known)
    assert max(map(int, known)) == schema.FORMAT
