"""Nothing of a lower priority starts while something higher waits that a free server could take."""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.backend import BackendServer
from tests.support.load import work
from tests.support.service import Service

from .behaviour import called

SLOTS = 9


def overtaken(backend: BackendServer, early: Iterable[str], late: Iterable[str]) -> int:
    """Return how many of the late ones were called while more of the early ones than there are slots were not."""
    order = {call["task_id"]: place for place, call in enumerate(backend.calls)}
    places = sorted(order[task_id] for task_id in early)
    return sum(sum(place > order[task_id] for place in places) > SLOTS for task_id in late)


async def test_no_low_one_starts_while_high_ones_wait(service: Service, backend: BackendServer) -> None:
    backend.answer = work(0.1)
    for name in ("a", "b", "c"):
        await service.admin.register(backend, name, maxConcurrent=SLOTS // 3)
    batch = [{"priority": "high", "payload": {"number": number}} for number in range(150)]
    answer = await service.alice.post("/api/tasks/batch", batch)
    assert answer.status == 200, answer
    await called(backend, 20)

    low = []
    for number in range(40):
        low.append(await service.bob.submit({"priority": "low", "payload": {"number": 1000 + number}}))
        await called(backend, 20 + 3 * number)
    for task_id in low:
        await service.bob.ended(task_id)

    high = [call["task_id"] for call in backend.calls if call["request"]["number"] < 1000]
    assert len(high) == 150
    assert overtaken(backend, high, low) == 0
