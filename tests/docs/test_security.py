"""docs/security.md names a measure and a test for each threat, and the tests are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "security.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| threat |")
]


def test_each_threat_has_a_measure_what_it_does_not_stop_and_a_test() -> None:
    assert [row for row in ROWS if len(row) != 4 or not (row[0] and row[1] and row[3])] == []


def test_each_named_test_exists() -> None:
    for *_, tests in ROWS:
        for file, name in re.findall(r"`(\S+?)::(\w+)`", tests):
            assert file.startswith("tests/"), f"write the whole path of {name}"
            assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"no {file}::{name}"
