"""What an outsider can know of a run: all that the checker looks at."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

Line = dict[str, Any]
FINAL = frozenset({"TaskSucceeded", "TaskFailed", "TaskCancelled"})
AFTER_THE_END = frozenset({"CancelReported", "TaskDeleted"})
"""Events of a task that has ended, and stays so."""
ATTEMPT_OVER = FINAL | {"AttemptFailed", "AttemptReturned"}
STATUSES = {
    "TaskSubmitted": "WAITING",
    "TaskHeld": "WAITING",
    "TaskQueued": "WAITING",
    "AttemptStarted": "PROCESSING",
    "AttemptFailed": "WAITING",
    "AttemptReturned": "WAITING",
    "TaskSucceeded": "FINISHED",
    "TaskFailed": "FAILED",
    "TaskCancelled": "CANCELLED",
}
"""By event: the status that clients see from then on."""
Says: TypeAlias = Literal["FINISHED", "FAILED", "rejected", "busy", "error", "nothing", "crossed"]
"""The report in a backend's answer. `nothing`: none, or none that can be understood. `crossed`: an answer that nobody
asked for may have crossed the call, which then takes it for its own."""
TASKSTREAM = "taskstream"
"""The dialect whose calls say everything: the type, the deadline, the outcomes of parents."""
ANY_API = "any"
"""The API of a call where a load balancer chooses it."""
LONGEST_START_SECONDS = 20.0
"""From the start of a killed nats-server until it is ready, on a busy machine."""
LONGEST_CALL_SECONDS = 10.0
"""A client waits 8 s for an answer."""
Finding: TypeAlias = tuple[str, str]
"""A fault and its task; an empty task: the fault concerns no single task."""


def ordered(payload: Line, attempt: int) -> str:
    """Return what a payload tells the backend to do with an attempt; the last order is for all further ones."""
    do = payload["do"]
    return str(do[min(attempt, len(do)) - 1])


def is_busy(busy_seconds: float, at: float) -> bool:
    """Return True if a backend that is busy by turns is so at a time, in seconds since the epoch."""
    return bool(busy_seconds and int(at / busy_seconds) % 2)


class Entry(Struct, frozen=True):
    """One message of a log: `recorded` is its JSON."""

    sequence: int
    subject: str
    recorded: dict[str, Any]
    stored_at: float
    """By NATS' clock, which is right; `at` of the event is by that of a process of ours, which may not be."""

    @property
    def event(self) -> Line:
        found: Line = self.recorded["event"]
        return found

    @property
    def type(self) -> str:
        return str(self.event["type"])

    @property
    def task(self) -> str:
        return f"{self.subject.split('.')[2]}~{self.owner}"

    @property
    def owner(self) -> str:
        return self.subject.split(".")[1]

    @property
    def kind(self) -> str:
        """As the subject has it: `submitted`, `progressed`, …"""
        return self.subject.split(".")[3]


class Call(Struct, frozen=True):
    """One call of a client, from its journal: the line before, and the line after if there is one."""

    before: Line
    after: Line

    @property
    def operation(self) -> str:
        return str(self.before["operation"])

    @property
    def tenant(self) -> str:
        return str(self.before["tenant"])

    @property
    def begins(self) -> float:
        return float(self.before["at"])

    @property
    def ends(self) -> float:
        """When its answer came, or its client gave up."""
        return float(self.after.get("at", self.before["at"] + LONGEST_CALL_SECONDS))

    @property
    def bodies(self) -> list[Line]:
        """Return the submissions in it: one, or those of a batch."""
        body = self.before.get("body")
        if self.operation == "batch":
            return list(body or ())
        return [body] if body and self.operation in ("submit", "repeat") else []

    @property
    def status(self) -> int:
        """0 where no answer came."""
        return int(self.after.get("status", 0))

    @property
    def task(self) -> str | None:
        """The task it is about, or whose id came back."""
        return self.before.get("task") or self.after.get("task_id")


class ConsumerSeen(Struct, frozen=True):
    stream: str
    name: str
    durable: bool
    waiting: int
    """Requests for messages that wait at it: somebody uses it."""
    forgotten_after_seconds: float
    """How long it may be idle; 0: without limit."""


class SharedLimit(Struct, frozen=True):
    """What the tasks of an owner, of a type, or of a type with the same concurrency key share."""

    kind: Literal["owner", "type", "key"]
    name: str
    """The owner, or the type."""
    concurrency: int | None = None
    """Tasks that run at once; None: any number."""
    per_second: float | None = None
    """Starts in a second; None: any number."""
    burst: int = 1
    """Such starts at once."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Recurring(Struct, frozen=True, kw_only=True):
    """A recurring schedule, and what its log says of it."""

    id: str
    every_seconds: int
    """It is due at each instant since the epoch that this divides."""
    catch_up: int | None
    """How many missed runs it makes up for; None: it skips them."""
    events: list[Line] = []
    """Oldest first: `stored_at` by NATS' clock, and the `event`."""


