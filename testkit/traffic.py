"""What a process reads from NATS over a connection: requests, messages and bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from taskstream.streams.client.connection import Connection


class Traffic:
    """Counts since `counted` began."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        """Subjects."""
        self.messages = 0
        self.size_bytes = 0

    def of(self, part: str) -> int:
        """Return the number of requests whose subject has a part."""
        return sum(part in subject for subject in self.requests)


@contextlib.contextmanager
def counted(connection: Connection) -> Iterator[Traffic]:
    """Count what a connection requests and receives."""
    traffic = Traffic()
    one, many = connection.request, connection.request_many

    async def request(subject: str, *given: Any, **named: Any) -> Any:
        traffic.requests.append(subject)
        answer = await one(subject, *given, **named)
        traffic.messages += 1
        traffic.size_bytes += len(answer.data)
        return answer

    async def request_many(subject: str, *given: Any, **named: Any) -> Any:
        traffic.requests.append(subject)
        answers = await many(subject, *given, **named)
        traffic.messages += len(answers)
        traffic.size_bytes += sum(len(answer.data) for answer in answers)
        return answers

    connection.request, connection.request_many = request, request_many  # type: ignore[method-assign]
    try:
        yield traffic
    finally:
        del connection.request, connection.request_many  # type: ignore[method-assign]
