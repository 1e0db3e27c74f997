"""Templates of requests and URLs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.backends.dialects.dialect import BadAnswer, Call, attempt_id
from taskstream.backends.dialects.templates import (
    check_template,
    check_url_template,
    fill,
    fill_url,
    named_url,
    read_job_id,
)

PAYLOAD = b'{"text": "a \\ud83d\\ude00", "options": {"size": 123456789012345678901234567890, "list": [1, {"x": 2.50}]}}'


@pytest.mark.parametrize(
    ("template", "body"),
    [
        ("$payload", PAYLOAD.decode()),
        ({"inputs": "$payload.text"}, '{"inputs":"a \\ud83d\\ude00"}'),
        ({"a": ["$payload.options.size", "$id"]}, '{"a":[123456789012345678901234567890,"ID"]}'),
        ({"a": "$payload.options.list[1].x"}, '{"a":2.50}'),
        ({"a": "$payload.missing", "b": 1}, '{"b":1}'),
        (["$payload.text.deeper", "$payload.options.list[9]"], "[null,null]"),
        ({"price": "$$5", "word": "a $payload"}, '{"price":"$5","word":"a $payload"}'),
        ({"fixed": [1, None, True, {"x": 1.5}]}, '{"fixed":[1,null,true,{"x":1.5}]}'),
    ],
)
def test_a_template_has_the_payload_put_in_as_it_came(template: Any, body: str) -> None:
    assert fill(template, PAYLOAD, "ID").decode() == body


def test_what_the_payload_holds_is_never_read_as_a_template() -> None:
    assert json.loads(fill({"a": "$payload"}, b'{"b": "$id"}', "ID")) == {"a": {"b": "$id"}}


@pytest.mark.parametrize(
    "template",
    ["$paylod", "$payload.", "$payload[x]", "$", "$ID", {"a": "$5"}, {"a": "$payload", "b": ["$payload"]},
     {str(n): "$id" for n in range(33)}, {"a": "x" * 16_384}],
)  # fmt: skip
def test_a_template_that_is_wrong_or_large_is_refused(template: Any) -> None:
    with pytest.raises(ValueError, match=r"placeholder|must have"):
        check_template(template)


def test_a_template_may_be_nested_so_deep_and_no_deeper() -> None:
    nested: Any = 1
    for _ in range(32):
        nested = [nested]

    check_template(nested)
    with pytest.raises(ValueError, match="32 levels"):
        check_template([nested])


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("", "http://h:1/v1/jobs?key=x"),
        ("{id}", "http://h:1/v1/jobs/a%2Fb%3F"),
        ("../status?task_id={id}&x=1", "http://h:1/v1/status?task_id=a%2Fb%3F&x=1"),
        ("/api/jobs/{id}/cancel", "http://h:1/api/jobs/a%2Fb%3F/cancel"),
        ("?id={id}", "http://h:1/v1/jobs/?id=a%2Fb%3F"),
    ],
)
def test_a_url_is_relative_to_the_predict_url_as_a_folder(template: str, url: str) -> None:
    if template:
        check_url_template(template)

    assert fill_url("http://h:1/v1/jobs?key=x", template, "a/b?") == url


@pytest.mark.parametrize(
    "template",
    [
        "http://other/{id}",
        "//other/{id}",
        "javascript:x",
        "a b",
        "\\\\other\\x",
        "{name}",
        "a{",
        "}",
        "a\n",
        "x" * 1025,
        "a#b",
    ],
)
def test_a_url_that_leads_elsewhere_or_is_none_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"must|placeholder|brace"):
        check_url_template(template)


@pytest.mark.parametrize("job", [None, "", ".", "..", "...", True, 1.5, [], {}, "x" * 513])
def test_an_id_that_would_not_stay_in_its_place_is_a_bad_answer(job: Any) -> None:
    with pytest.raises(BadAnswer):
        read_job_id(job)


def test_an_id_may_be_a_number() -> None:
    assert (read_job_id(7), read_job_id("j~7")) == ("7", "j~7")


@pytest.mark.parametrize(
    "named", ["file:///etc/passwd", "http://[", "ftp://h/", "http://h/" + "x" * 9000, "http://h/a b"]
)
def test_a_url_that_a_server_names_is_of_http(named: str) -> None:
    with pytest.raises(BadAnswer):
        named_url("http://h/", named)


def test_the_id_of_an_attempt_is_its_own_and_does_not_name_the_owner() -> None:
    call = Call(
        task_id="0" * 26 + "~alice",
        task_type="t",
        attempt=1,
        payload=Raw(b"{}"),
        deadline=datetime.now(UTC),
        callback_url="",
        callback_token="",
    )
    others = [
        replace(call, attempt=2),
        replace(call, task_id="1" * 26 + "~alice"),
        replace(call, task_id="0" * 26 + "~bob"),
    ]

    assert len({attempt_id(each.task_id, each.attempt) for each in (call, *others)}) == 4
    assert "alice" not in attempt_id(call.task_id, call.attempt)
