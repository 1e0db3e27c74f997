"""Events to bytes and back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec

from .batch_job import BatchJobEvent
from .envelope import Event, Recorded
from .file import FileEvent
from .json_text import compact
from .key import KeyEvent
from .operation import OperationEvent
from .owner import OwnerEvent
from .pool import PoolEvent
from .schedule import ScheduleEvent
from .server import ServerEvent
from .task import TaskEvent
from .task_type import TypeEvent
from .webhook import WebhookEvent

E = TypeVar("E", bound=Event)

_encoder = msgspec.json.Encoder()

REMEMBERED = 1_024
"""Decoded events of tasks kept in memory, about 2 KB each: several readers of one process decode the same ones."""
MOST_REMEMBERED_BYTES = 2_048
"""A longer event is decoded each time."""


class Codec(Generic[E]):
    """Encodes and decodes the events of one vocabulary. Unknown fields are passed over: the writer may be newer."""

    def __init__(self, recorded_type: Any, remembered: int = 0) -> None:
        """`remembered`: how many decoded events are kept. Nobody changes an event, so readers may share it."""
        self._decoder: msgspec.json.Decoder[Recorded[E]] = msgspec.json.Decoder(recorded_type)
        self._decode_once = lru_cache(maxsize=remembered)(self._decoder.decode)

    @property
    def decodes(self) -> int:
        """How many events were decoded, without those that were remembered or too long to be."""
        return self._decode_once.cache_info().misses

    def encode(self, recorded: Recorded[E]) -> bytes:
        """Return the JSON of an event, without line breaks: the texts of others in it may have some."""
        return compact(_encoder.encode(recorded))

    def decode(self, data: bytes) -> Recorded[E]:
        """Return the event. Raises msgspec.MsgspecError where it is none of this vocabulary."""
        if len(data) > MOST_REMEMBERED_BYTES:
            return self.decode_alone(data)
        try:
            return self._decode_once(data)
        except UnicodeDecodeError as error:
            raise msgspec.DecodeError(str(error)) from None

    def decode_alone(self, data: bytes) -> Recorded[E]:
        """Return the event as `decode` does, and remember nothing: for one whom no other reader follows.

        What is remembered costs as much as to decode it.
        """
        try:
            return self._decoder.decode(data)
        except UnicodeDecodeError as error:
            raise msgspec.DecodeError(str(error)) from None


task_codec: Codec[TaskEvent] = Codec(Recorded[TaskEvent], REMEMBERED)
server_codec: Codec[ServerEvent] = Codec(Recorded[ServerEvent])
type_codec: Codec[TypeEvent] = Codec(Recorded[TypeEvent])
pool_codec: Codec[PoolEvent] = Codec(Recorded[PoolEvent])
owner_codec: Codec[OwnerEvent] = Codec(Recorded[OwnerEvent])
webhook_codec: Codec[WebhookEvent] = Codec(Recorded[WebhookEvent])
schedule_codec: Codec[ScheduleEvent] = Codec(Recorded[ScheduleEvent])
operation_codec: Codec[OperationEvent] = Codec(Recorded[OperationEvent])
batch_job_codec: Codec[BatchJobEvent] = Codec(Recorded[BatchJobEvent])
file_codec: Codec[FileEvent] = Codec(Recorded[FileEvent])
key_codec: Codec[KeyEvent] = Codec(Recorded[KeyEvent])
