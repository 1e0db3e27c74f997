"""What OpenAI's SDK for Python 3.57 asked, word for word, is answered in the form of the answers that it took.

`tests/facades/recorded/openai` has its requests and the answers of a server that it worked with. Ids and texts differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from testkit.service import Service
from testkit.vllm import VllmServer

from .openai_calls import EventReader, register

RECORDED = Path(__file__).parents[1] / "recorded" / "openai"
FILES = sorted(RECORDED.glob("*.json"))
ID = re.compile(r"resp_\w+")


@pytest.fixture
async def model() -> AsyncIterator[VllmServer]:
    async with VllmServer("m") as found:
        yield found


def shape_of(value: Any) -> Any:
    """Return the names and kinds in a JSON value; of a list, those of its first entry."""
    match value:
        case dict():
            return {name: shape_of(each) for name, each in value.items() if each is not None}
        case list():
            return [shape_of(value[0])] if value else []
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case _:
            return type(value).__name__


def lacks(answered: Any, recorded: Any, path: str = "$") -> list[str]:
    """Return where an answer lacks what the recorded one has. Empty objects and lists have no shape to lack."""
    if isinstance(recorded, dict) and isinstance(answered, dict):
        missing = [f"{path}.{name}" for name in recorded if name not in answered]
        common = recorded.keys() & answered.keys()
        return missing + [each for name in common for each in lacks(answered[name], recorded[name], f"{path}.{name}")]
    if isinstance(recorded, list) and isinstance(answered, list):
        return lacks(answered[0], recorded[0], f"{path}[0]") if recorded and answered else []
    return [] if answered == recorded else [f"{path}: {answered}, not {recorded}"]


class Replay:
    """Sends recorded requests to a service; ids in them become those that the service gave."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.ids: dict[str, str] = {}

    async def send(self, asked: Any) -> tuple[int, str, list[Any]]:
        """Return the status, the media type and the bodies: one, or the events of a stream."""
        path = ID.sub(lambda found: self.ids[found[0]], asked["url"])
        headers = asked["headers"] | {"Authorization": f"Bearer {self._service.alice.bearer}"}
        body = None if asked["body"] is None else json.dumps(asked["body"]).encode()
        url = f"{self._service.url}/openai{path}"
        async with self._service.alice.session.request(asked["method"], url, data=body, headers=headers) as response:
            media_type = response.content_type
            if media_type == "text/event-stream":
                bodies = [event.fields for event in await EventReader(response).rest()]
            else:
                bodies = [json.loads(await response.read())]
            return response.status, media_type, bodies

    def learn(self, answered: list[Any], recorded: list[Any]) -> None:
        """Remember which id of the service stands for a recorded one."""
        found, known = (ID.search(json.dumps(bodies)) for bodies in (answered, recorded))
        if found and known:
            self.ids[known[0]] = found[0]


def recorded_bodies(reply: Any) -> list[Any]:
    if reply["content_type"] == "text/event-stream":
        return [json.loads(text) for text in re.findall(r"^data: (.*)$", reply["body"], re.MULTILINE)]
    return [reply["body"]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_a_recorded_request_is_answered_in_the_recorded_form(
    service: Service, model: VllmServer, file: Path
) -> None:
    await register(service, model)
    replay = Replay(service)
    exchanges = json.loads(file.read_text())
    if ID.search(exchanges[0]["request"]["url"]):  # the recording begins after the response was made
        body = {"model": "m", "input": "hold", "background": True}
        replay.ids["resp_1"] = (await service.alice.done("POST", "/openai/v1/responses", body))["id"]
    for exchange in exchanges:
        status, media_type, bodies = await replay.send(exchange["request"])
        recorded = recorded_bodies(exchange["reply"])
        replay.learn(bodies, recorded)

        assert (status, media_type) == (exchange["reply"]["status"], exchange["reply"]["content_type"])
        for expected in recorded:
            alike = [each for each in bodies if each.get("type") == expected.get("type")]
            assert alike, expected
            assert lacks(shape_of(alike[0]), shape_of(expected)) == []
