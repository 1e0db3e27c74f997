"""The container: what the API and the workers share, wired once per process."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Collection
from datetime import timedelta
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Self

import structlog
from msgspec import Struct
from msgspec.structs import replace

from .backends.egress import EgressPolicy
from .clock import utc_now
from .commands.commands import Commands
from .commands.owner import Allowance
from .commands.task_state import Ended, TaskState
from .commands.task_timers import timers_over
from .errors import StoreError
from .events.ids import BatchRef, TaskRef
from .events.limits import Limits
from .facades.predictions import PredictionReader
from .files.results import ResultFiles
from .files.service import FileService
from .index.indexer import Indexer
from .index.lists import SERVICE, ListedTasks, TaskLists
from .index.query import TaskQuery
from .index.reader import IndexReader
from .projections.batches import Batch, BatchReader
from .projections.fleet import Fleet
from .projections.heartbeats import Heartbeats
from .projections.keys import KeyFollower, KeyRing
from .projections.task_reader import TaskReader
from .projections.task_view import ACTIVE, Listed
from .pulling.attempt_ids import AttemptIds
from .pulling.attempts import PulledAttempts
from .pulling.requests import PullRequests
from .push.attempt_reports import AttemptReports
from .push.feed import Feeds
from .push.hub import Hub
from .push.open_streams import OpenStreams, Starts
from .push.subscription_filter import TaskAttributeReader
from .push.task_meters import TaskMeters
from .runtime.service import Service, Services
from .runtime.shared_reads import SharedReads
from .runtime.siblings import Siblings
from .runtime.spans import Tracing
from .runtime.tracing import start_tracing
from .settings import Settings, variable
from .streams.buckets import Bucket
from .streams.client.access import Access
from .streams.client.connection import Connection, open_connection
from .streams.jetstream.api import api
from .streams.jetstream.messages import stream_info
from .streams.leases import Membership
from .streams.objects import Objects
from .streams.results import BUCKET as RESULTS_BUCKET
from .streams.results import Results
from .streams.storage import StoreSpace
from .streams.tail import Tail
from .streams.timers import Timers
from .streams.topology.definitions import FILES_BUCKET, SERVERS, TASKS, configurations
from .streams.topology.ensure import ensure_streams
from .streams.topology.epochs import has_event
from .streams.topology.server_checks import Durability, ServerChecks, inspect
from .streams.topology.startup_retry import StartupRetry, leader_elected
from .submission.service import SubmissionService
from .vault.file_links import FileLinks
from .vault.result_links import ResultLinks
from .vault.sealing import Sealer
from .vault.secrets import SecretStore
from .webhooks.deliveries import DeliveryStore

MOST_STATES = 1_000
"""Tasks whose states a stream of all tasks starts with: the newest that have not ended."""
log = structlog.get_logger(__name__)

STORED_BY_DEFAULT = 10 * 1024**3
"""Bytes that one owner may store if NATS' storage is unknown: an external server without a limit."""


class Buckets(Struct, frozen=True, kw_only=True):
    tasks: Bucket
    registry: Bucket
    heartbeats: Bucket
    leases: Bucket
    secrets: Bucket
    deliveries: Bucket
    usage: Bucket


