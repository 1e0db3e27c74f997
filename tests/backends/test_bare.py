"""The dialect `bare`: what is sent, what answers mean, and how a job is followed. Pure: no server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.backends.dialects.bare import LONGEST_PAUSE, Bare
from taskstream.backends.dialects.dialect import (
    BadAnswer,
    Busy,
    Call,
    Completed,
    Conversation,
    Failed,
    FailedByBackend,
    Final,
    Next,
    Reply,
    Request,
    Turn,
    Update,
    attempt_id,
)
from taskstream.events.exchange import (
    Acceptance,
    AnswerTest,
    BareExchange,
    Cancellation,
    Poll,
    RequestTemplate,
    StreamedParts,
)
from taskstream.events.server import ServerRegistered

CALL = Call(
    task_id="0" * 26 + "~alice",
    task_type="t",
    attempt=1,
    payload=Raw(b'{"text": "hi"}'),
    deadline=datetime.now(UTC),
    callback_url="",
    callback_token="",
    api_key="key-of-the-server",
)
LOST = Failed(kind="unreachable", error="gone")
SECOND = timedelta(seconds=1)


def body(condition: str) -> AnswerTest:
    return AnswerTest(body=condition)


def status(*statuses: int) -> AnswerTest:
    return AnswerTest(status=statuses)


POLLED = BareExchange(
    accepted=Acceptance(when=status(202), id="$.job"),
    poll=Poll(
        url="{id}",
        done=body('$.state == "done"'),
        failed=body('$.state == "failed"'),
        interval=SECOND,
        progress="$.percent",
        message="$.doing",
        logs="$.log",
    ),
    result="$.output",
    error="$.why",
    cancel=Cancellation(method="DELETE", url="{id}", confirmed=body("$.stopped == true")),
)
ACCEPTED = {"job": "j/1"}


def begun(exchange: BareExchange | None = None, call: Call = CALL, **more: Any) -> Conversation:
    server = ServerRegistered(
        server_id="s1", name="", provider="", predict_url="http://h/jobs", dialect="bare", exchange=exchange, **more
    )
    conversation = Bare().converse(server, call)
    conversation.begin()
    return conversation


def answer(content: Any = b"", status: int = 200, media_type: str = "application/json", **more: Any) -> Reply:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Reply(status=status, headers={"Content-Type": media_type} | more.pop("headers", {}), body=text, **more)


def read(exchange: BareExchange | None, content: Any = b"", status: int = 200, **more: Any) -> Turn:
    """Return what follows this answer to the first request."""
    return begun(exchange).read(answer(content, status, **more))


def polling(exchange: BareExchange = POLLED) -> Conversation:
    """Return a conversation whose job was accepted."""
    conversation = begun(exchange)
    assert isinstance(conversation.read(answer(ACCEPTED, 202)), Next)
    return conversation


def data(turn: Any) -> Any:
    found = turn.answer if isinstance(turn, Final) else turn
    assert isinstance(found, Completed), turn
    return json.loads(found.result)["data"]


def error(turn: Any, kind: str) -> str:
    assert isinstance(turn, Failed), turn
    assert turn.kind == kind
    return turn.error


# The request


def test_without_settings_the_payload_is_the_body() -> None:
    server = ServerRegistered(server_id="s1", name="", provider="", predict_url="http://h/p?x=1", dialect="bare")

    request = Bare().converse(server, CALL).begin()

    assert (request.method, request.url, request.body) == ("POST", "http://h/p?x=1", b'{"text": "hi"}')
    assert request.headers == {"Content-Type": "application/json", "Authorization": "Bearer key-of-the-server"}


def test_a_template_has_its_method_url_headers_and_body() -> None:
    template = RequestTemplate(
        method="PUT", url="run/{id}", headers={"X-V": "2"}, body={"in": "$payload.text", "id": "$id"}
    )
    server = ServerRegistered(
        server_id="s1", name="", provider="", predict_url="http://h/p", exchange=BareExchange(request=template),
        auth_header="X-Key",
    )  # fmt: skip

    request = Bare().converse(server, CALL).begin()

    assert (request.method, request.url) == ("PUT", f"http://h/p/run/{attempt_id(CALL.task_id, CALL.attempt)}")
    assert json.loads(request.body or b"") == {"in": "hi", "id": attempt_id(CALL.task_id, CALL.attempt)}
    assert request.headers["X-V"] == "2"
    assert request.headers["X-Key"] == "key-of-the-server"


# The answer


@pytest.mark.parametrize(
    ("content", "media_type", "expected"),
    [
        ({"a": 1}, "application/json", {"a": 1}),
        (b"3.10", "application/json", 3.1),
        (b"It was dark.", "text/plain; charset=utf-8", "It was dark."),
        (b"", "text/plain", None),
    ],
)
def test_the_answer_is_the_result(content: Any, media_type: str, expected: Any) -> None:
    assert data(read(None, content, media_type=media_type)) == expected


def test_bytes_are_a_file() -> None:
    turn = read(None, b"RIFF\x00", media_type="audio/wav")

    assert isinstance(turn, Completed)
    assert turn.file is not None
    assert (turn.file.media_type, turn.file.content) == ("audio/wav", b"RIFF\x00")
    assert data(turn)["$ref"].startswith(f"/api/task/{CALL.task_id}/result/")


def test_a_result_is_taken_from_its_place() -> None:
    at = BareExchange(result="$.outputs[0].data")

    assert data(read(at, {"outputs": [{"data": [1, None]}], "n": 1})) == [1, None]
    assert data(read(at, {"outputs": [{"data": None}]})) is None
    assert data(read(at, b'{"outputs": [{"data": 123456789012345678901}], "x": NaN}')) == 123456789012345678901


@pytest.mark.parametrize(
    ("content", "media_type", "why"),
    [
        ({"error": "out of memory"}, "application/json", "nothing at `$.output`"),
        (b"{", "application/json", "is not JSON"),
        (b"fine", "text/plain", "nothing at `$.output`"),
        (b"", "application/json", "nothing at `$.output`"),
        (b'{"output": [1, NaN]}', "application/json", "NaN"),
    ],
)
def test_an_answer_without_its_result_is_never_a_success(content: Any, media_type: str, why: str) -> None:
    assert why in error(read(BareExchange(result="$.output"), content, media_type=media_type), "bad_answer")


def test_a_type_that_accepts_json_only_gets_nothing_else() -> None:
    turn = begun(None, replace(CALL, accepts="json")).read(answer(b"text", media_type="text/plain"))

    assert "accepts JSON only" in error(turn, "bad_answer")


def test_an_acceptance_without_a_way_to_poll_is_a_bad_answer_that_says_so() -> None:
    for exchange in (None, replace(POLLED, accepted=Acceptance(when=body("$.other"), id="$.job"))):
        assert "exchange.poll" in error(read(exchange, ACCEPTED, 202), "bad_answer")


@pytest.mark.parametrize(
    ("test", "content", "code", "holds"),
    [
        (body('$.status == "failed"'), {"status": "failed"}, 200, True),
        (body('$.status == "failed"'), {"status": "failed"}, 500, True),
        (body('$.status == "failed"'), {"status": "fine"}, 200, False),
        (body("$.x == 1"), b"null", 200, False),
        (body("!$.ok"), b"null", 200, False),
        (status(500, 507), b"", 507, True),
        (AnswerTest(status=(500,), contains="Queue FULL"), b"error: queue full, sorry", 500, True),
        (AnswerTest(status=(500,), contains="queue full"), b"queue full", 200, False),
        (AnswerTest(contains="queue full"), b"x" * 65_536 + b"queue full", 200, False),
    ],
)
def test_a_test_of_an_answer_holds_if_all_its_parts_do(test: AnswerTest, content: Any, code: int, holds: bool) -> None:
    media_type = "application/json" if isinstance(content, dict) or content == b"null" else "text/plain"

    turn = read(BareExchange(fail_when=test), content, code, media_type=media_type)

    assert isinstance(turn, FailedByBackend) == holds


def test_a_failure_in_a_success_has_its_reason_and_what_the_server_said() -> None:
    turn = read(BareExchange(fail_when=body("$.e"), error="$.e.why"), {"e": {"why": "no such\nvoice"}})

    assert isinstance(turn, FailedByBackend)
    assert turn.error == "no such voice"
    result = json.loads(turn.result)
    assert result["data"] == {"e": {"why": "no such\nvoice"}}
    assert (result["metadata"]["status"], result["metadata"]["message"]) == ("FAILED", "no such voice")


def test_a_failure_without_a_reason_says_that_there_is_none() -> None:
    turn = read(BareExchange(fail_when=status(200), error="$.missing"), {"a": 1})

    assert isinstance(turn, FailedByBackend)
    assert turn.error == "the server reports failure (status 200)"


def test_a_status_that_is_usually_for_good_may_be_tried_again() -> None:
    exchange = BareExchange(retry_when=status(424), error="$.error")

    assert error(read(exchange, {"error": "backend"}, 424), "error") == "the server answered 424: backend"
    assert error(read(exchange, {"error": "bad"}, 422), "rejected") == "the server answered 422: bad"


def test_a_condition_may_mean_busy() -> None:
    exchange = BareExchange(busy_when=AnswerTest(status=(500,), contains="queue"))

    turn = read(exchange, b"queue is full", 500, media_type="text/plain", retry_after=7 * SECOND)

    assert isinstance(turn, Busy)
    assert turn.retry_after == 7 * SECOND
    assert isinstance(read(exchange, b"bug", 500), Failed)


def test_statuses_of_the_registration_replace_those_that_mean_busy() -> None:
    assert isinstance(read(None, status=503), Busy)
    assert isinstance(begun(busy_status=(409,)).read(answer(status=503)), Failed)
    assert isinstance(begun(busy_status=(409,)).read(answer(status=409)), Busy)


def test_an_answer_that_is_too_large_to_be_searched_is_no_success() -> None:
    large = {"items": ["x" * 70_000], "error": 1}

    assert "too large" in error(read(BareExchange(fail_when=body("$.items[*]")), large), "bad_answer")


def test_a_stored_path_that_cannot_be_read_any_more_fails_attempts_and_blames_nobody() -> None:
    turn = read(BareExchange(result="$[broken"), {"a": 1})

    assert "registration" in error(turn, "error")
    assert isinstance(turn, Failed)
    assert turn.is_neutral


# Jobs that are polled


def test_an_accepted_job_is_polled_by_its_id_until_it_is_done() -> None:
    conversation = begun(POLLED)

    first = conversation.read(answer(ACCEPTED, 202))
    again = conversation.read(answer({"state": "running", "percent": 40, "log": "a\nb"}))
    done = conversation.read(answer({"state": "done", "percent": 100, "log": "a\nb\nc", "output": [1]}))

    assert isinstance(first, Next)
    assert (first.request.method, first.request.url, first.after) == ("GET", "http://h/jobs/j%2F1", SECOND)
    assert first.request.headers["Authorization"] == "Bearer key-of-the-server"
    assert first.request.within
    assert again == Next(request=first.request, after=SECOND, update=Update(progress=40, lines=("a",)))
    assert isinstance(done, Final)
    assert done.update == Update(progress=100, lines=("b", "c"))
    assert data(done) == [1]


def test_a_job_that_failed_fails_the_task_with_its_reason() -> None:
    turn = polling().read(answer({"state": "failed", "why": "no such voice", "log": "boom"}))

    assert isinstance(turn, Final)
    assert turn.update.lines == ("boom",)
    assert isinstance(turn.answer, FailedByBackend)
    assert turn.answer.error == "no such voice"


def test_progress_is_reported_when_it_changes() -> None:
    poll = Poll(url="{id}", done=body("$.done"), progress="$.p", progress_max=1, message="$.m", logs="$.l")
    conversation = polling(replace(POLLED, poll=poll))
    reported = []
    came = [{"p": 0.5}, {"p": 0.5}, {"p": 0.5, "m": "x"}, {"p": 2, "m": "x"}, {"p": "soon"}, {"p": True}]
    for content in [*came, {"l": ["a", "b"]}, {"l": ["c"]}]:
        turn = conversation.read(answer(content))
        assert isinstance(turn, Next)
        if turn.update is not None:
            reported.append((turn.update.progress, turn.update.message, turn.update.lines))

    assert reported == [(50, None, ()), (50, "x", ()), (100, "x", ()), (None, None, ("a", "b")), (None, None, ("c",))]


def test_a_long_log_is_shortened_to_its_newest_lines() -> None:
    turn = polling().read(answer({"log": "".join(f"{n} {'x' * 9_000}\n" for n in range(300))}))

    assert isinstance(turn, Next)
    assert turn.update is not None
    assert sum(map(len, turn.update.lines)) <= 64 * 1024
    assert turn.update.lines[-1].startswith("299 ")
    assert "left out" in turn.update.notes[0]


@pytest.mark.parametrize("content", [{}, {"job": None}, {"job": ".."}, {"job": ["j"]}, b"{", b"text"])
def test_an_acceptance_without_an_id_is_a_bad_answer(content: Any) -> None:
    error(read(POLLED, content, 202), "bad_answer")


def test_a_server_may_know_the_job_by_our_id() -> None:
    own = replace(POLLED, accepted=Acceptance(when=body("$.queued == true")))

    turn = read(own, {"queued": True})

    assert isinstance(turn, Next)
    assert turn.request.url == f"http://h/jobs/{attempt_id(CALL.task_id, CALL.attempt)}"


@pytest.mark.parametrize(
    ("place", "more"),
    [("$.urls.get", {"content": {"urls": {"get": "/p/7?x=1"}}}), ("location", {"headers": {"Location": "/p/7?x=1"}})],
)
def test_the_acceptance_may_name_the_url_to_poll(place: str, more: dict[str, Any]) -> None:
    acceptance = Acceptance(when=status(202), status_url=place)
    named = replace(POLLED, accepted=acceptance, poll=Poll(done=body("$.done")), cancel=None)

    turn = read(named, more.pop("content", {}), 202, **more)

    assert isinstance(turn, Next)
    assert turn.request.url == "http://h/p/7?x=1"
    assert "no URL at" in error(read(named, {}, 202), "bad_answer")


def test_a_lost_poll_is_repeated_after_growing_pauses_then_the_job_is_given_up() -> None:
    conversation = polling()
    pauses = []
    turn = conversation.lost(LOST)
    while isinstance(turn, Next) and turn.request.method == "GET":
        pauses.append(turn.after.total_seconds())
        turn = conversation.lost(LOST)

    assert pauses == [1, 2, 4, 8, 16, 29]
    assert isinstance(turn, Next)
    assert (turn.request.method, turn.request.url) == ("DELETE", "http://h/jobs/j%2F1")  # it may still run
    assert conversation.lost(Failed(kind="unreachable", error="still gone")) == LOST


def test_an_answer_ends_the_count_of_lost_polls() -> None:
    conversation = polling()
    for _ in range(20):
        assert isinstance(conversation.lost(LOST), Next)
        assert isinstance(conversation.read(answer({"state": "running"})), Next)


@pytest.mark.parametrize("code", [408, 500, 502, 504])
def test_an_error_of_a_poll_is_as_good_as_none(code: int) -> None:
    conversation = polling()
    turns = [conversation.read(answer({"why": "hiccup"}, code)) for _ in range(8)]

    assert all(isinstance(turn, Next) for turn in turns[:7])
    assert isinstance(turns[6], Next)
    assert turns[6].request.method == "DELETE"
    assert error(turns[7], "error").startswith(f"the server answered {code}: hiccup")


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_answer_to_a_poll_means_later_however_often(code: int) -> None:
    conversation = polling()
    turns = [conversation.read(answer(status=code, retry_after=7 * SECOND)) for _ in range(100)]

    pauses = [turn.after for turn in turns if isinstance(turn, Next)]
    assert len(pauses) == 100
    assert (min(pauses), max(pauses)) == (7 * SECOND, LONGEST_PAUSE)


def test_a_server_may_ask_for_longer_pauses_up_to_five_minutes() -> None:
    conversation = polling()

    for asked, pause in ((0, 1), (7, 7), (86_400, 300)):
        turn = conversation.read(answer({"state": "running"}, retry_after=asked * SECOND))
        assert isinstance(turn, Next)
        assert turn.after == pause * SECOND


@pytest.mark.parametrize("code", [404, 410])
def test_a_job_that_the_server_does_not_know_is_tried_again_elsewhere(code: int) -> None:
    assert "does not know the job any more" in error(polling().read(answer({}, code)), "error")


@pytest.mark.parametrize(("content", "code"), [({}, 401), ({}, 302), (b"{", 200), (b"<html>", 400), (b"\xff", 200)])
def test_an_answer_that_says_nothing_about_the_job_never_ends_it_well(content: Any, code: int) -> None:
    conversation = polling()
    turn = conversation.read(answer(content, code))
    for _ in range(200):
        if not isinstance(turn, Next):
            break
        turn = conversation.read(answer(content, code))

    assert isinstance(turn, Next | Failed)


def test_a_success_that_is_done_and_lacks_its_result_is_given_up() -> None:
    conversation = polling()

    turn = conversation.read(answer({"state": "done"}))

    assert isinstance(turn, Next)
    assert turn.request.method == "DELETE"
    assert "nothing at `$.output`" in error(conversation.read(answer({"state": "done", "output": 1})), "bad_answer")


def fetching() -> Conversation:
    """Return a conversation that asks for the result of a job that is done."""
    poll = Poll(url="{id}", done=body("$.done"), result_url="../results/{id}")
    conversation = polling(replace(POLLED, poll=poll, result=""))
    waiting = conversation.read(answer({}))
    assert isinstance(waiting, Next)
    assert waiting.request.url == "http://h/jobs/j%2F1"
    turn = conversation.read(answer({"done": True}))
    assert isinstance(turn, Next)
    assert (turn.request.url, turn.after) == ("http://h/results/j%2F1", timedelta(0))
    return conversation


def test_a_result_may_be_fetched_from_its_own_url() -> None:
    assert data(fetching().read(answer({"a": 1}))) == {"a": 1}
    assert data(fetching().read(answer(b"text", media_type="text/plain"))) == "text"
    turn = fetching().read(answer(b"\x89PNG", media_type="image/png"))
    assert isinstance(turn, Completed)
    assert turn.file is not None


def test_an_error_in_the_place_of_a_result_is_the_job_s() -> None:
    assert "no such voice" in error(fetching().read(answer({"why": "no such voice"}, 400)), "rejected")
    error(fetching().read(answer({}, 500)), "error")
    error(fetching().read(answer({}, 404)), "error")
    for passing in (429, 502, 503, 504):
        assert isinstance(fetching().read(answer({}, passing)), Next)
    assert isinstance(fetching().lost(LOST), Next)


# Cancellation


def cancelled(conversation: Conversation, reply: Reply | None = None) -> tuple[str, Request | None]:
    request = conversation.cancel()
    outcome = conversation.read_cancel(reply if request is not None else None)
    assert isinstance(outcome, str)
    return outcome, request


def test_a_cancellation_says_what_is_known_of_the_job() -> None:
    assert cancelled(begun(POLLED)) == ("requested", None)  # the server has not named the job
    assert cancelled(begun(None)) == ("requested", None)
    assert cancelled(polling(replace(POLLED, cancel=None))) == ("impossible", None)
    assert cancelled(polling(), answer({"stopped": True}))[0] == "confirmed"
    assert cancelled(polling(), answer({"stopped": False}))[0] == "unconfirmed"
    assert cancelled(polling(), answer({"stopped": True}, 500))[0] == "unconfirmed"
    assert cancelled(polling(), answer(b"{"))[0] == "unconfirmed"


def test_without_an_answer_that_confirms_a_cancellation_it_was_requested() -> None:
    plain = replace(POLLED, cancel=Cancellation(url="stop", body={"delete": ["$id"]}))

    outcome, request = cancelled(polling(plain), answer({}))

    assert outcome == "requested"
    assert request is not None
    assert (request.method, request.url, request.body) == ("POST", "http://h/jobs/stop", b'{"delete":["j/1"]}')
    assert cancelled(polling(plain), answer({}, 404))[0] == "unconfirmed"


def test_a_job_that_the_server_knows_by_our_id_is_cancelled_before_it_answers() -> None:
    own = replace(POLLED, accepted=None, poll=None, request=RequestTemplate(body={"id": "$id"}))

    _, request = cancelled(begun(own), answer({}))

    assert request is not None
    assert request.url == f"http://h/jobs/{attempt_id(CALL.task_id, CALL.attempt)}"
    accepting = replace(POLLED, accepted=Acceptance(when=status(202)))
    assert cancelled(begun(accepting), answer({"stopped": True}))[0] == "confirmed"


# Streams


def streamed(
    exchange: BareExchange, *parts: bytes | tuple[str, bytes], media_type: str = "text/event-stream"
) -> tuple[list[str], Any]:
    """Return the output and the end of a stream."""
    conversation = begun(exchange)
    reader = conversation.open_stream(200, {"content-type": media_type})
    assert reader is not None
    output = []
    for part in parts:
        event, text = part if isinstance(part, tuple) else ("", part)
        found = reader.read(text, 5, event)
        if isinstance(found, Update):
            output.append(found.output)
        elif found is not None:
            if isinstance(found, Final):
                output.append(found.update.output)
            return output, found
    return output, reader.end()


CHAT = BareExchange(stream=StreamedParts(output="$.message.content", done=body("$.done == true")))


def test_a_stream_is_output_and_its_last_part_with_all_of_it_is_the_result() -> None:
    output, end = streamed(
        CHAT,
        b'{"message": {"role": "assistant", "content": "Hel"}, "done": false}',
        b'{"message": {"role": "assistant", "content": "lo"}, "done": false}',
        b'{"message": {"role": "assistant", "content": ""}, "done": true, "tokens": 2}',
        b"never read",
    )

    assert output == ["Hel", "lo"]
    assert data(end) == {"message": {"role": "assistant", "content": "Hello"}, "done": True, "tokens": 2}


def test_the_last_part_may_have_output_too() -> None:
    output, end = streamed(replace(CHAT, result="$.message.content"), b'{"message": {"content": "Hi"}, "done": true}')

    assert output == ["Hi"]
    assert data(end) == "Hi"


def test_a_stream_may_end_with_a_word() -> None:
    words = BareExchange(stream=StreamedParts(output="$.text", done=body('$ == "[DONE]"')))

    assert data(streamed(words, b'{"text": "a", "n": 1}', b'{"text": "b", "n": 2}', b"[DONE]")[1]) == {
        "text": "ab",
        "n": 2,
    }
    assert data(streamed(words, b"[DONE]")[1]) == ""


def test_parts_of_a_stream_may_have_progress() -> None:
    parts = StreamedParts(output="$.text", progress="$.p", progress_max=1, message="$.m", done=body("$.data"))
    reader = begun(BareExchange(stream=parts)).open_stream(200, {"Content-Type": "application/x-ndjson"})
    assert reader is not None

    assert reader.read(b'{"text": "a", "p": 0.5, "m": "half"}', 1, "") == Update(
        output="a", progress=50, message="half"
    )
    assert reader.read(b'{"text": "b", "p": 0.5}', 1, "") == Update(output="b")
    assert reader.read(b'{"p": 0.5}', 1, "") is None


def test_a_failure_in_a_stream_is_for_good_or_tried_again() -> None:
    part = b'{"error": "out of memory"}'

    assert isinstance(streamed(replace(CHAT, fail_when=body("$.error")), part)[1], FailedByBackend)
    again = replace(CHAT, retry_when=AnswerTest(status=(200,), body="$.error"))
    assert "out of memory" in error(streamed(again, part)[1], "error")


def test_a_stream_without_its_last_part_is_never_a_success() -> None:
    error(streamed(CHAT, b'{"message": {"content": "Hel"}}')[1], "bad_answer")
    error(streamed(CHAT)[1], "bad_answer")


def test_a_line_that_is_no_json_and_an_event_that_is_half_of_one_are_bad_answers() -> None:
    for text, media_type in ((b"oops", "application/x-ndjson"), (b'{"done": tr', "text/event-stream")):
        with pytest.raises(BadAnswer):
            streamed(CHAT, text, media_type=media_type)


def test_parts_may_be_told_apart_by_the_names_of_events() -> None:
    named = BareExchange(
        result="$.data",
        error="$.data",
        fail_when=body('$.event == "error"'),
        stream=StreamedParts(events=True, done=body('$.event == "complete"')),
    )

    assert data(streamed(named, ("generating", b"[1]"), ("heartbeat", b"null"), ("complete", b"[2]"))[1]) == [2]
    failed = streamed(named, ("error", b'"no such voice"'))[1]
    assert isinstance(failed, FailedByBackend)
    assert failed.error == "no such voice"


def test_a_stream_is_read_whole_where_the_registration_does_not_describe_it() -> None:
    assert begun(None).open_stream(200, {"Content-Type": "text/event-stream"}) is None
    assert begun(CHAT).open_stream(500, {"Content-Type": "text/event-stream"}) is None


def test_a_poll_that_is_streamed_is_not_repeated_once_it_has_begun() -> None:
    exchange = replace(POLLED, poll=Poll(url="{id}"), stream=StreamedParts(done=body("$.done")))
    conversation = begun(exchange)
    first = conversation.read(answer(ACCEPTED, 202))

    assert isinstance(first, Next)
    assert (first.after, first.request.within) == (timedelta(0), None)
    assert isinstance(conversation.lost(LOST), Next)
    assert conversation.open_stream(200, {}) is not None
    assert conversation.lost(LOST) == LOST
    assert conversation.read_cancel(None) == "requested"  # its stream was closed
    assert cancelled(polling(replace(exchange, cancel=None))) == ("impossible", None)
