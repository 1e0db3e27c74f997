"""A worker's assumptions about a busy server: when its pause ends, and how many tasks it takes at a time.

    busy answer ──► a pause: as long as the server asks, else 0.25, 0.5, 1 … 15 s
                ──► a limit: as many tasks as it was running, at least one
    task taken  ──► the pauses start anew, and the limit grows by one: it doubles from round to round
                    (from the number that was too much only after 1, 2, 4 … 60 s, so that a full server is seldom tried)

A server may refuse the tasks of one owner only: a rate limit of that owner's model key looks like this. So a refusal is
the owner's own if the server, since it last refused one, took another owner's task while it ran as many tasks or more.
Then the owner's tasks rest, one at a time is tried, and the server goes on. Until a second owner is refused, a server
that serves several is paused for a second at most. After a pause, owners that were not refused come first.

Pure. Times are monotonic, in seconds. Source of the limit: slow start and congestion avoidance, RFC 5681.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec import Struct, field

FIRST_PAUSE = 0.25
LONGEST_GROWN_PAUSE = 15.0
LONGEST_PAUSE = 300.0
"""Cap on the pause that a server asks for."""
UNCONFIRMED_PAUSE = 1.0
"""Longest pause of a server that serves several owners and has refused one."""
OTHERS_FIRST = 0.1
"""How long after a pause the tasks of other owners come first."""
ACTIVE_SECONDS = 60.0
"""How long an owner counts as served after a task was taken, and as refused after the end of its rest."""
FIRST_PROBE = 1.0
LONGEST_PROBE = 60.0
TAKEN_AFTER = 1.0
"""Seconds after which a call was taken, unless the server is known to take longer to say that it is busy."""
LONGEST_TAKEN_AFTER = 60.0
MOST_OWNERS = 1_000


class Begun(NamedTuple):
    """A call, as it was when it began."""

    round: int
    running: int
    """The server's other tasks."""
    at: float


class _Refused(Struct):
    """The last refusal of an owner's task."""

    running: int
    """The server's other tasks then."""
    at: float
    """When it was."""
    known_until: float
    """Until when this is evidence for the next refusal: the end of the rest, and ACTIVE_SECONDS more."""
    is_own: bool = False
    """The server has taken another owner's task since, with as many running: the next refusal is the owner's own."""
    count: int = 0
    """Refusals that were the owner's own, less the tasks taken since."""
    rests_until: float = 0.0


