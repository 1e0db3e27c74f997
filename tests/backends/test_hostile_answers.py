"""Answers that a reader does not expect: each costs its own attempt, or its own server's check, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskstream.backends.dialects import answer_tests
from taskstream.backends.dialects.cog_prediction import Verdict, read_prediction
from taskstream.backends.dialects.cog_progress import Metrics
from taskstream.backends.dialects.contents import as_json
from taskstream.backends.dialects.dialect import BadAnswer, Completed, Failed, Turn
from taskstream.backends.dialects.input_schema import NoSchema, read_schema
from taskstream.backends.dialects.job_progress import JobProgress
from taskstream.backends.dialects.oip import Oip
from taskstream.backends.health_expectation import read_health
from taskstream.events.exchange import AnswerTest, StreamedParts
from taskstream.events.server import HealthExpectation

from .test_conformance import Wired, wired_with
from .test_exchanges import ScriptedDialect
from .wire_fixtures import FIXTURES, Wire

NO_UTF8 = b'{"a":"\xff"}'
VERDICT = Verdict(task_id="t", server_id="s", concatenates=False, accepts="any")


@pytest.fixture
def dialect() -> ScriptedDialect:
    return ScriptedDialect()


@pytest.fixture
async def wired(dialect: ScriptedDialect) -> AsyncIterator[Wired]:
    async with wired_with(dialect, FIXTURES["taskstream"]) as found:
        yield found


@pytest.mark.parametrize("error", [OverflowError("inf"), RecursionError(), ValueError("x"), KeyError("x")], ids=repr)
async def test_an_answer_that_a_dialect_cannot_read_is_a_bad_answer(
    wired: Wired, dialect: ScriptedDialect, error: Exception
) -> None:
    def fail(_: object) -> Turn:
        raise error

    dialect.follow = fail

    answer = await wired.call(Wire(200))

    assert isinstance(answer, Failed)
    assert answer.kind == "bad_answer"
    assert answer.error.startswith("the answer ")


def test_json_with_a_nul_that_is_not_utf_8_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer, match="is not JSON: the text is not valid JSON at byte 14"):
        as_json(b'{"a":"\xff","b":"\x00"}')


def test_health_answers_that_are_not_utf_8_are_no_json() -> None:
    expected = HealthExpectation(json={"a": 1})

    assert read_health(expected, 200, NO_UTF8).reason == "health check answered 200 without JSON"
    assert Oip().read_health(503, NO_UTF8).well is False


@pytest.mark.parametrize("dialect_name", ["cog", "bare", "oip"])
def test_a_description_that_is_not_utf_8_gives_no_schema(dialect_name: str) -> None:
    with pytest.raises(NoSchema, match="is not JSON"):
        read_schema(dialect_name, FIXTURES["taskstream"].server("http://127.0.0.1:1"), 200, NO_UTF8)


def test_a_time_in_the_model_beyond_all_bounds_is_left_out() -> None:
    prediction = read_prediction(b'{"status":"succeeded","output":1,"metrics":{"predict_time":1e308}}')

    answer = VERDICT.of(prediction, 1)

    assert isinstance(answer, Completed)
    assert b'"model_time":0' in answer.result


def test_a_metric_is_not_added_to_beyond_what_a_float_holds() -> None:
    metrics = Metrics()

    assert metrics.change("a", 10**400, "increment") is None
    assert metrics.change("a", 1.5, "increment") is not None


def test_progress_of_a_huge_integer_is_all_of_it() -> None:
    progress = JobProgress(StreamedParts(done=AnswerTest(status=(200,)), progress="$.p"))
    found = as_json(b'{"p":1%b}' % (b"0" * 400))

    update = progress.read(answer_tests.TestedAnswer(200, found.text, found), is_last=True)

    assert update is not None
    assert update.progress == 100
