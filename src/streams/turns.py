"""Turns at something that takes memory: a bounded number at once, and next the user who was served least recently."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from ..errors import TooManyReads


class Turns:
    """`at_once` turns in all and `of_one_user` of one user. Of each user, `waiting` more may wait for a first turn."""

    def __init__(self, at_once: int, of_one_user: int, waiting: int) -> None:
        self._at_once = at_once
        self._of_one_user = of_one_user
        self._most_waiting = waiting
        self._taken: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """Those who wait, in order, by user; first the user who was served least recently."""

    @property
    def taken(self) -> int:
        """Turns that are taken now."""
        return self._taken.total()

    async def take(self, user: str, patience_seconds: float, *, is_first: bool = True) -> None:
        """Return when the user has a turn, which `give_back` ends.

        Raises TooManyReads if none comes in time, or if `is_first` and too many wait already.
        """
        queue = self._waiting.setdefault(user, deque())
        if is_first and len(queue) >= self._most_waiting:
            raise TooManyReads
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(place)
        self._serve()
        try:
            async with asyncio.timeout(patience_seconds):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self.give_back(user)  # the turn came together with the cancellation
            else:
                self._leave(user, place)
            if isinstance(error, TimeoutError):
                raise TooManyReads from None
            raise

    def give_back(self, user: str) -> None:
        self._taken[user] -= 1
        if not self._taken[user]:
            del self._taken[user]
        self._serve()

    def _leave(self, user: str, place: asyncio.Future[None]) -> None:
        queue = self._waiting.get(user)
        if queue is not None and place in queue:
            queue.remove(place)
            if not queue:
                del self._waiting[user]

    def _serve(self) -> None:
        """Give out the turns that are free."""
        while self.taken < self._at_once:
            user = next((user for user in self._waiting if self._taken[user] < self._of_one_user), None)
            if user is None:
                return
            queue = self._waiting.pop(user)
            place = queue.popleft()
            if queue:
                self._waiting[user] = queue  # now last
            if not place.done():
                self._taken[user] += 1
                place.set_result(None)
