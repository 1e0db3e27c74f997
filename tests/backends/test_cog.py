"""Answers of a real Cog 0.23 (recorded/cog), read by its dialect, and compared with those of the tests' fake server."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.backends.dialects.cog import (
    PAUSES_OF_LOSSES,
    PAUSES_OF_WEBHOOK,
    PROBE,
    Cog,
    urls_of,
)
from taskstream.backends.dialects.cog_prediction import (
    MOST_FILES,
    Prediction,
    read_data_uri,
    read_model,
    read_prediction,
    with_files,
)
from taskstream.backends.dialects.cog_progress import (
    LARGEST_METRIC,
    LONGEST_LOG,
    MOST_APPENDED,
    MOST_LINES,
    MOST_METRICS,
    Events,
    Metrics,
    Snapshots,
    log_lines,
)
from taskstream.backends.dialects.dialect import (
    BadAnswer,
    Busy,
    Call,
    Completed,
    Conversation,
    Failed,
    FailedByBackend,
    File,
    Final,
    Next,
    Reply,
    Turn,
    Update,
    attempt_id,
)
from taskstream.backends.dialects.framing import Texts
from taskstream.events.envelope import NULL
from taskstream.events.server import ServerRegistered
from testkit.cog_server import CogServer

RECORDED = Path(__file__).parent / "recorded" / "cog"
COG = Cog()
CALL = Call(
    task_id="01J0000000000000000000000A~alice",
    task_type="speech",
    attempt=1,
    payload=Raw(b'{"text":"hi there"}'),
    deadline=datetime(2026, 1, 1, tzinfo=UTC),
    callback_url="http://us/api/task/t",
    callback_token="token",
)
SERVER = ServerRegistered(server_id="s1", name="", provider="", predict_url="http://cog:5000", dialect="cog")


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return found


def reply(name: str) -> Reply:
    """Return a recorded answer."""
    found = recorded(name)
    body = found["body"] if isinstance(found["body"], str) else json.dumps(found["body"])
    return Reply(status=found["status"], headers={"Content-Type": found["contentType"]}, body=body.encode())


def started(schema: str = "openapi") -> Conversation:
    """Return an attempt whose prediction was just started, on a model with this schema."""
    conversation = COG.converse(SERVER, CALL)
    conversation.begin()
    assert isinstance(conversation.read(reply(schema)), Next)
    return conversation


def read(name: str) -> Turn:
    return started().read(reply(name))


def answered(name: str, kind: type[Any]) -> Any:
    """Return the answer, of this kind, that a recorded answer to the prediction means."""
    turn = read(name)
    answer = turn.answer if isinstance(turn, Final) else turn
    assert isinstance(answer, kind)
    return answer


def data_of(answer: Completed | FailedByBackend) -> Any:
    return json.loads(answer.result)["data"]


def follow(conversation: Conversation, body: str) -> tuple[list[Update], Any]:
    """Return the updates of a stream, and its answer, or what follows its end."""
    reader = conversation.open_stream(200, {})
    assert reader is not None
    texts = Texts("events")
    updates: list[Update] = []
    for text in texts.feed(body.encode()):
        match reader.read(text, 5, texts.event):
            case Update() as update:
                updates.append(update)
            case Final(update=update, answer=answer):
                return [*updates, update], answer
            case None:
                pass
            case found:
                return updates, found
    return updates, reader.end()


# Requests


@pytest.mark.parametrize(
    ("registered", "prediction"),
    [
        ("http://cog:5000", "http://cog:5000/predictions/p"),
        ("http://cog:5000/", "http://cog:5000/predictions/p"),
        ("http://cog:5000/predictions", "http://cog:5000/predictions/p"),
        ("http://cog:5000/predictions/", "http://cog:5000/predictions/p"),
        ("https://host/models/a?key=1", "https://host/models/a/predictions/p?key=1"),
    ],
)
def test_a_server_is_registered_by_its_base_or_by_its_predictions(registered: str, prediction: str) -> None:
    assert urls_of(registered).prediction("p") == prediction


def test_the_id_of_a_prediction_is_of_its_attempt_and_shows_no_owner() -> None:
    ids = [attempt_id(CALL.task_id, attempt) for attempt in (1, 2)] + [attempt_id("other", 1)]

    assert len(set(ids)) == 3
    assert all(str(UUID(each)) == each for each in ids)


@pytest.mark.parametrize(
    ("schema", "accept"),
    [
        ("openapi", "application/json"),
        ("openapi-streaming", "text/event-stream"),
        ("openapi-starting", "application/json"),
    ],
)
def test_the_schema_decides_how_a_prediction_is_asked_for(schema: str, accept: str) -> None:
    conversation = COG.converse(SERVER, CALL)
    first = conversation.begin()
    assert not isinstance(first, Failed)
    assert (first.method, first.url) == ("GET", "http://cog:5000/openapi.json")
    assert first.headers["Connection"] == "close"

    turn = conversation.read(reply(schema))

    assert isinstance(turn, Next)
    assert turn.request.method == "PUT"
    assert turn.request.headers["Accept"] == accept
    assert turn.request.body == b'{"input":{"text":"hi there"}}'


def test_a_model_that_does_not_stream_after_all_is_asked_for_the_whole() -> None:
    turn = started("openapi-streaming").read(reply("not-streaming"))

    assert isinstance(turn, Next)
    assert turn.request.headers["Accept"] == "application/json"
    assert turn.request.body == b'{"input":{"text":"hi there"}}'


def test_a_server_that_takes_no_ids_gets_a_post() -> None:
    conversation = started()

    turn = conversation.read(Reply(status=405, headers={}, body=b""))

    assert isinstance(turn, Next)
    assert (turn.request.method, turn.request.url) == ("POST", "http://cog:5000/predictions")
    assert conversation.cancel() is None
    assert isinstance(conversation.read(Reply(status=405, headers={}, body=b"")), Failed)


# A server that is registered with `callback`


def reporting(schema: str = "openapi", attempt: int = 1) -> tuple[Conversation, Next]:
    """Return an attempt that reports by webhook, and its first request after the schema's."""
    conversation = COG.converse(replace(SERVER, callback=True), replace(CALL, attempt=attempt))
    conversation.begin()
    turn = conversation.read(reply(schema))
    assert isinstance(turn, Next)
    return conversation, turn


