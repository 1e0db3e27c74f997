"""Gathers the evidence of a run from where anybody could read it: plain nats-py, and the journals' files."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.js.api import ConsumerConfig

from taskstream.events.codec import task_codec
from taskstream.events.ids import TaskRef
from taskstream.events.subjects import SCHEDULER_FENCE, task_ref
from taskstream.projections.fleet import Fleet
from taskstream.projections.task_view import TaskView, active_key, fold, view_key
from taskstream.projections.task_view import encode as encode_view
from taskstream.streams.jetstream.messages import Position
from taskstream.streams.log import decode

from .evidence import Bucket, ConsumerSeen, Entry

READ_SECONDS = 10.0
PATIENCE_SECONDS = 90.0
IDLE_SECONDS = 30.0
"""A consumer of ours that is idle for so long is deleted: on a busy machine one fetch comes long after another."""
PAUSE_SECONDS = 0.5
BATCH = 500
CHECKPOINT = "checkpoint"
STREAM_NOT_FOUND = 10059


class StreamIsGone(RuntimeError):
    """JetStream knows no stream of that name."""


class Message(msgspec.Struct, frozen=True):
    sequence: int
    subject: str
    data: bytes
    headers: dict[str, str]
    stored_at: float
    """Seconds since the epoch, by NATS' clock."""


def _is_event(message: Message) -> bool:
    return message.subject != SCHEDULER_FENCE


