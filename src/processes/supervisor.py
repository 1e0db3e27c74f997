"""The supervisor of `taskstream up`: it owns the embedded NATS and the socket, and runs APIs and workers as children.

    taskstream up          the supervisor
    ├── nats-server        the embedded NATS: one, or one per node of `--cluster`
    └── spawner            forks the children (`spawner`)
        ├── api-1, …       accept connections of the one socket
        └── worker-1, …

A child that ends is started again, after a pause that grows while it keeps ending; the others go on. When the
supervisor ends, however it ends, the kernel ends all others (Linux); elsewhere a child ends when its link to the
supervisor does. This process imports little, so it stays small.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from typing import Any, Literal, assert_never

import msgspec
import structlog

from ..nats_server.keeping import embedded_nats
from ..nats_server.server import LIBC, die_with_parent
from ..runtime import logs
from ..runtime.descriptors import raise_descriptor_limit
from ..runtime.failures import EXIT_FAILED, ProcessFailed
from ..runtime.process import REQUESTS_GRACE_SECONDS, announce, cores, listen, send_signal, stop_signal
from ..runtime.siblings import SiblingState
from ..settings import Settings
from ..streams.client.access import for_up
from .messages import (
    AskMetrics,
    Check,
    Checked,
    ChildReady,
    CollectMetrics,
    Exited,
    Fork,
    Forked,
    FromChild,
    FromSpawner,
    GaveUp,
    Halted,
    Link,
    MakeKey,
    MetricsPage,
    MetricsPages,
    Reserve,
    Role,
    States,
    StopChild,
    send_with,
)

log = structlog.get_logger(__name__)

NAME = "supervisor"
"""As the log has it."""
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 15.0
PROVEN_SECONDS = 60.0
"""A child that was ready for so long gets the first pause again when it ends."""
LOOK_SECONDS = 0.01
OVERDUE_SECONDS = 15.0
"""A child that takes so much longer to stop than its settings allow is killed."""
PAGE_SECONDS = 2.0
"""How long a scrape waits for the metrics of each child."""
PR_SET_CHILD_SUBREAPER = 36
"""From <sys/prctl.h>."""


async def run_processes(given: Settings) -> None:
    """Run APIs and workers in processes of their own until a signal, on the NATS of the settings or an embedded one.

    Raises ProcessFailed if one fails at its start, InvalidSettings, or an EmbeddedNatsError; nothing is left running.
    """
    logs.configure(given, NAME)
    raise_descriptor_limit()
    with listen(for_up(given)) as (settings, listener):
        async with AsyncExitStack() as stack:
            spawner = Spawner(settings)
            stack.push_async_callback(spawner.close)
            await spawner.start()
            if settings.nats_url is None:
                nats = await stack.enter_async_context(embedded_nats(settings))
                with_key = await spawner.with_key(settings)  # NATS holds the lock of the data folder
                children = Children(with_key, nats.url, spawner, listener, nats.reserve)
            else:
                children = Children(settings, settings.nats_url, spawner, listener)
            stack.push_async_callback(children.close)  # before NATS
            await children.start()
            stop = stop_signal()
            announce(settings)
            await stop.wait()
            await children.stop()


class SpawnerGone(Exception):
    """The spawner has ended, and the children with it."""


class Spawner:
    """The spawner as the supervisor sees it. One that has ended is started again when it is needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._sender: socket.socket | None = None
        """Its socket, for messages with descriptors; `_link` has a copy."""
        self._link: Link | None = None
        self._listening: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[FromSpawner] | None = None
        self._exits: dict[int, asyncio.Future[int]] = {}
        """Of the children that it has forked, by process id, until they are asked about."""

    async def start(self) -> None:
        """Start it, and have it check the settings. Raises ProcessFailed."""
        async with self._turn:
            await self._start()

    async def with_key(self, settings: Settings) -> Settings:
        """Return the settings with the keys of the data folder's key file. Raises ProcessFailed."""
        async with self._turn:
            return _settings_of(await self._ask(MakeKey(settings=settings)))

    async def fork(self, order: Fork, link: socket.socket, listener: socket.socket) -> int:
        """Start a child; return its process id. Raises ProcessFailed, SpawnerGone."""
        async with self._turn:
            if self._link is None:
                await self._start()
            answer = await self._ask(order, link.fileno(), listener.fileno())
        assert isinstance(answer, Forked)
        return answer.pid

    async def exit_status(self, pid: int) -> int:
        """Wait until a child has ended; return its exit status, or the negative number of a signal."""
        try:
            return await self._exits[pid]
        finally:
            del self._exits[pid]

    async def close(self) -> None:
        """Kill it; the kernel kills its children."""
        if self._process is not None:
            send_signal(self._process, signal.SIGKILL)
            await self._process.wait()
        if self._listening is not None:
            await self._listening

    async def _start(self) -> None:
        if self._listening is not None:
            await self._listening
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "taskstream.processes.spawner", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C reaches the supervisor only, which says when to stop
                preexec_fn=_before_spawner(),
            )
        self._sender = ours.dup()
        self._link = await Link.over(ours)
        self._listening = asyncio.create_task(self._listen(self._link, self._process), name="spawner")
        try:
            _settings_of(await self._ask(Check(settings=self._settings, name=NAME)))
        except SpawnerGone:
            raise ProcessFailed(EXIT_FAILED, "the spawner ended at its start; its last lines say why") from None

    async def _ask(self, message: Check | MakeKey | Fork, *descriptors: int) -> FromSpawner:
        """Send a message and return the answer; call it in turn. Raises ProcessFailed, SpawnerGone."""
        if self._sender is None:
            raise SpawnerGone
        self._answer = asyncio.get_running_loop().create_future()
        try:
            await send_with(self._sender, message, descriptors)
        except OSError:
            raise SpawnerGone from None
        answer = await self._answer
        if isinstance(answer, GaveUp):
            raise ProcessFailed(answer.status, answer.text)
        return answer

    async def _listen(self, link: Link, process: asyncio.subprocess.Process) -> None:
        while (body := await link.receive()) is not None:
            message: FromSpawner = msgspec.msgpack.decode(body, type=FromSpawner)
            if isinstance(message, Exited):
                self._exited(message.pid, message.status)
                continue
            if isinstance(message, Forked):
                self._exits[message.pid] = asyncio.get_running_loop().create_future()
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(message)
        link.close()
        self._link = None
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(SpawnerGone())
        send_signal(process, signal.SIGKILL)
        await process.wait()
        for pid in [pid for pid, ended in self._exits.items() if not ended.done()]:
            await _gone(pid)
            self._exited(pid, -signal.SIGKILL)

    def _exited(self, pid: int, status: int) -> None:
        if (ended := self._exits.get(pid)) and not ended.done():
            ended.set_result(status)