def test_a_model_that_does_not_stream_reports_its_end_by_webhook() -> None:
    conversation, turn = reporting()

    assert turn.request.headers["Prefer"] == "respond-async"
    assert json.loads(turn.request.body or b"") == {
        "input": {"text": "hi there"},
        "webhook": "http://us/api/task/t/cog?token=token",
        "webhook_events_filter": ["completed"],
    }
    assert not conversation.awaits_report


def test_a_model_that_streams_needs_no_webhook() -> None:
    _, turn = reporting("openapi-streaming")

    assert turn.request.headers["Accept"] == "text/event-stream"
    assert turn.request.body == b'{"input":{"text":"hi there"}}'


def test_a_prediction_without_a_connection_is_looked_at_and_shows_what_is_new() -> None:
    conversation, _ = reporting()

    turns = [conversation.read(reply(name)) for name in ("accepted", "running", "running")]

    assert conversation.awaits_report
    updates = []
    for turn in turns:
        assert isinstance(turn, Next)
        assert turn.request.body == PROBE
        assert turn.after >= timedelta(seconds=1)
        updates.append(turn.update)
    assert updates[0] is updates[2] is None
    assert updates[1] is not None
    assert (updates[1].message, json.loads(bytes(updates[1].custom_data))) == ("step 0", {"words": 2})


def test_a_prediction_that_is_gone_waits_for_its_webhook_and_then_fails() -> None:
    conversation, _ = reporting()
    conversation.read(reply("accepted"))

    turns = [conversation.read(reply("gone")) for _ in PAUSES_OF_WEBHOOK]

    assert all(isinstance(turn, Next) and turn.request.body == PROBE for turn in turns)
    failed = conversation.read(reply("gone"))
    assert isinstance(failed, Failed)
    assert "webhook has not come" in failed.error


