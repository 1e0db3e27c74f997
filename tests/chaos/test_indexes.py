"""The comparison of an API's index with the log: it sees a file of which one figure is wrong."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from chaos.indexes import index_bucket, index_file
from taskstream.clock import utc_now
from taskstream.events.ids import TaskRef
from taskstream.index.schema import connect
from taskstream.index.task_index import TaskIndex

from ..deciders.support import failed, started, submitted
from ..index.test_task_index import log_of, opened


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        ("SELECT 1", []),
        ("UPDATE figures SET failures = NULL WHERE unit = 0 AND owner = ''", ["figure.figures.0."]),
        ("DELETE FROM figures WHERE unit = 1 AND owner = 'alice'", ["figure.figures.1."]),
        ("UPDATE figures SET parts = NULL WHERE unit = 1 AND owner = ''", ["figure.figures.1."]),
        ("UPDATE activity SET events = events + 1", ["figure.activity.alice."]),
        ("UPDATE sums SET failed = 2 WHERE dimension = 'pool'", ["figure.sums.pool.text"]),
        ("UPDATE shapes SET last = last + 1 WHERE owner = 'alice'", ["figure.shapes.alice.1-"]),
        ("UPDATE tasks SET attempt = 2", ["row.alice.0000"]),
    ],
)
def test_one_wrong_row_or_figure_of_an_index_is_seen(tmp_path: Path, spoil: str, wrong: list[str]) -> None:
    at = utc_now() - timedelta(minutes=2)
    log = log_of(TaskRef("alice", "0" * 26), submitted(), started(), failed(), at=at)
    with closing(opened(tmp_path)) as connection:
        index = TaskIndex(connection)
        for position in log:
            index.apply([position])
            index.flush()
    with closing(connect(index_file(tmp_path))) as connection:
        connection.execute(spoil)

    bucket = index_bucket("index", tmp_path, log, {})

    different = [key for key in bucket.wanted | bucket.found if bucket.wanted.get(key) != bucket.found.get(key)]
    assert [key[: len(beginning)] for key, beginning in zip(different, wrong, strict=True)] == wrong
