"""No promise without something that shows it: what docs/guarantees.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chaos.checker import CHECKS
from tests.chaos.doctoring import DOCTORINGS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "guarantees.md").read_text()
ROWS = [line for line in TEXT.split("## Promised")[1].split("\n## ")[0].splitlines() if line.startswith("| ")]
LONGEST_TEST_NAME = 80
ABOUT_EVIDENCE = "evidence-is-complete"
"""The one check that is about the run and promises nothing of the service."""
PROMISES = [row.strip("|").split("|") for row in ROWS if not row.startswith("| promise |")]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise[0].strip()[:60])
def test_a_promise_names_checks_and_tests_that_exist(promise: list[str]) -> None:
    _, _, shown_by = promise
    names = re.findall(r"`([^`]+)`", shown_by)
    assert names, "nothing shows it"
    for name in names:
        file, _, test = name.partition("::")
        if test:
            assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"there is no {name}"
        else:
            assert name in CHECKS, f"there is no check {name}"


def test_every_check_shows_a_promise() -> None:
    named = {name for *_, shown_by in PROMISES for name in re.findall(r"`([a-z-]+)`", shown_by)}

    assert CHECKS.keys() - {ABOUT_EVIDENCE} == named
    assert f"`{ABOUT_EVIDENCE}`" in TEXT


def test_every_check_has_been_seen_to_notice_a_breach_of_its_promise() -> None:
    assert CHECKS.keys() == {one.check for one in DOCTORINGS}


def test_every_row_has_a_promise_a_condition_and_a_proof() -> None:
    incomplete = [row for row in PROMISES if len(row) != 3 or not all(cell.strip() for cell in row)]

    assert incomplete == []
    assert len({row[0] for row in PROMISES}) == len(PROMISES), "a promise is there twice"


def test_no_test_has_a_name_of_more_than_80_characters() -> None:
    tests = (
        name for file in ROOT.glob("tests/**/test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    )

    assert [name for name in tests if len(name) > LONGEST_TEST_NAME] == []
