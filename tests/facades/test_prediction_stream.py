"""The stream of a prediction: in Replicate's events, by a token in its URL, resumable at every event."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
import pytest

from taskstream.api.auth.authenticator import Identity, Unauthenticated
from taskstream.api.facades.replicate.prediction_stream import PredictionEvent, _between, block
from taskstream.api.facades.replicate.stream_links import LIFETIME_SECONDS, StreamLinks
from taskstream.events.envelope import Actor
from taskstream.events.ids import new_ref
from taskstream.events.task import ProgressReported
from taskstream.push.live import LiveReport, Seen
from taskstream.push.updates import LiveEvent
from taskstream.vault.sealing import Sealer
from testkit.backend import BackendServer, accept, status
from testkit.service import SEAL_KEY, Client, Service
from testkit.waiting import wait_until

V1 = "/replicate/v1"
NOW = 1_000_000.0


class Received(NamedTuple):
    kind: str
    data: str
    id: str


async def received(response: aiohttp.ClientResponse) -> AsyncIterator[Received]:
    """Yield the events of a stream, as Python's client decodes them."""
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().removesuffix("\n")
        if text.startswith(":"):
            continue
        if not text:
            if "event" in fields:
                yield Received(fields["event"], fields.get("data", "").removeprefix("\n"), fields["id"])
            fields = {name: value for name, value in fields.items() if name == "id"}
            continue
        name, _, value = text.partition(": ")
        fields[name] = f"{fields.get('data', '')}\n{value}" if name == "data" else value


