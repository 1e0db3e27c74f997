"""The hand-over of attempts to pullers: the call of a pulled server.

The claim is in the log before. An attempt goes to the oldest open request that fits, in one message with an answer. If
the request is over by then, the next one gets it. If no answer comes, the attempt counts as handed over: its lease
brings it back if nobody has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

import msgspec
import structlog
from msgspec import Raw
from msgspec.structs import replace

from ...backends.dialects.dialect import Accepted, Call
from ...clock import unique_id
from ...container import Container
from ...errors import OutcomeUnknown, StoreError, StoreUnavailable
from ...events.envelope import NULL
from ...events.ids import TaskRef
from ...instants import milliseconds
from ...scheduling.asks import GONE, HandedInput, HandedModel, HandOver, OpenAsk, encode
from ...streams.client.connection import NoResponders
from ..fleet.slots import Slots

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 2.0
"""How long a process that holds a puller's request may take to answer a hand-over."""
PAUSE_SECONDS = 0.5
"""Pause without NATS before a hand-over is tried again."""
OTHER_BYTES = 16 * 1024
"""What a message has besides the input, at most."""
HANDED = ".handed"
"""End of the names of objects with inputs; whoever takes one deletes it, else it is swept."""

Outcome = Literal["taken", "gone"]


class HandOvers:
    """Hands the attempts of this worker to pullers."""

    def __init__(self, container: Container, slots: Slots) -> None:
        self._connection = container.consuming
        self._objects = container.objects
        self._slots = slots
        self.lease = timedelta(seconds=container.settings.pull_lease)
        """How often pullers must renew their attempts."""

    async def hand_over(
        self, server_id: str, ask: OpenAsk, ref: TaskRef, require: Mapping[str, str], call: Call
    ) -> Accepted | None:
        """Hand an attempt to the puller of a request, or of another that fits; None if every one of them is over.

        `require`: labels that the task requires. The request is not reserved any more then, also if this is cancelled.
        """
        next_ask: OpenAsk | None = ask
        outcome: Outcome = "gone"
        stored = ""
        try:
            message, stored = await self._message(ref, call)
            while next_ask is not None:
                outcome = await self._offer(next_ask, replace(message, coming=next_ask.coming - 1))
                reserved, next_ask = next_ask, None
                self._slots.end_ask(server_id, reserved, "served" if outcome == "taken" else "gone")
                if outcome == "gone":
                    next_ask = self._slots.reserve_ask(server_id, call.task_type, require)
        finally:
            if next_ask is not None:
                self._slots.end_ask(server_id, next_ask, "unused")
            if stored and outcome == "gone":
                with contextlib.suppress(StoreError):
                    await self._objects.delete(stored)
        return Accepted(None, lease=self.lease) if outcome == "taken" else None

    async def _message(self, ref: TaskRef, call: Call) -> tuple[HandOver, str]:
        """Return the message that hands an attempt over, and the name of the object with its input, if it needs one."""
        given = HandedInput(
            payload=call.payload, parents=NULL if call.parents is None else Raw(msgspec.json.encode(call.parents))
        )
        size = len(given.payload) + len(given.parents)
        name = ""
        if size > self._connection.max_payload - OTHER_BYTES:
            name = f"{ref.owner}.{ref.unique}.{unique_id()}{HANDED}"
            await self._objects.put(name, encode(given))
        message = HandOver(
            owner=ref.owner,
            unique=ref.unique,
            attempt=call.attempt,
            task_type=call.task_type,
            deadline=milliseconds(call.deadline),
            token=call.callback_token,
            lease_seconds=self.lease.total_seconds(),
            input=None if name else given,
            object_name=name,
            model=_model(call),
            trace=dict(call.trace.headers()),
        )
        return message, name

    async def _offer(self, ask: OpenAsk, message: HandOver) -> Outcome:
        """Offer an attempt to the process that holds a request. Waits for NATS without a limit.

        Without an answer it counts as taken.
        """
        body = encode(message)
        while True:
            try:
                answer = await self._connection.request(ask.reply, body, timeout_seconds=ANSWER_SECONDS)
            except NoResponders:
                return "gone"
            except OutcomeUnknown as error:
                log.info("hand-over.unanswered", attempt=message.attempt, reason=str(error))
                return "taken"
            except StoreUnavailable as error:  # it was not sent
                log.warning("hand-over.delayed", reason=str(error))
                await self._connection.pause(PAUSE_SECONDS)
            else:
                return "gone" if answer.data == GONE else "taken"


def _model(call: Call) -> HandedModel | None:
    chosen = call.model
    if chosen is None:
        return HandedModel(key=call.model_key) if call.model_key else None
    return HandedModel(provider=chosen.provider, model=chosen.model, base_url=chosen.base_url, key=call.model_key)