def test_a_server_that_is_not_reached_is_asked_again_and_then_given_up() -> None:
    lost = Failed(kind="unreachable", error="the server could not be reached")
    conversation, _ = reporting()

    assert conversation.lost(lost) == lost, "nothing runs yet"
    conversation.read(reply("accepted"))
    assert all(isinstance(conversation.lost(lost), Next) for _ in PAUSES_OF_LOSSES)
    assert conversation.lost(lost) == lost


def test_a_later_attempt_cancels_what_the_one_before_may_have_left() -> None:
    conversation, turn = reporting(attempt=2)

    assert turn.request.url.endswith(f"/predictions/{attempt_id(CALL.task_id, 1)}/cancel")
    for name in ("cancel", "cancel-unknown"):
        conversation, _ = reporting(attempt=2)
        started = conversation.read(reply(name))
        assert isinstance(started, Next)
        assert started.request.url.endswith(f"/predictions/{attempt_id(CALL.task_id, 2)}")


@pytest.mark.parametrize("name", ["at-capacity", "not-ready"])
def test_a_full_server_takes_no_prediction_without_a_connection(name: str) -> None:
    conversation, _ = reporting()

    assert isinstance(conversation.read(reply(name)), Busy)


# Verdicts


def test_a_prediction_that_succeeded_is_a_result_with_its_log_and_metrics() -> None:
    turn = read("succeeded")

    assert isinstance(turn, Final)
    assert isinstance(turn.answer, Completed)
    assert data_of(turn.answer) == "HI THERE"
    assert json.loads(turn.answer.result)["metadata"]["custom_data"]["words"] == 2
    assert turn.update.lines == ("heard hi there",)
    assert json.loads(bytes(turn.update.custom_data))["words"] == 2


def test_a_prediction_that_failed_in_a_200_is_no_success() -> None:
    assert answered("failed", FailedByBackend).error == "ValueError: no such voice"


def test_a_prediction_that_the_server_cancelled_is_tried_again() -> None:
    assert answered("canceled", Failed).kind == "error"


@pytest.mark.parametrize("name", ["at-capacity", "not-ready"])
def test_a_full_server_and_one_that_is_setting_up_are_busy(name: str) -> None:
    answered(name, Busy)


def test_a_refused_input_is_shown_with_path_and_rule() -> None:
    failed = answered("invalid", Failed)

    assert failed.kind == "rejected"
    assert "body.input.seconds: -1 is less than the minimum of 0; body.input.text: Field required" in failed.error


def test_a_snapshot_of_a_running_prediction_is_no_result() -> None:
    assert answered("running", Failed).kind == "error"
    assert answered("accepted", Failed).kind == "error"


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"status":"done","output":1}', b'{"status":["succeeded"]}', b'{"status":"processing"}', b"[]", b'"x"'],
)
def test_what_is_no_ended_prediction_is_no_success(body: bytes) -> None:
    answer = started().read(Reply(status=200, headers={}, body=body))

    assert isinstance(answer, Failed)
    assert answer.kind == "bad_answer"


def test_nan_in_an_output_is_refused() -> None:
    with pytest.raises(BadAnswer):
        read_prediction(b'{"status":"succeeded","output":[NaN]}')


# The stream


def test_the_events_of_a_prediction_are_progress_and_end_it() -> None:
    updates, answer = follow(started("openapi-streaming"), recorded("stream")["body"])

    assert "".join(update.output for update in updates) == "it was dark "
    assert [line for update in updates for line in update.lines] == ["streaming it was dark"]
    assert [json.loads(bytes(update.custom_data))["words"] for update in updates if update.custom_data != NULL] == [
        1,
        2,
        3,
        3,
    ]
    assert data_of(answer) == "it was dark "


def test_a_stream_may_end_as_failed_or_canceled() -> None:
    _, failed = follow(started("openapi-streaming"), recorded("stream-failed")["body"])
    _, canceled = follow(started("openapi-streaming"), recorded("stream-canceled")["body"])

    assert isinstance(failed, FailedByBackend)
    assert (failed.error, data_of(failed)) == ("Generator iteration error: ValueError: no such voice", "it was ")
    assert isinstance(canceled, Failed)