class Bucket(Struct, frozen=True):
    """A projection: what is there, and what the fold of the log says should be."""

    name: str
    found: dict[str, bytes]
    wanted: dict[str, bytes]


class Resources(Struct, frozen=True):
    """What a process has."""

    descriptors: int
    """Files and sockets that are open."""
    megabytes: float
    """Resident."""


class Probe(Struct, frozen=True):
    """Something that must happen soon after healing."""

    what: str
    seconds: float | None
    """Until it had happened; None: not in the time it had."""


class Recovery(Struct, frozen=True, kw_only=True):
    """One kill -9 of all of NATS, or of everything, and what followed. Seconds from NATS' own readiness."""

    everything: bool
    outage_seconds: float
    """From the kill until NATS was started again."""
    calm_seconds: float
    """How long as many tasks took before the kill, from the first submission to the last end."""
    ready_at: float
    """Seconds since the epoch."""
    calm_tasks: list[str]
    """Tasks submitted before the kill, one for each queue."""
    tasks: list[str]
    """Tasks submitted as soon as NATS was ready, one for each queue."""
    up_seconds: float
    """Until an API was ready."""
    submit_seconds: float
    """Until the tasks were accepted."""
    done_seconds: float
    """Until the tasks had ended."""
    live_missed: int
    """Requests for `/health/live` that a running API did not answer with 200 in time."""
    live_slowest_seconds: float
    said_unready: bool
    """Whether `/health/ready` was a 503 with a reason while NATS was away."""


class Jump(Struct, frozen=True):
    """The clock of a process was wrong for a while, by this much at the most; times in seconds since the epoch."""

    process: str
    begins: float
    ends: float
    ahead: float


class Corrupted(Struct, frozen=True):
    """Data on a link became garbage for a while; times in seconds since the epoch."""

    link: str
    begins: float
    ends: float


class Fault(Struct, frozen=True):
    """Something that was made to go wrong; times in seconds since the epoch."""

    kind: str
    target: str
    begins: float
    ends: float
    """When it was put right; a process was started again then."""
    up_at: float | None = None
    """When an API that was started again was first seen to answer."""

    @property
    def over_at(self) -> float:
        """When it was put right, and an API answered again."""
        return max(self.ends, self.up_at or self.ends)


class Server(Struct, frozen=True):
    """A backend as the run started and registered it."""

    limit: int
    """Attempts it may have at once."""
    types: frozenset[str] = frozenset()
    """Task types that it serves; empty: all."""
    reports: bool = False
    """Whether it reports by callback."""
    busy_seconds: float = 0.0
    """It is busy for so long, then has room for so long, and so on, by its clock; 0: it always has room."""
    sends_extra: bool = False
    """Whether it sends answers that nobody asked for after any answer."""
    dialect: str = TASKSTREAM
    polled: bool = False
    """Whether it takes jobs, and says what came of one when it is polled."""
    pulled: bool = False
    """Whether it has no address, and pullers ask for its tasks."""
    processes: tuple[str, ...] = ()
    """Names of the processes that serve it; empty: one, with its own name."""

    def names(self, server: str) -> frozenset[str]:
        """Return the targets of faults that concern it: itself, its processes. `server`: its name."""
        return frozenset({server, *self.processes})

    def made(self, data: Any) -> Any:
        """Return what it made of a task, from the data of the result; None if there is none."""
        try:
            match self.dialect:
                case "openai":
                    return msgspec.json.decode(data["choices"][0]["message"]["content"].rpartition(";")[2])
                case "oip":
                    return msgspec.json.decode(data["outputs"][0]["data"][0])
                case _:
                    return data
        except (LookupError, TypeError, msgspec.DecodeError):
            return None


class Window(Struct, frozen=True):
    """A stretch of a run without faults, with hostile owners or without; times in seconds since the epoch."""

    begins: float
    ends: float
    hostile: bool
    recovered: bool = True
    """Whether no task was left of it soon after."""

    def has(self, entry: Entry) -> bool:
        """Return True if NATS stored an event within it."""
        return self.begins <= entry.stored_at < self.ends


class Told(Struct, frozen=True):
    """One message that a subscriber received."""

    place: str
    """Where to go on after it; empty: where it was before."""
    event: Line
    """Empty where only the place moved."""