class Container:
    """Connections, logs, projections and the fleet of a process. Made by `open_container`, ended by `close`."""

    def __init__(
        self,
        settings: Settings,
        appending: Connection,
        reading: Connection,
        consuming: Connection,
        objects: Connection,
        server_checks: ServerChecks,
        stored_by_default: int = STORED_BY_DEFAULT,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self.appending = appending
        self.reading = reading
        self.consuming = consuming
        self.storing = objects
        self.server_checks = server_checks
        self.tracing = tracing  # None: no spans are exported
        self.commands = Commands(appending, reading, replicated=settings.replicas > 1)
        self.buckets = Buckets(
            **{
                name: Bucket(reading, name)
                for name in ("tasks", "registry", "heartbeats", "leases", "secrets", "deliveries", "usage")
            }
        )
        self.objects = Objects(objects, RESULTS_BUCKET)
        self.results = Results(self.objects, settings.inline_result)
        self.timers = Timers(appending)
        self.heartbeats = Heartbeats(self.buckets.heartbeats, settings.heartbeat_ttl)
        self.fleet = Fleet(_service_allowance(settings, stored_by_default))
        self.token_sealer = Sealer.for_tokens(settings)
        self.links = ResultLinks(settings.callback_base, self.token_sealer)
        self.secrets = SecretStore(self.buckets.secrets, Sealer.for_secrets(settings))
        self.deliveries = DeliveryStore(self.buckets.deliveries, reading, settings.delivery_retention)
        self.fleet_is_current = asyncio.Event()
        self.key_ring = KeyRing()  # of API keys; followed in processes of the API only: see `start_keys`
        self.tasks = TaskReader(self.commands.tasks.log, reading, self.buckets.tasks)
        self.batches = BatchReader(reading)
        self.task_attributes = TaskAttributeReader(reading)
        self.tail = Tail(consuming, TASKS, ">", partial(has_event, consuming))
        """The one reader of the log of tasks for push and the index."""
        self.feeds = Feeds(Hub(consuming, self.tail, self.task_attributes), reading, self.task_attributes)
        self.indexer = Indexer(settings.index_folder, self.tail, reading, objects, lambda: self.space.is_accepting)
        """Runs in processes of the API only: see `start_index`."""
        self.index = IndexReader(self.indexer)
        self.lists = TaskLists(self.index, self.buckets.tasks)
        self.open_streams = OpenStreams(settings.user_streams, settings.max_streams)
        self.starts = Starts()
        self.snapshots = SharedReads(self._snapshot)
        """Of the tasks that have not ended, for the streams that start at the same time."""
        self.batch_snapshots = SharedReads(self._batch_snapshot)
        """Of a batch and its tasks, likewise; the key says whether deleted tasks are included."""
        self.space = StoreSpace(
            reading,
            appending,
            reserve_bytes=settings.storage_reserve,
            replicas=settings.replicas,
            server_limit=settings.max_storage if settings.nats_url is None else server_checks.max_storage,
            folder=_data_folder(settings),
            streams=[wanted["name"] for wanted in configurations(settings)],
        )
        self.submissions = SubmissionService(
            settings,
            self.fleet,
            self.commands,
            reading,
            self.feeds,
            self.batches,
            self.buckets.usage,
            self.space,
            tracing,
            keys=self.key_ring,
            attributes=self.task_attributes,
        )
        self.files = FileService(
            settings,
            self.commands,
            reading,
            Objects(objects, FILES_BUCKET, self.objects.turns),
            self.submissions,
            FileLinks(settings.callback_base, self.token_sealer),
        )
        self.reports = AttemptReports(
            self.commands,
            self.results,
            appending,
            utc_now,
            ResultFiles(self.commands, self.submissions.file_holds),
        )
        self.attempt_ids = AttemptIds(self.token_sealer)
        self.pulled_attempts = PulledAttempts(
            self.commands,
            self.reports,
            self.timers,
            self.heartbeats,
            self.secrets,
            consuming,
            self.attempt_ids,
            timedelta(seconds=settings.pull_lease),
        )
        self.pull_requests = PullRequests(consuming, self.fleet, self.results, self.attempt_ids, self.pulled_attempts)
        self.egress = EgressPolicy.from_settings(settings)
        self.webhook_egress = EgressPolicy.for_webhooks(settings)
        self.draining = False  # True once the process was asked to end: load balancers should send it nothing more
        # Called with the names of all pools before the metrics are shown, to update those of this process.
        self.on_scrape: list[Callable[[Collection[str]], None]] = []
        self.siblings = Siblings()
        self.services = Services()
        self._connect_parts()

    def _connect_parts(self) -> None:
        self.commands.tasks.on_change = self._tidy_after
        self.commands.tasks.on_appended = TaskMeters(self.fleet).count
        for connection in (self.appending, self.reading, self.consuming):
            connection.on_return(self.services.wake)
            connection.on_election(self.services.retry)

    @cached_property
    def predictions(self) -> PredictionReader:
        """The reader of tasks as predictions."""
        return PredictionReader(self.tasks, self.fleet, self.results, self.token_sealer)

    async def _snapshot(self, wanted: TaskQuery) -> ListedTasks:
        owner = wanted.owner or SERVICE
        async with self.starts.turn(owner):
            return await self.lists.page(replace(wanted, statuses=ACTIVE), MOST_STATES, user=owner)

    async def _batch_snapshot(self, wanted: tuple[BatchRef, bool]) -> tuple[Batch, list[Listed]]:
        ref, deleted = wanted
        async with self.starts.turn(ref.owner):
            batch = await self.batches.find(ref)
            return batch, await self.lists.of_batch(ref, deleted=deleted, user=ref.owner)

    async def _tidy_after(self, ref: TaskRef, before: TaskState, after: TaskState) -> None:
        """Cancel the timers that a change of a task leaves without a purpose; destroy the key of a task that has ended.

        What a crash leaves: a timer fires and is dropped, and the reconciler finds the key.
        """
        for kind in timers_over(before, after):
            await self.timers.cancel(kind, ref)
        if isinstance(after, Ended):
            with contextlib.suppress(StoreError):
                await self.secrets.destroy(ref, after.facts.key_id)

    def membership(self, role: str) -> Membership:
        return Membership(self.buckets.leases, role, self.settings.lease_ttl)

    async def start(self) -> None:
        await self._check_seal_key()
        await self.submissions.listen(self.consuming)
        end = int((await stream_info(self.reading, SERVERS))["state"]["last_seq"])
        await self.fleet.restore(self.buckets.registry, end)
        with contextlib.suppress(StoreError):
            await self.space.measure()
        self.services.start(FleetFollower(self.fleet, self.consuming, self.fleet_is_current), self.space)
        await asyncio.wait_for(self.fleet_is_current.wait(), 30)

    def start_index(self) -> None:
        """Keep an index of tasks, which lists and figures are read from."""
        self.services.start(self.indexer)

    def start_keys(self, members: Membership) -> KeyFollower:
        """Follow the log of API keys. Call it once this process has begun to be among the members of the API."""
        self.key_ring.members = members
        follower = KeyFollower(self.key_ring, self.consuming, self.reading)
        self.services.start(follower)
        return follower

    async def _check_seal_key(self) -> None:
        """Warn if this process lacks the key that others seal with: neither could read what the other stores."""
        missing = await self.secrets.missing_key()
        if missing:
            log.warning(
                "seal-keys.differ",
                missing=missing,
                action=f"give every process the same {variable('seal_keys')}, with the key that has this fingerprint; "
                "if that key is lost, register servers with API keys again and run `taskstream reseal`",
            )
        else:
            await self.secrets.record_key()

    async def close(self) -> None:
        self.feeds.hub.end()
        await self.reports.close()
        await self.services.close()
        if self.tracing is not None:
            await self.tracing.close()
        self.index.close()
        for connection in (self.storing, self.consuming, self.reading, self.appending):
            await connection.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _service_allowance(settings: Settings, stored_by_default: int) -> Allowance:
    """Return what owners may have who have no limits of their own."""
    return Allowance(
        limits=Limits(
            concurrency=settings.owner_concurrency,
            per_second=settings.owner_per_second,
            burst=settings.owner_burst if settings.owner_per_second is not None else None,
        ),
        waiting=settings.owner_waiting or None,
        stored=(stored_by_default if settings.owner_stored is None else settings.owner_stored) or None,
    )


def _data_folder(settings: Settings) -> Path | None:
    """Return the data folder of an embedded NATS; None: it is external, and its disk unknown."""
    return Path(settings.data_dir).expanduser() if settings.nats_url is None else None


async def _stored_by_default(reading: Connection, settings: Settings) -> int:
    """Return how many bytes one owner may store if no setting says it: a quarter of what NATS may use."""
    storage = int((await api(reading, "INFO"))["limits"]["max_storage"])
    if storage <= 0 and settings.nats_url is None:
        with contextlib.suppress(OSError):
            storage = settings.max_storage or shutil.disk_usage(settings.data_dir).total
    return storage // (4 * settings.replicas) if storage > 0 else STORED_BY_DEFAULT


class FleetFollower(Service):
    """Keeps the fleet up to date with the log."""

    def __init__(self, fleet: Fleet, connection: Connection, caught_up: asyncio.Event) -> None:
        super().__init__("fleet")
        self._fleet = fleet
        self._connection = connection
        self._caught_up = caught_up

    async def _serve(self) -> None:
        await self._fleet.follow(self._connection, self._caught_up)


async def open_container(
    settings: Settings, nats_url: str, durability: Durability | None = None, process: str = ""
) -> Container:
    """Connect, check the NATS server, and create missing streams. Use the result as an async context manager.

    `durability`: how the server syncs, if the caller started it. `process`: the name of this one, if there are several.
    Raises StoreUnavailable if NATS does not answer,
    AccessRefused if it refuses the credentials, NatsTooOld, TopologyMismatch or InvalidSettings.
    """
    access = Access.from_settings(settings)
    async with contextlib.AsyncExitStack() as unless_done:

        async def connect(role: str) -> Connection:
            connection = await open_connection(nats_url, role, access)
            unless_done.push_async_callback(connection.close)
            return connection

        appending, reading, consuming = await connect("append"), await connect("read"), await connect("consume")
        objects = await connect("objects")
        startup_retry = StartupRetry()
        await leader_elected(reading, startup_retry)
        server_checks = await inspect(reading, settings.nats_monitor_url, durability, access)
        server_checks.warn()
        await ensure_streams(appending, settings, startup_retry)
        stored_by_default = await _stored_by_default(reading, settings)
        unless_done.pop_all()
    tracing = start_tracing(version("taskstream"), process)
    container = Container(settings, appending, reading, consuming, objects, server_checks, stored_by_default, tracing)
    if not container.token_sealer.available:
        log.warning("links.unsigned", action=f"servers need a token for links to results: set {variable('seal_keys')}")
    if not container.secrets.available:
        log.warning(
            "secrets.unavailable",
            action=f"API keys, model keys and webhook secrets are refused: set {variable('seal_keys')}, the same for "
            "every process (`taskstream seal-key` makes a key)",
        )
    log.info("container.ready", nats=server_checks.version, at=utc_now().isoformat(timespec="seconds"))
    return container