def test_a_stream_that_is_opened_again_repeats_nothing_and_never_runs_anew() -> None:
    body = recorded("stream")["body"]
    conversation = started("openapi-streaming")
    cut = body.index("event: output", body.index('"index":0'))
    before, turn = follow(conversation, body[:cut])

    assert isinstance(turn, Next)
    assert turn.request.body == PROBE
    after, answer = follow(conversation, body)
    assert "".join(update.output for update in (*before, *after)) == "it was dark "
    assert data_of(answer) == "it was dark "


def test_a_prediction_that_is_gone_after_a_lost_connection_failed_by_it() -> None:
    lost = Failed(kind="unreachable", error="the server broke off its answer")
    gone, canceled = started("openapi-streaming"), started("openapi-streaming")
    for conversation in (gone, canceled):
        assert isinstance(conversation.lost(lost), Next)

    forgotten = gone.read(reply("gone"))
    _, ended = follow(
        canceled, "event: completed" + recorded("stream-canceled")["body"].partition("event: completed")[2]
    )

    assert isinstance(forgotten, Failed)
    assert forgotten.kind == "unreachable"
    assert ended == lost


def test_a_stream_is_opened_again_a_few_times_and_as_often_again_after_a_new_event() -> None:
    lost = Failed(kind="unreachable", error="the server broke off its answer")
    body = recorded("stream")["body"]
    conversation = started("openapi-streaming")

    assert [isinstance(conversation.lost(lost), Next) for _ in range(4)] == [True, True, True, False]
    conversation = started("openapi-streaming")
    conversation.lost(lost)
    follow(conversation, body[: body.index("event: completed")])
    assert [isinstance(conversation.lost(lost), Next) for _ in range(3)] == [True, True, False]


def test_events_that_the_server_dropped_are_no_success() -> None:
    error = 'event: error\ndata: {"error":"SSE stream lagged; events were dropped","skipped":9}\n\n'

    _, answer = follow(started("openapi-streaming"), error)

    assert isinstance(answer, Failed)
    assert "events were dropped" in answer.error


def test_a_large_event_is_not_shown_and_said_to_be_missing() -> None:
    large = f'event: output\ndata: {{"chunk":"{"x" * 300_000}","index":0}}\n\n'

    updates, answer = follow(started("openapi-streaming"), large + recorded("stream")["body"])

    assert [len(update.notes) for update in updates][:2] == [1, 0]
    assert isinstance(answer, Completed)


# Cancellation


def test_a_cancellation_is_confirmed_once_the_prediction_is_gone() -> None:
    conversation = started()
    request = conversation.cancel()
    assert request is not None
    assert request.url.endswith(f"/predictions/{attempt_id(CALL.task_id, 1)}/cancel")

    for name in ("cancel", "running"):
        following = conversation.read_cancel(reply(name))
        assert isinstance(following, Next)
        assert following.request.body == PROBE
    assert conversation.read_cancel(reply("gone")) == "confirmed"


def test_a_server_without_a_schema_shows_that_a_prediction_is_gone_by_a_failure() -> None:
    """It does not check inputs, so the probe becomes a prediction that fails before the model is called."""
    conversation = started()
    conversation.read_cancel(reply("cancel"))

    assert conversation.read_cancel(reply("failed")) == "confirmed"


def test_a_cancellation_that_the_server_knows_nothing_of_is_unconfirmed() -> None:
    conversation = started()

    assert conversation.read_cancel(reply("cancel-unknown")) == "unconfirmed"
    assert conversation.read_cancel(reply("gone")) == "unconfirmed"


def test_an_attempt_that_started_no_prediction_needs_no_cancellation() -> None:
    conversation = COG.converse(SERVER, CALL)
    conversation.begin()

    assert conversation.cancel() is None
    assert conversation.read_cancel(None) == "confirmed"


# Files


def test_a_file_is_stored_and_its_place_refers_to_it() -> None:
    answer = answered("file", Completed)

    assert answer.file == File("audio/wav", b"RIFFhi")
    assert data_of(answer) == {"$ref": f"/api/task/{CALL.task_id}/result/file", "mediaType": "audio/wav", "bytes": 6}


