"""Responses: made of chat completions, streamed with dense numbers, and resumed to the byte after any cut."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.service import Service, running_service
from testkit.vllm import WORDS, VllmServer
from testkit.waiting import wait_until

from .openai_calls import RESPONSES, EventReader, StreamedEvent, register, streamed

NAMES = [
    "response.created", "response.queued", "response.in_progress", "response.output_item.added",
    "response.content_part.added", *["response.output_text.delta"] * 7, "response.output_text.done",
    "response.content_part.done", "response.output_item.done", "response.completed",
]  # fmt: skip
"""Events of a response that says WORDS."""


def asked(text: str = "tell", **more: Any) -> dict[str, Any]:
    return {"model": "llama", "input": text, **more}


async def created(service: Service, text: str = "tell", **more: Any) -> dict[str, Any]:
    """Create a background response."""
    found: dict[str, Any] = await service.alice.done("POST", RESPONSES, asked(text, background=True, **more))
    return found


async def ended(service: Service, response_id: str) -> dict[str, Any]:
    """Wait for the end of a response, as the clients do: they poll."""
    active = ("queued", "in_progress")
    path = f"{RESPONSES}/{response_id}"
    found: dict[str, Any] = await service.alice.until(path, lambda it: it["status"] not in active, "its end")
    return found


async def resumed(service: Service, response_id: str, after: int | None = None) -> tuple[bytes, list[StreamedEvent]]:
    """Return the stream of a response after an event, and its events."""
    query = "" if after is None else f"&starting_after={after}"
    async with streamed(service.alice, "GET", f"{RESPONSES}/{response_id}?stream=true{query}") as stream:
        events = await stream.rest()
        return stream.content, events


async def next_named(stream: EventReader, name: str) -> StreamedEvent:
    while (event := await stream.next()) is not None:
        if event.name == name:
            return event
    raise AssertionError(f"the stream ended without {name}")


async def test_a_background_response_is_queued_at_once_and_completes(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)

    first = await created(service, metadata={"topic": "weather"}, instructions="be brief", temperature=0.5)
    last = await ended(service, first["id"])

    assert (first["status"], first["output"], first["background"]) == ("queued", [], True)
    assert (last["status"], last["metadata"], last["temperature"]) == ("completed", {"topic": "weather"}, 0.5)
    [message] = last["output"]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "completed")
    assert message["content"][0]["text"] == WORDS
    assert last["usage"]["output_tokens"] == 7
    assert last["created_at"] == first["created_at"]
    assert vllm.asked[-1]["messages"][0] == {"role": "system", "content": "be brief"}


async def test_a_response_that_is_waited_for_is_answered_when_it_has_ended(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)

    found = await service.alice.done("POST", RESPONSES, asked())
    refused = await service.alice.post(RESPONSES, asked("refuse 422"))

    assert (found["status"], found["background"]) == ("completed", False)
    assert found["output"][0]["content"][0]["text"] == WORDS
    assert (refused.status, refused["error"]["message"]) == (422, "this was asked for")
    assert (await service.alice.get(f"{RESPONSES}/{found['id']}")).body == found


@pytest.mark.parametrize("is_background", [False, True])
async def test_a_stream_has_dense_numbers_and_every_event(
    service: Service, vllm: VllmServer, is_background: bool
) -> None:
    await register(service, vllm)

    async with streamed(service.alice, "POST", RESPONSES, asked(stream=True, background=is_background)) as stream:
        events = await stream.rest()

    assert [event.name for event in events] == NAMES
    assert [event.number for event in events] == list(range(len(NAMES)))
    assert all(event.fields["type"] == event.name for event in events)
    assert "".join(event.fields["delta"] for event in events if event.name.endswith("text.delta")) == WORDS
    response = events[-1].fields["response"]
    assert response == await service.alice.done("GET", f"{RESPONSES}/{response['id']}")


async def test_a_stream_resumed_after_any_event_goes_on_to_the_byte(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    async with streamed(service.alice, "POST", RESPONSES, asked(stream=True, background=True)) as stream:
        events = await stream.rest()
        unbroken = stream.content
    response_id = events[0].fields["response"]["id"]

    for place, event in enumerate(events):
        rest, found = await resumed(service, response_id, event.number)
        assert unbroken.endswith(rest)
        assert found == events[place + 1 :]
    whole, _ = await resumed(service, response_id)
    assert whole == unbroken


async def test_a_client_that_was_cut_off_mid_way_misses_nothing(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    async with streamed(service.alice, "POST", RESPONSES, asked("step", stream=True, background=True)) as stream:
        delta = await next_named(stream, "response.output_text.delta")
        before = stream.content
    assert vllm.running == 1  # it runs on without its client
    response_id = (await service.alice.tasks())[0]["id"].partition("~")[0]

    vllm.step(7)
    after, _ = await resumed(service, f"resp_{response_id}", delta.number)
    whole, _ = await resumed(service, f"resp_{response_id}")

    assert before + after == whole


async def test_what_a_client_has_is_in_the_log_first(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    async with streamed(service.alice, "POST", RESPONSES, asked("long step", stream=True, background=True)) as stream:
        for _ in range(20):
            delta = await next_named(stream, "response.output_text.delta")
            [task] = await service.alice.tasks()
            reports = [each for each in await service.alice.history(task["id"]) if each["type"] == "ProgressReported"]
            last = reports[-1]["parts"]
            assert delta.number < 3 + 2 + last["first"] + len(last["middles"])
            vllm.step()
        vllm.step(40)
        await stream.rest()


async def test_a_stored_report_says_which_parts_it_sums_up(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    async with streamed(service.alice, "POST", RESPONSES, asked(stream=True, background=True)) as stream:
        await stream.rest()

    [task] = await service.alice.tasks()
    parts = [each["parts"] for each in await service.alice.history(task["id"]) if each["type"] == "ProgressReported"]

    following = 0
    for each in parts:
        assert each["first"] == following
        following += len(each["middles"])
    assert following == len(WORDS.split(" ")) + 2


async def test_a_server_that_dies_before_its_first_word_leaves_no_trace_in_the_stream(
    service: Service, vllm: VllmServer, other: VllmServer
) -> None:
    await register(service, vllm)
    vllm.most = 0
    async with streamed(service.alice, "POST", RESPONSES, asked(stream=True, background=True)) as stream:
        await next_named(stream, "response.queued")
        await register(service, other, "v2")
        await vllm.stop()
        await stream.rest()
    [task] = await service.alice.tasks()

    content, events = await resumed(service, f"resp_{task['id'].partition('~')[0]}")

    assert content == stream.content
    assert [event.name for event in events] == NAMES


async def test_a_server_that_dies_after_its_first_word_fails_the_response(
    service: Service, vllm: VllmServer, other: VllmServer
) -> None:
    await register(service, vllm)
    async with streamed(service.alice, "POST", RESPONSES, asked("hold", stream=True, background=True)) as stream:
        await next_named(stream, "response.output_text.delta")
        await register(service, other, "v2")
        await vllm.stop()
        last = (await stream.rest())[-1]
    response_id = last.fields["response"]["id"]

    content, events = await resumed(service, response_id)

    assert content == stream.content
    assert [event.number for event in events] == list(range(len(events)))
    assert last.name == "response.failed"
    assert last.fields["response"]["error"]["code"] == "server_error"
    assert other.asked == []
    assert (await ended(service, response_id))["status"] == "failed"


async def test_a_response_that_is_retried_by_hand_stays_what_it_was(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    response = await created(service, "refuse 400")
    failed = await ended(service, response["id"])
    [task] = await service.alice.tasks()

    await service.alice.done("POST", f"/api/task/{task['id']}/retry")
    await wait_until(lambda: len(vllm.asked) == 2, "the second attempt")

    assert failed["error"] == {"code": "invalid_prompt", "message": "this was asked for"}
    assert await service.alice.done("GET", f"{RESPONSES}/{response['id']}") == failed


async def test_a_cancelled_response_stops_the_server_and_stays_cancelled(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    response = await created(service, "hold", stream=False)
    path = f"{RESPONSES}/{response['id']}"
    await wait_until(lambda: vllm.running == 1, "the server to work on it")
    await service.alice.until(path, lambda it: it["status"] == "in_progress", "it to be in progress")

    first = await service.alice.done("POST", f"{path}/cancel")
    again = await service.alice.done("POST", f"{path}/cancel")

    assert first["status"] == "cancelled"
    assert again == first == await service.alice.done("GET", path)
    await wait_until(lambda: vllm.running == 0, "the server to be free")
    _, events = await resumed(service, response["id"])
    assert events[-1].name == "response.incomplete"
    assert events[-1].fields["response"]["status"] == "cancelled"


async def test_a_completed_response_is_not_cancelled(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    response = await ended(service, (await created(service))["id"])
    held = await service.alice.done("POST", RESPONSES, asked())

    same = await service.alice.done("POST", f"{RESPONSES}/{response['id']}/cancel")
    refused = await service.alice.post(f"{RESPONSES}/{held['id']}/cancel")

    assert same == response
    assert refused.status == 400


async def test_a_deleted_response_is_gone_and_its_work_stops(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    response = await created(service, "hold")
    path = f"{RESPONSES}/{response['id']}"
    await wait_until(lambda: vllm.running == 1, "the server to work on it")

    deleted = await service.alice.done("DELETE", path)

    assert deleted == {"id": response["id"], "object": "response", "deleted": True}
    await wait_until(lambda: vllm.running == 0, "the server to be free")
    for method, gone in [("GET", path), ("DELETE", path), ("GET", f"{path}/input_items"), ("POST", f"{path}/cancel")]:
        answer = await service.alice.call(method, gone)
        assert (answer.status, answer["error"]["param"]) == (404, "response_id")
    assert await service.alice.tasks() == []


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_response_that_is_not_to_be_stored_is_gone_when_it_was_answered(
    service: Service, vllm: VllmServer, is_stream: bool
) -> None:
    await register(service, vllm)
    if is_stream:
        async with streamed(service.alice, "POST", RESPONSES, asked(store=False, stream=True)) as stream:
            found = (await stream.rest())[-1].fields["response"]
    else:
        found = await service.alice.done("POST", RESPONSES, asked(store=False))

    assert found["store"] is False
    assert (await service.alice.get(f"{RESPONSES}/{found['id']}")).status == 404

    async def is_gone() -> bool:
        return await service.alice.tasks() == []

    await wait_until(is_gone, "its task to be deleted")


async def test_a_response_is_there_for_its_owner_alone(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    response = await created(service)
    path = f"{RESPONSES}/{response['id']}"

    for client in (service.bob, service.admin, service.auditor):
        assert (await client.get(path)).status == 404
        assert (await client.get(f"{path}?stream=true")).status == 404
        assert (await client.delete(path)).status in (403, 404)
    assert "alice" not in response["id"]


async def test_a_task_of_another_api_is_no_response(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    task_id = await service.alice.submit({"payload": {"input": "a"}})

    assert (await service.alice.get(f"{RESPONSES}/resp_{task_id.partition('~')[0]}")).status == 404
    assert (await service.alice.get(f"{RESPONSES}/resp_x")).status == 404


async def test_the_input_is_listed_page_by_page(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    turns = [{"role": "user", "content": str(number)} for number in range(3)]
    path = f"{RESPONSES}/{(await created(service, turns))['id']}/input_items"  # type: ignore[arg-type]
    text = await created(service, "hello")

    first = await service.alice.done("GET", f"{path}?limit=2")
    second = await service.alice.done("GET", f"{path}?limit=2&after={first['last_id']}")
    ascending = await service.alice.done("GET", f"{path}?order=asc")
    [only] = (await service.alice.done("GET", f"{RESPONSES}/{text['id']}/input_items"))["data"]

    assert [item["content"] for item in (*first["data"], *second["data"])] == ["2", "1", "0"]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert [item["content"] for item in ascending["data"]] == ["0", "1", "2"]
    assert (only["role"], only["content"]) == ("user", [{"type": "input_text", "text": "hello"}])
    assert (await service.alice.get(f"{path}?after=x")).status == 400


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"store": False, "background": True}, "store"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"conversation": "conv_x"}, "conversation"),
        ({"input": None}, "input"),
        ({"background": "yes"}, "background"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
    ],
)
async def test_what_is_not_supported_names_the_parameter(
    service: Service, vllm: VllmServer, more: Any, param: str
) -> None:
    await register(service, vllm)

    answer = await service.alice.post(RESPONSES, asked(**more) if "input" not in more else asked() | more)

    assert answer.status == 400
    assert answer["error"]["param"] == param or f"$.{param}" in answer["error"]["message"]


@pytest.mark.parametrize("query", ["starting_after=1", "stream=true&starting_after=-1", "stream=true&starting_after=x"])
async def test_a_number_that_cannot_be_resumed_after_is_refused(service: Service, vllm: VllmServer, query: str) -> None:
    await register(service, vllm)
    response = await created(service)

    answer = await service.alice.get(f"{RESPONSES}/{response['id']}?{query}")

    assert (answer.status, answer["error"]["param"]) == (400, "starting_after")


async def test_a_client_that_hangs_up_on_a_held_response_frees_the_server(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    async with streamed(service.alice, "POST", RESPONSES, asked("hold", stream=True)) as stream:
        await next_named(stream, "response.output_text.delta")

    await wait_until(lambda: vllm.running == 0, "the server to be free")
    [task] = await service.alice.tasks()
    await service.alice.reaches(task["id"], "CANCELLED")


async def test_a_stream_that_was_not_asked_for_may_be_read_later(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    response = await ended(service, (await created(service))["id"])

    content, events = await resumed(service, response["id"])

    assert [event.name for event in events] == [*NAMES[:5], *NAMES[11:]]
    assert [event.number for event in events] == list(range(len(events)))
    assert (await resumed(service, response["id"]))[0] == content


async def test_a_process_that_starts_anew_resumes_to_the_byte(nats_url: str, vllm: VllmServer) -> None:
    async with running_service(nats_url) as service:
        await register(service, vllm)
        async with streamed(service.alice, "POST", RESPONSES, asked(stream=True, background=True)) as stream:
            events = await stream.rest()

    async with running_service(nats_url) as service:
        content, _ = await resumed(service, events[0].fields["response"]["id"])

    assert content == stream.content
