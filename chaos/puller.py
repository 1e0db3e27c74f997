"""A puller in a process of its own: it takes attempts of a pulled server and does what their payloads say.

Lines of its journal, beside those of a backend: `call` for an attempt that it took, `renewed` after each renewal,
`take` before and `took` after each request for attempts. `sent_at`: when the request of an answer was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import msgspec
from msgspec import Struct

from .evidence import Line, Says, ordered
from .journal import Journal
from .manners import OUT_OF_MEMORY

MOST = 2
"""Attempts that it takes at a time."""
WAIT_SECONDS = 2.0
PATIENCE_SECONDS = 3.0
"""For the answer to a request, beside its wait."""
TRIES = 40
PAUSE_SECONDS = 0.25
RENEWALS = 3
"""In a lease."""
LATE_LEASES = 1.7
REPORTS_A_SECOND = 8
PADDING = 300 * " "
STOPPED_CHANCE = 0.7
"""Of saying that the work on a cancelled task has stopped."""
FORGED = "forged-forged-forged-forged-forged-forged-"
NO_TASK = {"task": "", "attempt": 0}


class Pulled(Struct, rename="camel", kw_only=True):
    """An attempt, as it was taken."""

    attempt: str
    token: str
    task: str
    type: str
    number: int
    input: Line
    deadline: int
    lease_seconds: float
    parents: list[Line] = []

    @property
    def orders(self) -> str:
        return ordered(self.input, self.number)

    @property
    def seconds(self) -> float:
        return float(self.input.get("seconds", 0.05))


class Taken(Struct):
    attempts: list[Pulled]


class Standing(Struct):
    status: str
    cancelled: bool = False


class Answered(Struct, frozen=True):
    """The answer to a report; the status is 0 if there was none."""

    status: int
    standing: str = ""
    """The state of the attempt, according to the service."""
    cancelled: bool = False


class Puller:
    """It works for one server, on a few attempts at a time."""

    def __init__(
        self, name: str, server_id: str, url: str, token: str, journal: Journal, session: aiohttp.ClientSession
    ) -> None:
        self.name = name
        self.server_id = server_id
        self._url = f"{url}/api/attempts"
        self._token = token
        self._journal = journal
        self._session = session
        self._chunks = itertools.count(1)
        self._working: set[asyncio.Task[None]] = set()
        self.tokens: list[str] = []
        """Of the last attempts."""

    async def run(self) -> None:
        """Take attempts for ever."""
        while True:
            while len(self._working) >= MOST:
                await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)
            for pulled in await self._take(MOST - len(self._working)):
                job = asyncio.create_task(self._work(pulled))
                self._working.add(job)
                job.add_done_callback(self._working.discard)

    async def _take(self, most: int) -> list[Pulled]:
        """Ask for attempts; note each that comes."""
        self._journal.write(what="take", server=self.server_id, puller=self.name, **NO_TASK)
        status, body = await self._post(
            "take", self._token, {"server": self.server_id, "max": most, "wait": WAIT_SECONDS}, WAIT_SECONDS
        )
        taken: list[Pulled] = []
        if status == 200:
            try:
                taken = msgspec.json.decode(body, type=Taken).attempts
            except msgspec.DecodeError:
                status = 0  # garbage
        self._journal.write(
            what="took", server=self.server_id, puller=self.name, answered=status, count=len(taken), **NO_TASK
        )
        for pulled in taken:
            self._called(pulled)
        if status != 200:
            await asyncio.sleep(PAUSE_SECONDS)
        return taken

    def _called(self, pulled: Pulled) -> None:
        parents = {parent["task_id"]: parent for parent in pulled.parents}
        self._note(
            "call",
            pulled,
            type=pulled.type,
            payload=pulled.input,
            deadline=pulled.deadline / 1000,
            lease=pulled.lease_seconds,
            reports=True,
            parents={task: parent["status"] for task, parent in parents.items()},
            results={task: (parent.get("result") or {}).get("data") for task, parent in parents.items()},
        )
        self.tokens = [*self.tokens[-5:], pulled.token]

    def _note(self, what: str, pulled: Pulled, **more: Any) -> None:
        facts = {"server": self.server_id, "puller": self.name, "task": pulled.task, "attempt": pulled.number}
        self._journal.write(what=what, **facts, **more)

    async def _post(self, path: str, token: str, body: Any, wait: float = 0.0) -> tuple[int, bytes]:
        """Return status and body of an answer; 0 if there was none."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        timeout = aiohttp.ClientTimeout(total=wait + PATIENCE_SECONDS)
        try:
            async with self._session.post(
                f"{self._url}/{path}", data=content, headers=headers, timeout=timeout
            ) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, b""

    # One attempt

    async def _work(self, pulled: Pulled) -> None:
        work = ORDERS.get(pulled.orders, ok)
        await work(self, pulled)

    def over(self, pulled: Pulled, says: Says) -> None:
        self._note("over", pulled, says=says)

    async def keep(self, pulled: Pulled, seconds: float) -> bool:
        """Spend some time on an attempt, with progress and renewals; return False if it is over."""
        ends = time.monotonic() + seconds
        pause = min(pulled.lease_seconds / RENEWALS, 1 / REPORTS_A_SECOND if seconds < 1 else 1)
        while (left := ends - time.monotonic()) > 0:
            await asyncio.sleep(min(left, pause))
            if left > pause and not await self._sign_of_life(pulled):
                return False
        return True

    async def _sign_of_life(self, pulled: Pulled) -> bool:
        if random.random() < 0.5:
            output = f"{self.name}/{pulled.number}/{next(self._chunks)}{PADDING};"
            answered = await self.report(pulled, "progress", {"progress": 50, "output": output}, "PROCESSING", tries=1)
        else:
            sent_at = time.time()
            answered = await self._send(pulled, "renew", {}, pulled.token)
            self._note("renewed", pulled, sent_at=sent_at, answered=answered.status, standing=answered.standing)
        if answered.cancelled:
            await self._stop(pulled)
        return answered.standing != "gone"

    async def _stop(self, pulled: Pulled) -> None:
        """Stop the work on an attempt whose task was cancelled; most of the time, say so."""
        self._note("over", pulled, says="nothing", hung_up=True)
        if random.random() < STOPPED_CHANCE:
            await self.report(pulled, "release", {"reason": "stopped"}, "RETURNED")

    async def _send(self, pulled: Pulled, what: str, body: Any, token: str) -> Answered:
        status, content = await self._post(f"{pulled.attempt}/{what}", token, body)
        if status != 200:
            return Answered(status)
        try:
            found = msgspec.json.decode(content, type=Standing)
            return Answered(status, found.status, found.cancelled)
        except msgspec.DecodeError:
            return Answered(0)  # garbage

    async def report(
        self,
        pulled: Pulled,
        what: str,
        body: Any,
        status: str,
        *,
        kind: str = "own",
        token: str | None = None,
        tries: int = TRIES,
    ) -> Answered:
        """Send a report until it is answered. Progress with output is sent once: no piece of it is ever sent twice."""
        self._note("report", pulled, status=status, kind=kind)
        answered, sent_at = Answered(0), 0.0
        for _ in range(tries):
            sent_at = time.time()
            answered = await self._send(pulled, what, body, token or pulled.token)
            # A 400 is of an HTTP request that arrived as garbage: this report is none.
            if answered.status not in (0, 400) and answered.status < 500:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        facts = {"status": status, "kind": kind, "answered": answered.status, "standing": answered.standing}
        self._note("reported", pulled, sent_at=sent_at, **facts)
        return answered

    def result(self, pulled: Pulled) -> Line:
        return {"mark": pulled.input["mark"], "attempt": pulled.number, "server": self.server_id}

    async def done(self, pulled: Pulled, kind: str = "own", **more: Any) -> None:
        await self.report(pulled, "done", {"result": self.result(pulled), **more}, "FINISHED", kind=kind)


