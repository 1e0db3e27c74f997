"""Server-sent events as common clients read them: every message is JSON, and every id comes with one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.api.sse import HEARTBEAT, block
from testkit.backend import BackendServer, accept
from testkit.json_texts import json_texts
from testkit.queue_surface import MODEL
from testkit.service import Client, Service, running_service
from testkit.sse_clients import CLIENTS, Heard, npm_eventsource
from testkit.waiting import wait_until

every_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
BROKEN = ('{\r\n "a" :\t1.50,\n"b":["x",\r{}] }', "[\n1\r]", '"\\n"', '"\u2028\u2029\u0085"')
"""JSON that is no single line, or not for all clients."""


@given(st.lists(st.tuples(json_texts(), st.booleans()), min_size=1, max_size=4))
@every_client
def test_any_json_is_one_message_with_its_id(client: Callable[[bytes], Heard], sent: list[tuple[str, bool]]) -> None:
    stream = b""
    for place, (text, is_quiet) in enumerate(sent):
        stream += block(text.encode(), f"e-{place}", is_first=not place) + HEARTBEAT * is_quiet
    heard = client(stream)

    assert [json.loads(message.data) for message in heard.messages] == [json.loads(text) for text, _ in sent]
    assert [message.id for message in heard.messages] == [f"e-{place}" for place in range(len(sent))]
    assert (heard.last_id, heard.retry) == (f"e-{len(sent) - 1}", "1000")


class Surface:
    """A stream as it comes, byte for byte."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.bytes = b""

    async def has(self, *words: str) -> None:
        """Read on until all these words have come."""
        async with asyncio.timeout(60):
            while not all(word.encode() in self.bytes for word in words):
                chunk = await self._response.content.readany()
                assert chunk, f"the stream ended: {self.bytes!r}"
                self.bytes += chunk

    def check(self) -> list[Heard]:
        """Check what each client makes of the whole blocks that came, and return that."""
        whole = self.bytes[: self.bytes.rindex(b"\n\n") + 2]
        heard = [client(whole) for client in CLIENTS]
        for found in heard:
            assert [json.loads(message.data)["type"] for message in found.messages]
            assert found.messages == heard[0].messages
            assert found[1:] == heard[0][1:]
        return heard


@contextlib.asynccontextmanager
async def surface(client: Client, path: str, method: str = "GET", **more: Any) -> AsyncIterator[Surface]:
    headers = {"Authorization": f"Bearer {client.bearer}", **more.pop("headers", {})}
    timeout = aiohttp.ClientTimeout(total=None)
    async with client.session.request(method, client.url + path, headers=headers, timeout=timeout, **more) as response:
        assert response.status == 200
        yield Surface(response)


