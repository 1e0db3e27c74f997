"""Places for what is open in a process, such as streams and long polls: limited for each holder, and in all."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Place:
    """A taken place. Ends with `close`, or as a context manager; closing twice is safe."""

    def __init__(self, places: Places, holder: str) -> None:
        self._places: Places | None = places
        self.holder = holder

    def close(self) -> None:
        places, self._places = self._places, None
        if places is not None:
            places.leave(self.holder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Places:
    """Counts the places of each holder. A limit of 0 is none."""

    def __init__(self, of_one: int, in_all: int) -> None:
        self.of_one = of_one
        self.in_all = in_all
        self._taken: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, holder: str) -> int:
        """Return the number of a holder's places."""
        return self._taken.get(holder, 0)

    def open(self, holder: str) -> Place:
        """Take a place. Raises what `refusal` returns."""
        if self.of_one and self.of(holder) >= self.of_one:
            raise self.refusal(self.of_one, self.of(holder), is_of_holder=True)
        if self.in_all and self._count >= self.in_all:
            raise self.refusal(self.in_all, self._count, is_of_holder=False)
        self._taken[holder] = self.of(holder) + 1
        self._count += 1
        return Place(self, holder)

    def leave(self, holder: str) -> None:
        """Give a place back; called by the place."""
        self._count -= 1
        self._taken[holder] -= 1
        if not self._taken[holder]:
            del self._taken[holder]

    def refusal(self, limit: int, taken: int, *, is_of_holder: bool) -> Exception:
        """Return the error for a limit that is reached: the holder's own, or that of all."""
        raise NotImplementedError