class State(Struct, frozen=True):
    """A task as a stream shows it at its beginning."""

    task: str
    sequence: int
    """Of the log, that it reflects or is newer than."""
    status: str
    at: float
    """When it was received, in seconds since the epoch."""


class Heard(Struct, kw_only=True):
    """The messages of one subscriber, over all its connections."""

    who: str
    owner: str | None = None
    """Token of the owner whose tasks it follows; None: everybody's."""
    task: str | None = None
    """Id of the one task it follows."""
    after: int | None = None
    """Sequence after which it receives everything; None: it never received one."""
    until: int = 0
    """Sequence up to which it received everything, by the stream's ids."""
    wanted: int | None = None
    """Sequence up to which there was something to tell; None: it wanted to the end of its task."""
    ended: bool = False
    """The stream said that its task has ended."""
    told: list[Told] = []
    from_state: bool = False
    """It began with the present state, not at a place of its own."""
    began_at: float | None = None
    """When it received its first place, in seconds since the epoch."""
    states: list[State] = []
    """Of tasks, over all connections that began so."""
    connections: int = 0
    dropped: int = 0
    """Connections that had been ended when it woke up, because it was too slow or its API was killed."""
    refusals: list[str] = []
    """Answers that were neither a stream nor a 503 with `Retry-After`."""

    def has(self, task: str) -> bool:
        """Return True if it follows a task."""
        if self.task is not None:
            return task == self.task
        return self.owner is None or task.endswith(f"~{self.owner}")


class Received(Struct, kw_only=True):
    """What one webhook was sent, and what the API says of it."""

    who: str
    owner: str
    kinds: frozenset[str]
    """Elements of the subjects of the events it is to be sent."""
    mode: str = ""
    """What it always did; empty: one thing or another, and took all in the end."""
    calls: list[Line] = []
    """Of the receiver, in order: `at`, `id`, whether `signed`, `message` (None: not read), what was `answered`."""
    deliveries: list[Line] = []
    """As the API lists them."""
    disabled_at: float | None = None
    """When it was seen to be disabled; None: it was not."""

    def wants(self, entry: Entry) -> bool:
        """Return True if it wants an event."""
        return entry.owner == self.owner and entry.kind in self.kinds


class Expected(Struct, frozen=True, kw_only=True):
    """The least evidence that the plan of a run must leave."""

    clients: tuple[str, ...]
    """Tenant and number of each, as in the names of their calls."""
    apis: tuple[str, ...]
    answers: dict[str, int]
    """By operation: calls that are answered."""
    tasks: int
    """Tasks in the log."""
    server_calls: int
    """Calls that each server receives."""
    calls_of: dict[str, int] = {}
    """By name of a server: calls that it receives, if other than that."""
    subscribers: tuple[str, ...] = ()
    """Names of those that last for the whole run."""
    followers: int = 0
    """Single tasks that somebody follows to their end."""
    receivers: tuple[tuple[str, str, str], ...] = ()
    """Owner, name and mode of each webhook's receiver."""
    faults: tuple[tuple[str, str], ...] = ()
    """Kind and target of each."""
    processes: tuple[str, ...] = ()
    """Ours, whose resources are measured."""
    streams: tuple[str, ...] = ()
    consumers: tuple[tuple[str, str], ...] = ()
    """Stream and name of durable ones."""
    buckets: tuple[str, ...] = ()
    probes: int = 0
    recoveries: int = 0
    windows: int = 0
    shared_limits: int = 0
    occurrences: int = 0
    """Of each recurring schedule."""


