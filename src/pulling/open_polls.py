"""Limits on the open requests of pullers at this process: per server and in all."""

from __future__ import annotations

from ..errors import TooManyAsks
from ..runtime.places import Places

MOST_OF_SERVER = 1_000
MOST = 10_000


class OpenPolls(Places):
    """The open requests of one kind, by server. Raises TooManyAsks."""

    def __init__(self) -> None:
        super().__init__(MOST_OF_SERVER, MOST)

    def refusal(self, limit: int, taken: int, *, is_of_holder: bool) -> Exception:  # noqa: ARG002
        return TooManyAsks(limit, taken)