def _settings_of(answer: FromSpawner) -> Settings:
    assert isinstance(answer, Checked)
    return answer.settings


def _before_spawner() -> Callable[[], None]:
    supervisor = os.getpid()
    if LIBC is not None:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # children of a spawner that was killed are reaped here
    return lambda: die_with_parent(supervisor, signal.SIGKILL)


async def _gone(pid: int) -> None:
    """Wait until an orphan has ended."""
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:  # noqa: ASYNC222 - does not block
                return
        except ChildProcessError:  # another system than Linux: it ends when its link does
            return
        await asyncio.sleep(LOOK_SECONDS)


class Child:
    """A child as the supervisor sees it."""

    def __init__(self, name: str, role: Role) -> None:
        self.name = name
        self.role: Role = role
        self.pid: int | None = None
        """None while it does not run."""
        self.link: Link | None = None
        self.state: Literal["starting", "ready", "restarting"] = "starting"
        self.halted: dict[str, str] = {}
        self.failure: GaveUp | None = None
        """What it said before it ended."""
        self.restarts = 0
        self.pages: dict[int, asyncio.Future[str]] = {}
        """Its metrics that were asked for, by number."""

    @property
    def shown(self) -> SiblingState:
        return SiblingState(state=self.state, halted=self.halted)


class Children:
    """The APIs and workers of a supervisor."""

    def __init__(
        self,
        settings: Settings,
        nats_url: str,
        spawner: Spawner,
        listener: socket.socket,
        report_reserve: Callable[[int], None] | None = None,
    ) -> None:
        """`report_reserve` takes the bytes of the store that are kept for accepted work, if NATS is embedded."""
        self._settings = settings
        self._nats_url = nats_url
        self._spawner = spawner
        self._listener = listener
        self._report_reserve = report_reserve
        self._apis = [Child(f"api-{number + 1}", "api") for number in range(settings.apis)]
        workers = settings.worker_processes(cores())
        self._workers = [Child(f"worker-{number + 1}", "worker") for number in range(workers)]
        self._keepers: dict[Child, asyncio.Task[None]] = {}
        self._started = asyncio.Event()
        """Set once each was ready."""
        self._stopping = asyncio.Event()
        self._numbers = itertools.count()
        self._collections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start all, and return once each is ready. Raises ProcessFailed if one ends before."""
        for child in (*self._apis, *self._workers):
            self._keepers[child] = asyncio.create_task(self._keep(child), name=child.name)
        ready = asyncio.create_task(self._started.wait())
        waited: list[asyncio.Future[Any]] = [ready, *self._keepers.values()]
        try:
            done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        for each in done:
            each.result()

    async def stop(self) -> None:
        """Stop the APIs, then the workers; return once all have ended."""
        self._stopping.set()
        await self._stop(self._apis, self._settings.drain + REQUESTS_GRACE_SECONDS)
        await self._stop(self._workers, self._settings.shutdown_grace)

    async def close(self) -> None:
        """End at once what still runs, and the spawner."""
        self._stopping.set()
        await self._spawner.close()
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)

    async def _stop(self, children: Collection[Child], patience_seconds: float) -> None:
        if not children:
            return
        for child in children:
            if child.link is not None:
                child.link.send(StopChild())
            else:
                self._keepers[child].cancel()
        keepers = [self._keepers[child] for child in children]
        await asyncio.wait(keepers, timeout=patience_seconds + OVERDUE_SECONDS)
        for child in children:
            if not self._keepers[child].done() and child.pid is not None:
                log.error("process.overdue", name=child.name, action="killing it: it does not stop")
                os.kill(child.pid, signal.SIGKILL)
        await asyncio.wait(keepers)

    async def _keep(self, child: Child) -> None:
        """Run a child again and again, until all are to stop. Raises ProcessFailed if it ends at the first start."""
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            started_at = time.monotonic()
            try:
                status = await self._run(child)
                reason = child.failure.text if child.failure else _ending(status)
            except SpawnerGone:
                status, reason = EXIT_FAILED, "the spawner has ended"
            except ProcessFailed as error:
                status, reason = error.status, str(error)
            if self._stopping.is_set():
                return
            if not self._started.is_set():
                raise ProcessFailed(
                    child.failure.status if child.failure else EXIT_FAILED,
                    reason if child.failure else f"{child.name} ended at its start: {reason}",
                )
            if time.monotonic() - started_at > PROVEN_SECONDS:
                pause_seconds = FIRST_PAUSE_SECONDS
            log.error("process.ended", name=child.name, reason=reason, action=f"restart in {pause_seconds:g} s")
            child.restarts += 1
            self._change(child, "restarting")
            await asyncio.sleep(pause_seconds)
            if self._stopping.is_set():
                return
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _run(self, child: Child) -> int:
        """Start a child and serve it until it has ended; return its exit status. Raises ProcessFailed, SpawnerGone."""
        child.failure, child.halted = None, {}
        order = Fork(
            name=child.name,
            role=child.role,
            settings=self._settings,
            nats_url=self._nats_url,
            is_embedded=self._settings.nats_url is None,
            restarts=child.restarts,
        )
        ours, theirs = socket.socketpair()
        with theirs:
            child.pid = await self._spawner.fork(order, theirs, self._listener)
        child.link = await Link.over(ours)
        child.link.send(self._states_for(child))
        try:
            while (body := await child.link.receive()) is not None:
                self._serve(child, msgspec.msgpack.decode(body, type=FromChild))
            return await self._spawner.exit_status(child.pid)
        finally:
            child.link.close()
            child.link = child.pid = None

    def _serve(self, child: Child, message: FromChild) -> None:
        match message:
            case ChildReady():
                log.info("process.ready", name=child.name, pid=child.pid)
                self._change(child, "ready")
                if all(each.state == "ready" for each in self._keepers):
                    self._started.set()
            case GaveUp():
                child.failure = message
            case Halted(services=services):
                child.halted = services
                self._change(child, child.state)
            case Reserve(size_bytes=size_bytes):
                if self._report_reserve is not None:
                    self._report_reserve(size_bytes)
            case MetricsPage(number=number, text=text):
                if (page := child.pages.pop(number, None)) and not page.done():
                    page.set_result(text)
            case CollectMetrics(number=number):
                collection = asyncio.create_task(self._collect(child, number), name="metrics")
                self._collections.add(collection)
                collection.add_done_callback(self._collections.discard)
            case _:
                assert_never(message)

    def _change(self, child: Child, state: Literal["starting", "ready", "restarting"]) -> None:
        """Note a child's state, and report it to the others."""
        child.state = state
        for each in self._keepers:
            if each is not child and each.link is not None:
                each.link.send(self._states_for(each))

    def _states_for(self, child: Child) -> States:
        return States(states={each.name: each.shown for each in self._keepers if each is not child})

    async def _collect(self, child: Child, number: int) -> None:
        """Send a child the metrics of those of the others that answer in time."""
        asked: list[asyncio.Future[str]] = []
        of_this = next(self._numbers)
        for each in self._keepers:
            if each is not child and each.link is not None and each.state == "ready":
                page = each.pages[of_this] = asyncio.get_running_loop().create_future()
                asked.append(page)
                each.link.send(AskMetrics(number=of_this))
        if asked:
            await asyncio.wait(asked, timeout=PAGE_SECONDS)
        for each in self._keepers:
            each.pages.pop(of_this, None)
        if child.link is not None:
            child.link.send(MetricsPages(number=number, texts=[page.result() for page in asked if page.done()]))


def _ending(status: int) -> str:
    """Return in words how a process has ended."""
    if status >= 0:
        return f"exit status {status}"
    return f"signal {signal.Signals(-status).name}"