# Orders

Order: TypeAlias = Callable[[Puller, Pulled], Awaitable[None]]


async def ok(puller: Puller, pulled: Pulled) -> None:
    if await puller.keep(pulled, pulled.seconds):
        await puller.done(pulled)


async def odd(puller: Puller, pulled: Pulled) -> None:
    """Succeed, and have something beside the point be out of order."""
    more: tuple[Line, ...] = ({"message": "x" * 2_000}, {"metadata": {"progress": 166}}, {"metadata": {"message": 7}})
    await puller.done(pulled, **random.choice(more))


async def fail(puller: Puller, pulled: Pulled) -> None:
    await puller.report(pulled, "fail", {"error": OUT_OF_MEMORY}, "FAILED")


async def error(puller: Puller, pulled: Pulled) -> None:
    puller.over(pulled, "error")
    await puller.report(pulled, "fail", {"error": OUT_OF_MEMORY, "retry": True}, "ERROR")


async def release(puller: Puller, pulled: Pulled) -> None:
    puller.over(pulled, "busy")
    await puller.report(pulled, "release", {"reason": "no room"}, "RETURNED")


async def hang(puller: Puller, pulled: Pulled) -> None:
    """Renew until the attempt is over."""
    await puller.keep(pulled, 30.0)


async def drop(puller: Puller, pulled: Pulled) -> None:
    """Never say anything of an attempt."""