async def streamed(client: Client, url: str, after: str | None = None, *, most: int = 1_000) -> list[Received]:
    """Return the events of a stream up to its end, or the first `most`; without any token but the URL's."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    found: list[Received] = []
    async with client.session.get(url, headers=headers) as response:
        if response.status == 204:
            return []
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].partition(";")[0] == "text/event-stream"
        async for event in received(response):
            found.append(event)
            if len(found) == most:
                break
    return found


async def started(service: Service, backend: BackendServer, model: str = "acme/writer") -> Any:
    """Create a prediction that a backend has accepted, and return it."""
    backend.answer = accept
    answer = await service.alice.post(f"{V1}/models/{model}/predictions", {"input": {}, "stream": True})
    await wait_until(lambda: backend.calls, "the call")
    return answer.body


async def report(service: Service, backend: BackendServer, **metadata: Any) -> None:
    """Report as the backend."""
    call, data = backend.calls[-1], metadata.pop("data", None)
    body = {"metadata": metadata, **({"data": data} if data is not None else {})}
    headers = {"Authorization": f"Bearer {call['callback_token']}"}
    async with service.alice.session.put(call["callback_url"], json=body, headers=headers) as response:
        assert response.status == 200, await response.text()


def of(events: list[Received], kind: str) -> str:
    return "".join(event.data for event in events if event.kind == kind)


async def test_pieces_come_as_output_and_lines_as_logs(service: Service, backend: BackendServer) -> None:
    prediction = await started(service, backend)
    await report(service, backend, status="PROCESSING", output="he", log="warm", progress=10)
    await report(service, backend, status="PROCESSING", output="llo\r\nyou")
    await report(service, backend, status="FINISHED", data="hello\nyou")

    events = await streamed(service.alice, prediction["urls"]["stream"])

    assert of(events, "output") == "hello\nyou"
    assert of(events, "logs").splitlines() == ["warm", " 10%|█         | 10/100"]
    assert events[-1].kind == "done"
    assert events[-1].data == "{}"
    assert all(event.id for event in events)


async def test_a_client_may_resume_after_every_event(service: Service, backend: BackendServer) -> None:
    prediction = await started(service, backend)
    for number in range(4):
        await report(service, backend, status="PROCESSING", output=f"o{number} ", log=f"l{number}")
    await report(service, backend, status="FINISHED", data="all")
    url = prediction["urls"]["stream"]
    whole = await streamed(service.alice, url)

    for place, event in enumerate(whole):
        assert await streamed(service.alice, url, event.id) == whole[place + 1 :]
    assert await streamed(service.alice, url, whole[-1].id) == []


async def test_a_live_report_is_resumed_between_its_output_and_its_lines(
    service: Service, backend: BackendServer
) -> None:
    prediction = await started(service, backend)
    url = prediction["urls"]["stream"]
    async with service.alice.session.get(url) as response:
        events = received(response)
        await report(service, backend, status="PROCESSING", output="a", log="x")
        first = await anext(events)
    await report(service, backend, status="PROCESSING", output="b", log="y")
    await report(service, backend, status="FINISHED", data="ab")

    rest = await streamed(service.alice, url, first.id)

    assert (first.kind, first.data) == ("output", "a")
    assert of(rest, "output") == "b"
    assert of(rest, "logs").split() == ["x", "y"]


async def test_what_was_not_streamed_comes_whole_at_the_end(service: Service, backend: BackendServer) -> None:
    prediction = await started(service, backend)
    await report(service, backend, status="FINISHED", data=["one", "two"])

    events = await streamed(service.alice, prediction["urls"]["stream"])

    assert [(event.kind, event.data) for event in events] == [("output", "one"), ("output", "two"), ("done", "{}")]


async def test_a_failure_is_an_error_and_the_end(service: Service, backend: BackendServer) -> None:
    backend.answer = status(422, {"error": "the model\nsaid no"})
    answer = await service.alice.post(f"{V1}/models/acme/flux/predictions", {"input": {}})

    events = await streamed(service.alice, answer["urls"]["stream"])

    assert [event.kind for event in events] == ["error", "done"]
    assert "said no" in events[0].data
    assert events[1].data == '{"reason":"error"}'


async def test_a_cancellation_is_the_end(service: Service, backend: BackendServer) -> None:
    prediction = await started(service, backend)
    await service.alice.done("POST", f"{V1}/predictions/{prediction['id']}/cancel")

    events = await streamed(service.alice, prediction["urls"]["stream"])

    assert events[-1][:2] == ("done", '{"reason":"canceled"}')


async def test_a_foreign_event_id_starts_the_stream_again(service: Service, backend: BackendServer) -> None:
    prediction = await started(service, backend)
    await report(service, backend, status="FINISHED", data="x")
    url = prediction["urls"]["stream"]

    for foreign in ("abc", "zzzz-12", "1+1+1", "x" * 5_000):
        assert of(await streamed(service.alice, url, foreign), "output") == "x"


async def test_the_url_of_a_stream_opens_nothing_else(service: Service, backend: BackendServer) -> None:
    prediction, other = await started(service, backend), await started(service, backend)
    token = prediction["urls"]["stream"].partition("?")[2]

    for path in (f"predictions/{other['id']}/stream", f"predictions/{prediction['id']}", "predictions", "account"):
        assert (await service.anonymous.get(f"{V1}/{path}?{token}")).status == 401, path
    assert (await service.anonymous.get(f"/api/task/{prediction['id']}?{token}")).status == 401
    assert (await service.anonymous.get(f"{V1}/predictions/{prediction['id']}/stream?token=x")).status == 401


async def test_a_header_opens_the_stream_as_well(service: Service, backend: BackendServer) -> None:
    prediction = await started(service, backend)
    await report(service, backend, status="FINISHED", data="x")

    answer = await service.alice.get(f"{V1}/predictions/{prediction['id']}/stream")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")


def links(now: float = NOW) -> StreamLinks:
    return StreamLinks(Sealer([SEAL_KEY]), lambda: now)


def token_of(user: Identity) -> str:
    return links().url("http://a", "T", user).partition("?token=")[2]


def test_a_token_opens_for_an_hour_and_a_stream_lasts_as_the_credential() -> None:
    token = token_of(Identity("alice", frozenset({"user"}), NOW + 10 * LIFETIME_SECONDS))

    found = links(NOW + LIFETIME_SECONDS - 1).opened(token, "T")

    assert (found.subject, found.roles) == ("alice", frozenset())
    assert found.expires_at == NOW + 10 * LIFETIME_SECONDS
    with pytest.raises(Unauthenticated, match="expired"):
        links(NOW + LIFETIME_SECONDS).opened(token, "T")


def test_a_token_ends_with_the_credential_and_one_without_end_is_possible() -> None:
    with pytest.raises(Unauthenticated, match="expired"):
        links(NOW + 60).opened(token_of(Identity("alice", frozenset(), NOW + 60)), "T")

    assert links().opened(token_of(Identity("alice", frozenset())), "T").expires_at == math.inf


@pytest.mark.parametrize("text", ["", "ä", "x" * 5_000, "gAAAAA"])
def test_a_text_that_is_no_token_opens_nothing(text: str) -> None:
    with pytest.raises(Unauthenticated):
        links().opened(text, "T")


def test_each_line_of_the_data_is_a_line_of_the_block() -> None:
    assert block(PredictionEvent("output", "a\r\nb\rc\n"), "7") == (
        b"event: output\nid: 7\ndata: a\ndata: b\ndata: c\ndata: \n\n"
    )


async def test_a_stream_ends_with_the_api_key_that_it_was_opened_with(service: Service, backend: BackendServer) -> None:
    backend.answer = accept
    made = await service.alice.done("POST", "/api/keys", {"name": "k", "roles": ["user"], "types": ["writer"]})
    keyed = service.bearing(made["key"])
    answer = await keyed.post(f"{V1}/models/acme/writer/predictions", {"input": {}})
    assert answer.status == 201, answer
    url = answer["urls"]["stream"]

    async with keyed.session.get(url) as response:
        assert response.status == 200
        await service.alice.done("DELETE", f"/api/keys/{made['details']['id']}")
        await response.read()
    assert (await service.anonymous.get(url.removeprefix(service.url))).status == 401


async def test_a_key_of_other_types_finds_neither_models_nor_predictions(service: Service) -> None:
    prediction = await service.alice.post(f"{V1}/models/acme/flux/predictions", {"input": {}})
    made = await service.alice.done("POST", "/api/keys", {"name": "k", "roles": ["user"], "types": ["writer"]})
    keyed = service.bearing(made["key"])

    for path in ("models/acme/flux", f"predictions/{prediction['id']}", f"predictions/{prediction['id']}/stream"):
        assert (await keyed.get(f"{V1}/{path}")).status == 404, path
    assert (await keyed.post(f"{V1}/models/acme/flux/predictions", {"input": {}})).status == 404
    assert (await keyed.post(f"{V1}/predictions/{prediction['id']}/cancel")).status == 404
    assert (await keyed.done("GET", f"{V1}/predictions"))["results"] == []
    assert [each["name"] for each in (await keyed.done("GET", f"{V1}/models"))["results"]] == ["writer"]
    assert (await keyed.get(f"{V1}/files")).status == 403


def test_a_place_between_a_live_reports_output_and_its_lines_has_only_the_output() -> None:
    event = ProgressReported(attempt=1, output="ab", lines=("x", "y"), batch="b1")
    reports = [
        LiveReport(batch="b1", index=index, at=datetime.now(UTC), by=Actor("system", "t"), event=event)
        for index in range(2)
    ]
    seen = Seen()
    assert all(map(seen.takes, reports))

    between = _between(f"e-7{seen}", LiveEvent(new_ref("alice", datetime.now(UTC), 0), reports[1], 0))

    whole = ProgressReported(attempt=1, output="abab", lines=("x", "y", "x", "y"), batch="b1", reports=2)
    rest = Seen(between.removeprefix("e-7")).rest_of(whole)
    assert rest is not None
    assert (rest.output, rest.lines) == ("", ("x", "y"))