def test_files_in_lists_and_objects_have_numbers() -> None:
    picture = File("image/png", b"\x89PNGhi")
    several, nested = answered("files", Completed), answered("files-nested", Completed)

    assert several.files == (picture, picture)
    assert [each["$ref"][-7:] for each in data_of(several)] == ["/file/0", "/file/1"]
    assert nested.files == (picture,)
    assert data_of(nested)["image"]["$ref"].endswith("/result/file/0")
    assert data_of(nested)["caption"] == "hi"


def test_a_type_that_accepts_json_only_gets_no_file() -> None:
    conversation = COG.converse(SERVER, replace(CALL, accepts="json"))
    conversation.read(reply("openapi"))

    assert isinstance(conversation.read(reply("file")), Failed)


def test_a_result_has_a_bounded_number_of_files_and_loses_none() -> None:
    output = [
        f"data:image/png;base64,{base64.b64encode(str(number).encode()).decode()}" for number in range(MOST_FILES + 5)
    ]

    data, file, files = with_files("t", json.dumps(output).encode())

    assert (file, len(files)) == (None, MOST_FILES)
    assert json.loads(data)[MOST_FILES:] == output[MOST_FILES:]


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("data:image/png;base64,aGk=", File("image/png", b"hi")),
        ("data:text/plain;charset=utf-8;base64,aGk=", File("text/plain", b"hi")),
        ("data:;base64,aGk=", File("application/octet-stream", b"hi")),
        ("data:no type;base64,aGk=", File("application/octet-stream", b"hi")),
        ("data:image/png;base64,", File("image/png", b"")),
        ("data:image/png;base64,a!k=", None),
        ("data:image/png;base64,aGk=\n", None),
        ("data:text/plain,hi", None),
        ("see data:image/png;base64,aGk=", None),
        ("data:" + ";" * 100_000 + "base64,", None),
    ],
)
def test_only_whole_base64_data_uris_are_files(uri: str, file: File | None) -> None:
    assert read_data_uri(uri) == file


def test_an_output_without_files_keeps_its_text() -> None:
    output = b'{"n":1.10,"big":123456789012345678901234567890,"text":"\\u00e9"}'

    assert with_files("t", output) == (output, None, ())


# Bounds


def test_a_log_that_comes_whole_keeps_its_end_and_says_so() -> None:
    lines, notes = log_lines("\n".join(map(str, range(MOST_LINES + 10))))
    assert (len(lines), lines[-1], len(notes)) == (MOST_LINES, str(MOST_LINES + 9), 1)

    lines, notes = log_lines("first\n" + "x" * 3 * LONGEST_LOG)
    assert sum(map(len, lines)) <= LONGEST_LOG
    assert notes

    assert log_lines("10%\r20%\r\n\nend") == (("10%", "20%", "end"), ())


def test_lines_of_a_log_that_come_in_pieces_are_put_together_and_none_is_lost() -> None:
    events = Events()
    pieces = ["load", "ing\nsaid a\nsaid", " b"]

    updates = [events.update("log", {"source": "stdout", "data": piece}, 99) for piece in pieces]
    rest = events.rest(None)

    assert [update and update.lines for update in updates] == [None, ("loading", "said a"), None]
    assert rest is not None
    assert rest.lines == ("said b",)
    assert events.rest(None) is None


def test_snapshots_show_each_piece_of_output_once() -> None:
    snapshots = Snapshots()
    outputs = [b"null", b'["it "]', b'["it ","was "]', b'["it "]', b'["it ","was ",{"n":1}]', b'"x"']

    updates = [snapshots.update(Prediction(status="processing", output=Raw(output))) for output in outputs]

    assert [update and update.output for update in updates] == [None, "it ", "was ", None, '{"n":1}\n', None]