async def mislead(puller: Puller, pulled: Pulled) -> None:
    """Report the result with the token of another attempt, and say nothing more."""
    token = random.choice(puller.tokens) if len(puller.tokens) > 1 else FORGED
    kind = "own" if token == pulled.token else "foreign"
    if kind == "foreign":
        await puller.report(pulled, "done", {"result": puller.result(pulled)}, "FINISHED", kind=kind, token=token)


async def twice(puller: Puller, pulled: Pulled) -> None:
    if await puller.keep(pulled, pulled.seconds):
        await asyncio.gather(puller.done(pulled), puller.done(pulled))
        await puller.done(pulled)


async def disordered(puller: Puller, pulled: Pulled) -> None:
    """Report progress after the end."""
    await puller.done(pulled)
    await puller.report(pulled, "progress", {"progress": 10}, "PROCESSING")


async def late(puller: Puller, pulled: Pulled) -> None:
    """Report the end when the lease is over."""
    await asyncio.sleep(LATE_LEASES * pulled.lease_seconds)
    await puller.done(pulled, kind="late")


async def forged(puller: Puller, pulled: Pulled) -> None:
    """Report with a forged token, then with its own."""
    body = {"result": puller.result(pulled)}
    await puller.report(pulled, "done", body, "FINISHED", kind="forged", token=FORGED)
    await ok(puller, pulled)


ORDERS: dict[str, Order] = {
    "ok": ok,
    "odd": odd,
    "fail": fail,
    "reject": fail,
    "error": error,
    "busy": release,
    "unavailable": release,
    "hang": hang,
    "misaddressed": mislead,
    "twice": twice,
    "report_twice": twice,
    "report_disordered": disordered,
    "report_late": late,
    "report_older": late,
    "report_forged": forged,
    **dict.fromkeys(("trickle", "lie", "garbage", "no_json", "huge", "bomb", "die", "redirect"), drop),
}
"""Any other order is to succeed. A broken answer is none here: nothing is said."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos.puller")
    parser.add_argument("--id", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--url", required=True, help="of the API")
    parser.add_argument("--token", required=True)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()

    async def pull() -> None:
        journal = Journal(options.log, synced=False)
        async with aiohttp.ClientSession() as session:
            await Puller(options.id, options.server, options.url, options.token, journal, session).run()

    asyncio.run(pull())


if __name__ == "__main__":
    main()
