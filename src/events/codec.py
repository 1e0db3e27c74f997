"""Events to bytes and back."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from .envelope import Event, Recorded
from .json_text import compact
from .owner import OwnerEvent
from .pool import PoolEvent
from .schedule import ScheduleEvent
from .server import ServerEvent
from .task import TaskEvent
from .task_type import TypeEvent
from .webhook import WebhookEvent

E = TypeVar("E", bound=Event)

_encoder = msgspec.json.Encoder()


class Codec(Generic[E]):
    """Encodes and decodes the events of one vocabulary. Unknown fields are passed over: the writer may be newer."""

    def __init__(self, recorded_type: Any) -> None:
        self._decoder: msgspec.json.Decoder[Recorded[E]] = msgspec.json.Decoder(recorded_type)

    def encode(self, recorded: Recorded[E]) -> bytes:
        """Return the JSON of an event, without line breaks: the texts of others in it may have some."""
        return compact(_encoder.encode(recorded))

    def decode(self, data: bytes) -> Recorded[E]:
        """Return the event. Raises msgspec.MsgspecError where it is none of this vocabulary."""
        try:
            return self._decoder.decode(data)
        except UnicodeDecodeError as error:
            raise msgspec.DecodeError(str(error)) from None


task_codec: Codec[TaskEvent] = Codec(Recorded[TaskEvent])
server_codec: Codec[ServerEvent] = Codec(Recorded[ServerEvent])
type_codec: Codec[TypeEvent] = Codec(Recorded[TypeEvent])
pool_codec: Codec[PoolEvent] = Codec(Recorded[PoolEvent])
owner_codec: Codec[OwnerEvent] = Codec(Recorded[OwnerEvent])
webhook_codec: Codec[WebhookEvent] = Codec(Recorded[WebhookEvent])
schedule_codec: Codec[ScheduleEvent] = Codec(Recorded[ScheduleEvent])
