"""A puller: fetches tasks for a server that nobody can call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Mapping
from typing import Any

from ..client import AsyncClient
from ..core import path_of
from ..credentials import Token
from ..errors import ApiError, BadAnswer, Forbidden, NotFound, Unauthorized
from .jobs import Busy, Failed, Job, JobCancelled, Reject
from .serving import Outcome, Server, instant, updates_of

log = logging.getLogger("taskstream_client.puller")

WAIT_SECONDS = 30.0
GRACE_SECONDS = 20.0
PAUSE_SECONDS = 2.0
RENEWALS = 3
"""How often an attempt is renewed in its lease."""


class Puller:
    """Fetches tasks and does them with the functions of a Server, up to its capacity.

    Args:
        server: Its functions do the work.
        server_id: The registered server for which tasks are fetched; its `mode` is `pull`.
        url, token: As of a client: by default `TASKSTREAM_URL` and `TASKSTREAM_TOKEN`. The role is `service`.
        labels: The labels that this machine has, of those of the server.
        wait: Seconds for which the service holds a request open.
        grace: Seconds that running tasks have to end when the puller is stopped; the others are given back.
    """

    def __init__(
        self,
        server: Server,
        server_id: str,
        *,
        url: str | None = None,
        token: Token | None = None,
        labels: Mapping[str, str] | None = None,
        wait: float = WAIT_SECONDS,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self._server = server
        self._asked = {"server": server_id, "wait": wait} | ({"types": server.types} if server.types else {})
        self._asked |= {"labels": dict(labels)} if labels is not None else {}
        self._client = AsyncClient(url, token)
        self._grace = grace
        self._stop = asyncio.Event()
        self._slot = asyncio.Event()
        self._jobs: dict[str, Job] = {}
        """By attempt."""
        self._given_back: set[str] = set()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Fetch no further tasks, and end when those at work have ended."""
        self._stop.set()

    def run_forever(self) -> None:
        """Run until SIGINT or SIGTERM; then end the running tasks, or give them back."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(NotImplementedError):  # Windows
                    loop.add_signal_handler(number, self.stop)
            await self.run()

        asyncio.run(main())

    async def run(self) -> None:
        """Fetch tasks until `stop`. Raises Unauthorized, Forbidden and NotFound: the token or the server is wrong."""
        working: set[asyncio.Task[None]] = set()
        listening = asyncio.ensure_future(self._listen())
        try:
            while not self._stop.is_set():
                free = self._server.capacity - len(working)
                if free < 1:
                    await _first(asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED), self._stop.wait())
                    continue
                for attempt in await self._take(free):
                    task = asyncio.ensure_future(self._do(attempt))
                    working.add(task)
                    task.add_done_callback(working.discard)
            if working:
                await asyncio.wait(set(working), timeout=self._grace)
        finally:
            for name, job in list(self._jobs.items()):
                self._given_back.add(name)
                job.cancel("the puller stops")
            if working:
                await asyncio.wait(set(working), timeout=self._grace)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await self._client.close()

    async def _take(self, most: int) -> list[Any]:
        """Return attempts; none when the wait has passed, or the puller is being stopped."""
        asking = asyncio.ensure_future(
            self._client.request("POST", "/api/attempts/take", body={**self._asked, "max": most}, repeatable=True)
        )
        await _first(asking, self._stop.wait())
        if not asking.done():
            asking.cancel()  # an attempt that is on its way is returned, and does not count
            await asyncio.gather(asking, return_exceptions=True)
            return []
        try:
            return list((await asking)["attempts"])
        except (Unauthorized, Forbidden, NotFound):
            raise
        except (ApiError, BadAnswer) as error:
            log.warning("no tasks: %s", error)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), PAUSE_SECONDS)
            return []

    async def _do(self, given: Mapping[str, Any]) -> None:
        name = given["attempt"]
        model = given.get("model") or {}
        job = Job(
            id=given["task"],
            type=given["type"],
            payload=given["input"],
            attempt=given["number"],
            deadline=instant(given.get("deadline")),
            parents=given.get("parents"),
            headers={key.lower(): value for key, value in (given.get("trace") or {}).items()},
            model={
                "provider": model.get("provider"),
                "model": model.get("model"),
                "base_url": model.get("baseUrl"),
                "key": model.get("key"),
            },
        )
        self._jobs[name] = job
        self._changed.set()
        try:
            work = asyncio.ensure_future(self._server.work(job))
            try:
                await self._accompany(given, job, work)
                outcome = await work
            finally:
                work.cancel()
            await self._conclude(given, job, outcome)
        except (ApiError, BadAnswer) as error:
            log.warning("task %s: %s", job.id, error)
            job.cancel("the service does not take reports")
        finally:
            del self._jobs[name]
            self._changed.set()

    async def _accompany(self, given: Mapping[str, Any], job: Job, work: asyncio.Future[Outcome]) -> None:
        """Send updates, and renew the lease, until the work has ended."""
        renewing = asyncio.ensure_future(self._renew(given, job))
        try:
            async for update in updates_of(job, work):
                await self._report(given, job, "progress", update)
        finally:
            renewing.cancel()

    async def _renew(self, given: Mapping[str, Any], job: Job) -> None:
        while not job.cancelled:
            await asyncio.sleep(given["leaseSeconds"] / RENEWALS)
            with contextlib.suppress(ApiError, BadAnswer):
                await self._report(given, job, "renew", {})

    async def _conclude(self, given: Mapping[str, Any], job: Job, outcome: Outcome) -> None:
        error = outcome.error
        if given["attempt"] in self._given_back or isinstance(error, (JobCancelled, Busy)):
            # Of a cancelled task this says that the work has stopped.
            await self._report(given, job, "release", {"reason": job.cancelled_because or str(error)})
        elif error is None:
            await self._report(given, job, "done", {"result": outcome.data})
        else:
            retry_after = error.retry_after if isinstance(error, Failed) else None
            more = {} if retry_after is None else {"retryAfter": retry_after}
            body = {"error": outcome.text, "retry": not isinstance(error, Reject), **more}
            await self._report(given, job, "fail", body)

    async def _report(self, given: Mapping[str, Any], job: Job, what: str, body: Any) -> None:
        headers = {"Authorization": f"Bearer {given['token']}"}
        path = path_of("attempts", given["attempt"], what)
        try:
            answer = await self._client.request("POST", path, body=body, headers=headers, repeatable=True)
        except Unauthorized:  # there is no such attempt any more
            job.cancel("the attempt is over")
            return
        if isinstance(answer, dict) and answer.get("status") == "gone":
            job.cancel("the task was cancelled" if answer.get("cancelled") else "the attempt is over")

    async def _listen(self) -> None:
        """Hear at once of attempts that are over."""
        while True:
            self._changed.clear()
            names = [name for name, job in self._jobs.items() if not job.cancelled]
            if not names:
                await self._changed.wait()
                continue
            body = {"server": self._asked["server"], "attempts": names, "wait": self._asked["wait"]}
            asking = asyncio.ensure_future(
                self._client.request("POST", "/api/attempts/cancelled", body=body, repeatable=True)
            )
            try:
                await _first(asking, self._changed.wait())
                if asking.done():
                    for over in (await asking)["attempts"]:
                        if (job := self._jobs.get(over["attempt"])) is not None:
                            job.cancel("the task was cancelled" if over.get("cancelled") else "the attempt is over")
            except (ApiError, BadAnswer) as error:  # renewals say it, too
                log.info("no news of cancellations: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
            finally:
                asking.cancel()


async def _first(*awaitables: Any) -> None:
    """Return when one of them is done; cancel those that are not tasks of the caller's."""
    own = [each for each in awaitables if not isinstance(each, asyncio.Future)]
    waiting = [asyncio.ensure_future(each) for each in awaitables]
    started = [task for task, each in zip(waiting, awaitables, strict=True) if any(each is one for one in own)]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in started:
            task.cancel()