class Busyness(Struct):
    """The assumptions about one server."""

    since: datetime | None = None
    """UTC. The first busy answer since a task was taken; None: it is not busy."""
    paused_until: float = 0.0
    limit: int | None = None
    """How many tasks it is sent at a time; None: as registered."""
    round: int = 0
    """Number of the present round: a busy answer begins the next."""
    taken_after: float = TAKEN_AFTER
    """Seconds after which a call counts as taken, though it has not ended."""
    _pauses: int = 0
    """In a row."""
    _unsent: int = 0
    """Requests in a row that this process could not send."""
    _too_many: int = 0
    """How many tasks it was running when it said that it was busy; 0: none."""
    _holds_until: float = 0.0
    """Until when the limit does not grow past that number."""
    _probe_pause: float = FIRST_PROBE
    _served: dict[str, float] = field(default_factory=dict)
    """By owner: when a task was last taken. The last two owners."""
    _refused: dict[str, _Refused] = field(default_factory=dict)
    """By owner: the last refusal, until a task of the owner is taken."""

    @classmethod
    def restored(cls, since: datetime | None, limit: int | None, paused_until: float, now: float) -> Busyness:
        """Return the assumptions of another worker."""
        paused_until = min(paused_until, now + LONGEST_PAUSE)
        return cls(
            since=since, limit=limit, paused_until=paused_until, _too_many=limit or 0, _holds_until=now + FIRST_PROBE
        )

    def begin(self, owner: str, running: int, now: float) -> Begun:
        """Record the start of a call. `running`: the server's other tasks."""
        if self._refused and (known := self._refused.get(owner)) is not None and known.is_own:
            known.rests_until = now + self.taken_after  # one at a time
        return Begun(self.round, running, now)

    def refuse(
        self,
        owner: str,
        begun: Begun,
        running: int,
        retry_after: timedelta | None,
        now: float,
        at: datetime,
        jitter: float,
    ) -> bool:
        """Record a busy answer; return True if it is the server's, False if it is the owner's own.

        `running`: the server's other tasks. `jitter`: in [0, 1).
        """
        self._unsent = 0
        if now - begun.at > self.taken_after:
            self.taken_after = min(2 * (now - begun.at), LONGEST_TAKEN_AFTER)
        asked = _asked(retry_after)
        known = self._refused.get(owner)
        if known is not None and known.is_own and now < known.known_until:
            known.count += 1
            known.at = now
            known.rests_until = now + (asked if asked is not None else _growing(known.count, jitter))
            known.known_until = known.rests_until + ACTIVE_SECONDS
            return False
        alone = not any(each != owner and now - at < ACTIVE_SECONDS for each, at in self._served.items())
        confirmed = any(
            each != owner and not entry.is_own and now < entry.known_until for each, entry in self._refused.items()
        )
        pause = 0.0
        if begun.round == self.round:  # not one of several that were refused together
            self.round += 1
            self._pauses += 1
            pause = _growing(self._pauses, jitter)
            again = 0 < self._too_many <= running
            self._probe_pause = min(2 * self._probe_pause, LONGEST_PROBE) if again else FIRST_PROBE
            self._too_many = running
        if asked is not None:
            pause = asked if alone or confirmed else min(asked, UNCONFIRMED_PAUSE)
        self.since = self.since or at
        self.paused_until = max(self.paused_until, now + pause)
        self.limit = max(1, running if self.limit is None else min(self.limit, running))
        self._too_many = min(self._too_many, running)
        self._holds_until = self.paused_until + self._probe_pause
        if len(self._refused) >= MOST_OWNERS:
            self._refused.clear()
        # Also of a server that has served no other owner yet: else each try could be this owner's, and others wait.
        rests_until = self.paused_until + OTHERS_FIRST
        self._refused[owner] = _Refused(
            running=running, at=now, known_until=rests_until + ACTIVE_SECONDS, rests_until=rests_until
        )
        return True

    def take(self, owner: str, begun: Begun, now: float, most: int) -> None:
        """Record that a task was taken. `most`: the registered limit."""
        self._unsent = 0
        self._served.pop(owner, None)
        self._served[owner] = now
        if len(self._served) > 2:
            del self._served[next(iter(self._served))]
        if self._refused:
            self._compare(owner, begun)
        if self.limit is None or begun.round < self.round:
            return  # a call from before the last refusal
        self.since, self._pauses = None, 0
        if begun.running >= self._too_many:
            self._too_many = 0  # it was not too many after all
        if self.limit < self._too_many or not self._too_many or self._may_probe(now):
            self._grow(most)

    def rest(self, now: float, jitter: float) -> None:
        """Record that a request could not be sent, for a reason of this process: pause, and assume nothing."""
        self._unsent += 1
        self.paused_until = max(self.paused_until, now + _growing(self._unsent, jitter))

    def _compare(self, owner: str, begun: Begun) -> None:
        """Find out whose refusals were their own, now that a task of an owner was taken."""
        known = self._refused.get(owner)
        if known is not None:
            known.count -= 1
            known.rests_until = 0.0
            if known.count <= 0:
                del self._refused[owner]
        for each, entry in self._refused.items():
            if each != owner and begun.running >= entry.running and begun.at >= entry.at:
                entry.is_own = True

    def probe(self, now: float, running: int, most: int) -> None:
        """Let one task more be sent if the limit has been in use for long enough."""
        if self.limit is not None and running >= self.limit and self._may_probe(now):
            self._holds_until = now + self._probe_pause
            self._grow(most)

    def _may_probe(self, now: float) -> bool:
        """Return True if one task more than was too many may be sent: no such task is out, and enough time passed."""
        assert self.limit is not None
        return self.limit <= max(1, self._too_many) and now >= self.probes_at

    @property
    def refuses_owners(self) -> bool:
        """True if the tasks of some owner may have to rest."""
        return bool(self._refused)

    @property
    def probes_at(self) -> float:
        """When `probe` may change something."""
        return max(self._holds_until, self.paused_until)

    def rests_until(self, owner: str) -> float:
        """Return until when the tasks of an owner are not sent; 0: they may be sent."""
        known = self._refused.get(owner)
        return known.rests_until if known else 0.0

    def _grow(self, most: int) -> None:
        assert self.limit is not None
        self.limit = self.limit + 1 if self.limit + 1 < most else None
        if self.limit is None:
            self._too_many, self._probe_pause = 0, FIRST_PROBE


def _growing(count: int, jitter: float) -> float:
    """Return the pause after so many refusals: 0.25, 0.5, 1 … 15 s, less up to a quarter."""
    pause: float = min(FIRST_PAUSE * 2 ** min(count - 1, 20), LONGEST_GROWN_PAUSE)
    return pause * (1 - jitter / 4)


def _asked(retry_after: timedelta | None) -> float | None:
    """Return the pause that a server asks for; a pause of none does not say how long it is busy."""
    return max(FIRST_PAUSE, min(retry_after.total_seconds(), LONGEST_PAUSE)) if retry_after else None