def test_metrics_are_bounded() -> None:
    metrics = Metrics()
    for number in range(MOST_METRICS + 5):
        metrics.change(f"metric {number}", number, "replace")
    for number in range(MOST_APPENDED + 5):
        found = metrics.change("metric 0", number, "append") or metrics.change("metric 0", None, "replace")
    assert metrics.change("metric 1", "x" * LARGEST_METRIC, "replace") is None
    assert metrics.change("metric 1", 1, "guess") is None
    assert metrics.change(5, 1, "replace") is None
    assert found is not None
    values = json.loads(bytes(found))
    assert len(values) <= MOST_METRICS
    assert len(values["metric 0"]) == MOST_APPENDED


@pytest.mark.parametrize(
    "schema", [b"", b"[]", b"{}", b'{"paths":[]}', b'{"paths":{"/predictions":{"post":5}}}', b"[" * 9999]
)
def test_a_schema_that_makes_no_sense_says_nothing(schema: bytes) -> None:
    assert not read_model(schema).streams


# Health


@pytest.mark.parametrize(
    ("name", "well", "reason"),
    [
        ("health-ready", True, "ready"),
        ("health-busy", True, "busy: all slots are taken"),
        ("health-starting", False, "setting up"),
    ],
)
def test_the_health_of_a_server_is_its_state(name: str, well: bool, reason: str) -> None:
    found = COG.read_health(200, reply(name).body)

    assert (found.well, found.reason) == (well, reason)


def test_a_setup_that_failed_shows_the_end_of_its_log() -> None:
    found = COG.read_health(200, reply("health-setup-failed").body)

    assert not found.well
    assert found.reason.startswith("the setup failed: ")
    assert found.reason.endswith("RuntimeError: weights.bin: no such file")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"status":"UNHEALTHY","user_healthcheck_error":"the GPU is gone"}', "unhealthy: the GPU is gone"),
        (b'{"status":"DEFUNCT"}', "defunct: it must be restarted"),
        (b'{"status":"UNKNOWN"}', "its status is 'UNKNOWN'"),
        (b'{"status":"ok"}', "its status is 'ok'"),
        (b"ok", None),
        (b"{}", None),
        (b'{"status":"STARTING","setup":{"logs":' + json.dumps("x" * 9999).encode() + b"}}", None),
    ],
)
def test_any_other_health_is_not_well_and_says_why(body: bytes, reason: str | None) -> None:
    found = COG.read_health(200, body)

    assert not found.well
    assert found.reason == reason or (reason is None and 0 < len(found.reason) < 300)
    assert not COG.read_health(503, b'{"status":"READY"}').well


def test_the_health_check_has_an_address_without_registration() -> None:
    request = COG.health(SERVER)

    assert request is not None
    assert request.url == "http://cog:5000/health-check"


# The fake server


def shape(content: Any) -> Any:
    """Return what two answers must share: the fields, and the types of values."""
    if isinstance(content, dict):
        return {name: shape(each) for name, each in content.items()}
    return [shape(each) for each in content[:1]] if isinstance(content, list) else type(content).__name__


@pytest.mark.parametrize(
    "name", ["succeeded", "failed", "invalid", "gone", "not-streaming", "cancel-unknown", "stream", "openapi-streaming"]
)
async def test_the_fake_server_answers_as_the_real_one(name: str) -> None:
    found = recorded(name)
    asked = found["request"]
    async with (
        CogServer(streams=name.endswith(("stream", "openapi-streaming"))) as cog,
        aiohttp.ClientSession() as session,
    ):
        url, headers = cog.base_url + asked["path"], asked.get("headers")
        async with session.request(asked["method"], url, json=asked.get("body"), headers=headers) as answer:
            assert answer.status == found["status"]
            assert answer.content_type == found["contentType"]
            text = await answer.text()
    if name == "stream":
        names, real_names = (re.findall(r"^event: (\w+)", body, re.MULTILINE) for body in (text, found["body"]))
        assert (names[0], names[-1], set(names)) == (real_names[0], real_names[-1], set(real_names))
    elif name == "openapi-streaming":
        body = json.loads(text)
        assert body["paths"]["/predictions"]["post"]["x-cog-streaming"] is True
        assert body["components"]["schemas"]["Output"] == found["body"]["components"]["schemas"]["Output"]
    else:
        body, real = json.loads(text), found["body"]
        assert {**shape(body), "metrics": 0} == {**shape(real), "metrics": 0}
