"""Errors and lists of OpenAI's API: their form, whatever went wrong, and the headers that the clients obey."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from litestar.datastructures import MultiDict

from taskstream.api.facades.openai.errors import error_body, passed_on
from taskstream.api.facades.openai.lists import asked_page, page
from taskstream.errors import InvalidInput
from testkit.service import Answer, Service, running_service

FIELDS = {"message", "type", "param", "code"}


@pytest.fixture
async def api(nats_url: str) -> AsyncIterator[Service]:
    async with running_service(nats_url, worker=False) as service:
        yield service


def error_in(answer: Answer) -> dict[str, Any]:
    """Return the error of an answer, which is in OpenAI's form and has a request id."""
    assert answer.body.keys() == {"error"}
    assert answer.body["error"].keys() == FIELDS
    assert answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.body["error"]
    return found


async def test_a_call_without_a_token_is_a_401_that_clients_know(api: Service) -> None:
    answer = await api.anonymous.get("/openai/v1/models")

    assert (answer.status, error_in(answer)["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_an_unknown_path_and_method_are_refused_in_the_same_form(api: Service) -> None:
    path = await api.alice.get("/openai/v1/fine_tuning/jobs")
    method = await api.alice.delete("/openai/v1/models")

    assert (path.status, error_in(path)["type"]) == (404, "invalid_request_error")
    assert "docs/openai.md" in error_in(path)["message"]
    assert (method.status, error_in(method)["code"]) == (405, "method_not_allowed")


async def test_an_unknown_model_is_named_in_its_404(api: Service) -> None:
    answer = await api.alice.get("/openai/v1/models/acme/none")

    assert answer.status == 404
    assert error_in(answer)["code"] == "model_not_found"
    assert error_in(answer)["param"] == "model"
    assert "`acme/none`" in error_in(answer)["message"]


async def test_an_unknown_parameter_is_refused_not_ignored(api: Service) -> None:
    answer = await api.alice.get("/openai/v1/models?owner=me")

    assert (answer.status, error_in(answer)["param"]) == (400, "owner")


async def test_models_are_the_defined_types_by_name(api: Service) -> None:
    for name in ("whisper", "llama"):
        await api.admin.done("PUT", f"/api/types/{name}", {})

    listed = await api.alice.done("GET", "/openai/v1/models")
    one = await api.alice.done("GET", "/openai/v1/models/llama")

    assert [each["id"] for each in listed["data"]] == ["llama", "whisper"]
    assert (listed["object"], listed["has_more"]) == ("list", False)
    assert one == {"id": "llama", "object": "model", "created": 0, "owned_by": "taskstream"}


def test_an_error_of_a_server_is_passed_on_as_it_came() -> None:
    body = b'{"error": {"message": "too long", "type": "BadRequestError", "param": null, "code": 400}}'

    assert passed_on(400, body, "ours").body == body


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"detail": "no"}', b'{"error": "no"}', b"{" * 5000])
def test_an_answer_that_is_no_error_object_becomes_one(body: bytes) -> None:
    found = msgspec.json.decode(passed_on(502, body, "the server reported it").body)

    assert found["error"].keys() == FIELDS
    assert found["error"]["message"] == "the server reported it"


def test_every_status_has_a_type() -> None:
    for status in range(400, 600):
        assert msgspec.json.decode(error_body(status, "no"))["error"]["type"]


def test_a_page_says_whether_more_follow() -> None:
    found = page([{"id": "a"}, {"id": "b"}, {"id": "c"}], 2)

    assert (found.data, found.first_id, found.last_id, found.has_more) == ([{"id": "a"}, {"id": "b"}], "a", "b", True)
    assert page([], 2).first_id is None


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=1e1", "order=up", "purpose=batch"])
def test_a_page_that_cannot_be_is_refused(query: str) -> None:
    name, value = query.split("=")
    with pytest.raises(InvalidInput):
        asked_page(MultiDict([(name, value)]))


def test_a_page_is_of_twenty_newest_first_by_default() -> None:
    asked = asked_page(MultiDict([]))

    assert (asked.limit, asked.after, asked.is_ascending) == (20, "", False)
