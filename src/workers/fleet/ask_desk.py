"""Where the open requests of pullers come in, for the pulled servers that this worker dispatches to."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ...container import Container
from ...errors import StoreError, StoreUnavailable
from ...events.subjects import ask_report_subject, ask_subject
from ...runtime.service import Service
from ...scheduling.asks import decode_ask, encode
from .slots import Slots

log = structlog.get_logger(__name__)

PERIOD_SECONDS = 0.5


class AskDesk(Service):
    """Listens for requests, and forgets those of which no process says anything any more."""

    def __init__(self, container: Container, slots: Slots) -> None:
        super().__init__("ask-desk", period_seconds=PERIOD_SECONDS)
        self._connection = container.consuming
        self._slots = slots
        self._listening: dict[str, list[Subscription]] = {}
        """By server."""
        slots.on_assignment = self.wake

    async def run_once(self) -> Mapping[str, int]:
        """Listen for the pulled servers assigned here, and for no others; return how many these are."""
        self._slots.forget_silent_asks()
        pulled = set(self._slots.pulled_servers())
        for server_id in self._listening.keys() - pulled:
            await self._leave(server_id)
        for server_id in pulled - self._listening.keys():
            await self._listen(server_id)
        return {"servers": len(pulled)}

    async def stop(self) -> None:
        """Listen no more: the next worker of the servers does."""
        await super().stop()
        for server_id in list(self._listening):
            await self._leave(server_id)

    async def _listen(self, server_id: str) -> None:
        listening = self._listening[server_id] = []
        try:
            asks, reports = ask_subject(server_id), ask_report_subject(server_id)
            listening.append(await self._connection.listen(asks, partial(self._on_ask, server_id)))
            listening.append(await self._connection.subscribe(reports, partial(self._on_report, server_id)))
        except nats.errors.Error as error:
            await self._leave(server_id)
            raise StoreUnavailable(f"NATS did not take a subscription: {error}") from error

    async def _leave(self, server_id: str) -> None:
        for subscription in self._listening.pop(server_id):
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    def _on_ask(self, server_id: str, message: Msg) -> None:
        try:
            self._slots.ask(server_id, decode_ask(message.data), message.reply)
        except msgspec.MsgspecError as error:
            log.warning("ask-desk.unreadable", server=server_id, reason=str(error))

    async def _on_report(self, server_id: str, message: Msg) -> None:
        report = self._slots.ask_report(server_id)
        if report is not None:
            with contextlib.suppress(StoreError):
                await self._connection.publish(message.reply, encode(report))