class Reader:
    """Reads streams; use as an async context manager."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)
        self._client: Client | None = None

    async def __aenter__(self) -> Reader:
        self._client = await nats.connect(self._urls, name="chaos")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._client is not None
        await self._client.close()

    async def _api(self, name: str, body: Any = None) -> dict[str, Any]:
        """Call JetStream; repeat while there is no leader."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await self._api_once(name, body)
            except nats.errors.Error:
                if time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    async def _api_once(self, name: str, body: Any) -> dict[str, Any]:
        assert self._client is not None
        payload = msgspec.json.encode(body) if body is not None else b""
        answer = await self._client.request(f"$JS.API.{name}", payload, timeout=READ_SECONDS)
        found: dict[str, Any] = msgspec.json.decode(answer.data)
        if error := found.get("error"):
            raise (StreamIsGone if error.get("err_code") == STREAM_NOT_FOUND else RuntimeError)(f"{name}: {error}")
        return found

    async def messages(self, stream: str) -> list[Message]:
        """Return all messages that are in a stream now, in order; try again where a leader is being elected.

        A stream that is gone has none: that it is gone is for the checker to say.
        """
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return [message async for message in self._messages(stream)]
            except StreamIsGone:
                return []
            except (nats.errors.Error, RuntimeError, TimeoutError):
                if time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    async def _messages(self, stream: str) -> AsyncIterator[Message]:
        assert self._client is not None
        left = (await self._api(f"STREAM.INFO.{stream}"))["state"]["messages"]
        config = ConsumerConfig(ack_policy="none", mem_storage=True, inactive_threshold=IDLE_SECONDS, num_replicas=1)  # type: ignore[arg-type]
        subscription = await self._client.jetstream().pull_subscribe("", stream=stream, config=config)
        try:
            while left > 0:
                for message in await subscription.fetch(min(left, BATCH), timeout=READ_SECONDS):
                    left = message.metadata.num_pending  # a bucket's messages are replaced meanwhile
                    place, stored_at = message.metadata.sequence.stream, message.metadata.timestamp.timestamp()
                    yield Message(place, message.subject, message.data, dict(message.headers or {}), stored_at)
        finally:
            with contextlib.suppress(nats.errors.Error):  # its server may have gone; then it is gone, too
                name = (await subscription.consumer_info()).name
                await subscription.unsubscribe()
                await self._api(f"CONSUMER.DELETE.{stream}.{name}")

    async def last_sequence(self, stream: str) -> int:
        return int((await self._api(f"STREAM.INFO.{stream}"))["state"]["last_seq"])

    async def subjects(self, stream: str, filter_subject: str) -> list[str]:
        """Return the subjects there are messages on."""
        try:
            found = await self._api(f"STREAM.INFO.{stream}", {"subjects_filter": filter_subject})
        except StreamIsGone:
            return []
        return list(found["state"].get("subjects") or {})

    async def streams(self) -> list[str]:
        return sorted((await self._api("STREAM.NAMES")).get("streams") or [])

    async def consumers(self) -> list[ConsumerSeen]:
        found = []
        for stream in await self.streams():
            for info in (await self._api(f"CONSUMER.LIST.{stream}")).get("consumers") or []:
                config = info["config"]
                idle = config.get("inactive_threshold", 0) / 1e9
                durable = bool(config.get("durable_name"))
                name = re.sub(r"^\d-", "", info["name"])  # one that a power cut broke has a successor
                found.append(ConsumerSeen(stream, name, durable, info.get("num_waiting", 0), idle))
        return found

    # What they mean

    async def log(self) -> list[Entry]:
        """Return the whole log of tasks."""
        return [
            Entry(message.sequence, message.subject, msgspec.json.decode(message.data), message.stored_at)
            for message in await self.messages("TASKS")
            if _is_event(message)
        ]

    async def positions(self) -> list[Position]:
        """Return the messages of the log of tasks, with the fences."""
        return [Position(one.sequence, one.subject, one.data) for one in await self.messages("TASKS")]

    async def turns(self) -> frozenset[int]:
        """Return the sequences of the fences in the stream of tasks, which are no events."""
        return frozenset(message.sequence for message in await self.messages("TASKS") if not _is_event(message))

    async def schedule_events(self, schedule_id: str) -> list[dict[str, Any]]:
        """Return the events of a recurring schedule, each with the time at which NATS stored it."""
        unique, owner = schedule_id.split("~")
        return [
            {"stored_at": message.stored_at, "event": msgspec.json.decode(message.data)["event"]}
            for message in await self.messages("SCHEDULES")
            if message.subject.startswith(f"schedule.{owner}.{unique}.")
        ]

    async def bucket(self, name: str) -> dict[str, bytes]:
        """Return the keys of a bucket and their values."""
        prefix = f"$KV.{name}."
        found: dict[str, bytes] = {}
        for message in await self.messages(f"KV_{name}"):
            key = message.subject.removeprefix(prefix)
            if message.headers.get("KV-Operation") in ("DEL", "PURGE"):
                found.pop(key, None)
            else:
                found[key] = message.data
        return found

    async def tasks_bucket(self) -> Bucket:
        """Return the projection of tasks beside the fold of the log."""
        views: dict[TaskRef, TaskView] = {}
        for message in filter(_is_event, await self.messages("TASKS")):
            ref = task_ref(message.subject)
            position = Position(message.sequence, message.subject, message.data)
            stored = decode(task_codec, position)
            view = fold(views.get(ref), stored)
            if view is not None:
                views[ref] = view
        wanted = {view_key(ref): encode_view(view) for ref, view in views.items()}
        wanted |= {key: b"" for ref, view in views.items() if (key := active_key(ref, view))}
        return Bucket("tasks", await self._projected("tasks"), wanted)

    async def registry_bucket(self) -> Bucket:
        """Return the projection of servers and types beside the fold of their log."""
        fleet = Fleet()
        wanted: dict[str, bytes] = {}
        for message in await self.messages("SERVERS"):
            for change in fleet.apply([Position(message.sequence, message.subject, message.data)]):
                wanted[change.key] = change.value
        return Bucket("registry", await self._projected("registry"), wanted)

    async def _projected(self, name: str) -> dict[str, bytes]:
        found = await self.bucket(name)
        found.pop(CHECKPOINT, None)
        # The value of an `active` key says when it was written, which is not of the log.
        return {key: b"" if key.startswith("active.") else value for key, value in found.items()}

    async def checkpoint(self, name: str) -> int:
        return int((await self.bucket(name)).get(CHECKPOINT, b"0"))

    async def queued(self) -> frozenset[str]:
        subjects = await self.subjects("DISPATCH", "dispatch.>")
        return frozenset(f"{unique}~{owner}" for _, _, _, owner, unique in (each.split(".") for each in subjects))

    async def timed(self) -> frozenset[str]:
        subjects = await self.subjects("RETRIES", "timer.retry.>") + await self.subjects("TIMERS", "timer.deadline.>")
        return frozenset(f"{unique}~{owner}" for _, _, owner, unique in (each.split(".") for each in subjects))