class Evidence(Struct, kw_only=True):
    calls: list[Call]
    log: list[Entry]
    turns: frozenset[int] = frozenset()
    """Sequences of the log's stream that are fences of the scheduler."""
    backends: list[Line]
    """Lines of all backends' own logs, by time."""
    buckets: list[Bucket] = []
    queued: frozenset[str] = frozenset()
    """Tasks with a message in the queue."""
    timed: frozenset[str] = frozenset()
    """Tasks with a timer that is set."""
    probes: list[Probe] = []
    live_within_seconds: float = 30.0
    """How long a probe may take."""
    recoveries: list[Recovery] = []
    servers: dict[str, Server] = {}
    """Every backend of the run."""
    types: dict[str, Line] = {}
    """Definitions of task types, as they were sent; with the empty name, the service's defaults."""
    faults: list[Fault] = []
    """As they were injected."""
    expected: Expected | None = None
    """The least evidence that the run must have left."""
    shared_limits: list[SharedLimit] = []
    """Those that held all the time."""
    recurring: list[Recurring] = []
    grace_seconds: float = 60.0
    """How late a run of a schedule may be and still not be missed."""
    was_full: bool = False
    """Whether a disk had no room left at some time: then part of a batch may have been stored, and no answer given."""
    streams: tuple[list[str], list[str]] = ([], [])
    """Names before and after."""
    consumers: tuple[list[ConsumerSeen], list[ConsumerSeen]] = ([], [])
    resources: tuple[dict[str, Resources], dict[str, Resources]] = ({}, {})
    """By process: once warm, before the first fault, and after quiet."""
    jumps: list[Jump] = []
    corruptions: list[Corrupted] = []
    windows: list[Window] = []
    """In order of time, alternately without hostile owners and with them."""
    hostile: frozenset[str] = frozenset()
    """Owners who choose what could hurt others."""
    heard: list[Heard] = []
    received: list[Received] = []
    exits: list[str] = []
    """Processes that ended by themselves in a way they should not."""
    crashes: list[str] = []
    """Exceptions that the service's log calls errors: nobody foresaw them."""

    @property
    def all_faults(self) -> list[Fault]:
        """Return the faults of the plan, and the kills of NATS after it."""
        kills = [
            Fault("kill", "nats", one.ready_at - one.outage_seconds - LONGEST_START_SECONDS, one.ready_at)
            for one in self.recoveries
        ]
        return [*self.faults, *kills]

    def histories(self) -> dict[str, list[dict[str, Any]]]:
        """Return every task's events as the API gives them, and when NATS stored each, by task id."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in self.log:
            recorded = entry.recorded
            found[entry.task].append(
                {
                    "sequence": entry.sequence,
                    "stored_at": entry.stored_at,
                    "at": recorded["at"],
                    "by": recorded["by"],
                    "event": recorded["event"],
                }
            )
        return dict(found)


def growth(evidence: Evidence) -> dict[str, Resources]:
    """Return by process how much more it has after quiet than it had when warm."""
    warm, quiet = evidence.resources
    return {
        name: Resources(quiet[name].descriptors - warm[name].descriptors, quiet[name].megabytes - warm[name].megabytes)
        for name in warm.keys() & quiet.keys()
    }


def in_use(consumers: Iterable[ConsumerSeen]) -> Counter[str]:
    """Return by stream how many passing consumers somebody pulls from."""
    return Counter(one.stream for one in consumers if not one.durable and one.waiting)


def jumps(lines: Sequence[Line]) -> list[Jump]:
    """Return what went wrong with clocks, from the journal of the faults."""
    begun: dict[tuple[str, str], Line] = {}
    found = []
    for line in lines:
        place = (line.get("kind", ""), line["target"])
        if line["what"] == "begin" and line["ahead"]:
            begun[place] = line
        elif line["what"] == "end" and place in begun:
            start = begun.pop(place)
            found.append(Jump(line["target"], start["at"], line["at"], start["ahead"]))
    return found


def faults(lines: Sequence[Line]) -> list[Fault]:
    """Return the faults that were injected and put right, from their journal, in the order of their beginnings."""
    begun: dict[tuple[str, str], list[float]] = defaultdict(list)
    found = []
    for line in lines:
        place = (line.get("kind", ""), line["target"])
        if line["what"] == "begin":
            begun[place].append(line["at"])
        elif line["what"] == "end" and begun[place]:
            found.append(Fault(*place, begun[place].pop(0), line["at"]))
    ups = [(line["target"], line["at"]) for line in lines if line["what"] == "up"]
    return sorted((_with_up(fault, ups) for fault in found), key=lambda fault: fault.begins)


def _with_up(fault: Fault, ups: Sequence[tuple[str, float]]) -> Fault:
    if fault.kind not in ("kill", "restart"):
        return fault
    return replace(
        fault, up_at=min((at for target, at in ups if target == fault.target and at >= fault.ends), default=None)
    )


def corruptions(lines: Sequence[Line]) -> list[Corrupted]:
    """Return when data was corrupted, from the journal of the faults."""
    begun: dict[str, float] = {}
    found = []
    for line in lines:
        if line.get("kind") == "corrupt" and line["what"] == "begin":
            begun[line["target"]] = line["at"]
        elif line.get("kind") == "corrupt" and line["what"] == "end":
            found.append(Corrupted(line["target"], begun.pop(line["target"]), line["at"]))
    return found


def pair(lines: Sequence[Line]) -> list[Call]:
    """Return the calls of a journal, in order of their beginning."""
    afters = {line["call"]: line for line in lines if line["phase"] == "after"}
    return [Call(line, afters.get(line["call"], {})) for line in lines if line["phase"] == "before"]