@pytest.fixture
async def quiet(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service whose streams send heartbeats all the time."""
    for module in ("routes.events", "routes.batches", "legacy.stream"):
        monkeypatch.setattr(f"taskstream.api.{module}.HEARTBEAT_SECONDS", 0.02)
    async with running_service(nats_url) as service:
        yield service


async def test_every_stream_is_json_for_every_client(quiet: Service) -> None:
    async with BackendServer(accept) as backend, contextlib.AsyncExitStack() as stack:
        await quiet.admin.register(backend, "one", types=["default", "chapter"], callback=True, **{"async": True})
        alice = quiet.alice
        answer = await alice.post("/api/tasks/batch", [{"n": 1}, {"n": 2}])
        batch_id, (task_id, other) = answer["batchId"], answer["taskIds"]
        paths = [f"/api/task/{task_id}/stream", "/api/tasks/stream", f"/api/batches/{batch_id}/stream"]
        paths += [f"{path}?after=0" for path in paths] + [f"{path}?after=elsewhere-7" for path in paths]
        opened = {path: await stack.enter_async_context(surface(alice, path)) for path in paths}
        legacy = await stack.enter_async_context(
            surface(alice, "/api/projects/x/generate-stream", "POST", json={}, headers=MODEL)
        )
        for stream in (*opened.values(), legacy):
            await stream.has("heartbeat")
        await wait_until(lambda: len(backend.calls) == 3, "the calls")
        for call in backend.calls:
            for progress in range(20):
                await backend.report(call, "PROCESSING", progress=progress, custom_data={"chapterIndex": progress})
            await backend.report(call, "FINISHED", data={"n": 1})
        for path, stream in opened.items():
            await stream.has("TaskSucceeded" if "tasks/" in path else f'TaskSucceeded","taskId":"{task_id}')
            for heard in stream.check():
                assert heard.retry == "1000", path
                assert "-" in heard.last_id, path
        await legacy.has('"done"')
        legacy.check()
        assert other in opened["/api/tasks/stream"].bytes.decode()


@pytest.mark.parametrize("text", BROKEN)
async def test_a_payload_with_line_breaks_is_one_message(api: Service, text: str) -> None:
    """In each form of a submission, in the state and in the event, and before an older version compacted it."""
    wanted = json.loads(text)
    headers = {"Content-Type": "application/json"}
    bodies = [f'{{"payload":\r\n{text}\n}}', f'\n{{ "mine" :\n{text}}}']
    async with surface(api.alice, "/api/tasks/stream?after=0") as events:
        for body in bodies:
            await api.alice.done("POST", "/api/task", body.encode(), headers=headers)
        many = f"[{bodies[0]},\n{bodies[1]}]"
        await api.alice.done("POST", "/api/tasks/batch", many.encode(), headers=headers)
        await events.has(*(f"-{sequence}\n" for sequence in range(1, 5)))
        for heard in events.check():
            told = [json.loads(message.data) for message in heard.messages]
            payloads = [one["event"]["payload"] for one in told if one["type"] == "TaskSubmitted"]
            assert payloads == [wanted, {"mine": wanted}] * 2


async def test_what_a_backend_reports_with_line_breaks_is_one_message(nats_url: str) -> None:
    text = '{\n "a": [1.50,\r\n "\u2028"] }'
    async with (
        running_service(nats_url, inline_result=100) as service,
        BackendServer(accept) as backend,
    ):
        await service.admin.register(backend, "one", callback=True, **{"async": True})
        task_id = await service.alice.submit({"payload": 1})
        await wait_until(lambda: backend.calls, "the call")
        headers = {"Content-Type": "application/json"}
        async with surface(service.alice, f"/api/task/{task_id}/stream") as stream:
            for status, data in (("PROCESSING", "1"), ("FINISHED", f"[{','.join([text] * 50)}]")):
                metadata = f'{{"status":"{status}","server_id":"one","custom_data":{text}}}'
                body = f'{{"metadata":\n{metadata},\r\n"data":{data}}}'
                await service.admin.done("PUT", f"/api/task/{task_id}", body.encode(), headers=headers)
            await stream.has("TaskSucceeded")
            stream.check()
        async with surface(service.alice, f"/api/task/{task_id}/stream") as stream:
            await stream.has("state")
            for heard in stream.check():
                link = json.loads(heard.messages[0].data)["task"]["result"]["$ref"]
                result = await service.alice.done("GET", link.removeprefix(service.url))
                assert result["data"] == [json.loads(text)] * 50


async def test_no_submission_is_missed_by_a_client_that_forgets_ids_without_data(api: Service) -> None:
    """npm `eventsource` 4, cut off after each message."""
    task_ids = []
    last_id = ""
    told = []
    for _ in range(10):
        headers = {"Last-Event-ID": last_id} if last_id else {}
        async with surface(api.alice, "/api/tasks/stream", headers=headers) as stream:
            await stream.has("\n\n")
            heard = npm_eventsource(stream.bytes)
            last_id = heard.last_id or last_id
            told += heard.messages
        task_ids.append(await api.alice.submit({"payload": 1}))
        async with surface(api.alice, "/api/tasks/stream", headers={"Last-Event-ID": last_id}) as stream:
            await stream.has(task_ids[-1])
            heard = npm_eventsource(stream.bytes[: stream.bytes.rindex(b"\n\n") + 2])
            last_id = heard.last_id or last_id
            told += heard.messages

    events = [json.loads(message.data) for message in told]
    assert [event["taskId"] for event in events if event["type"] == "TaskSubmitted"] == task_ids


async def test_a_stream_whose_filter_selects_nothing_still_says_where_it_is(quiet: Service) -> None:
    """A client takes 30 s without a byte for a dead connection, and reads the log again from its last id."""
    batch = await quiet.alice.post("/api/tasks/batch", [{"n": 1}])
    paths = ("/api/tasks/stream?type=other", f"/api/batches/{batch['batchId']}/stream")
    async with surface(quiet.alice, paths[0]) as filtered, surface(quiet.alice, paths[1]) as of_batch:
        task_id = [await quiet.alice.submit({"payload": 1}) for _ in range(5)][-1]
        sequence = (await quiet.alice.recorded(task_id))[0]["sequence"]
        for stream in (filtered, of_batch):
            await stream.has(f'-{sequence}\ndata: {{"type":"reached"}}')
            stream.check()
