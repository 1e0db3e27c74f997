"""Every check has a doctoring that it must notice; `test_short_run.py` applies all to the evidence of clean runs."""

from __future__ import annotations

from collections import Counter

from chaos.checker import CHECKS, check
from chaos.evidence import Evidence

from .doctoring import DOCTORINGS


def test_every_check_has_a_doctoring_of_a_clean_run() -> None:
    assert {one.check for one in DOCTORINGS} == CHECKS.keys()


def test_no_doctoring_is_there_twice() -> None:
    names = Counter((one.check, one.what) for one in DOCTORINGS)

    assert [name for name, count in names.items() if count > 1] == []


def test_no_evidence_is_no_proof() -> None:
    assert {violation.check for violation in check(Evidence(calls=[], log=[], backends=[]))} == {"evidence-is-complete"}
