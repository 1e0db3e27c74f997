"""Nothing of a lower priority starts while something higher waits that a free server could take."""

from __future__ import annotations

from collections.abc import Iterable

from testkit.backend import BackendServer, hold
from testkit.load import work
from testkit.service import Service

from .behaviour import called, submit_all

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
    for number in range(0, 150, 15):  # of many owners: all of it is queued, nothing waits in a window
        batch = [{"priority": "high", "payload": {"number": number + place}} for place in range(15)]
        answer = await service.client(f"owner {number}").post("/api/tasks/batch", batch)
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


async def test_what_waits_for_a_busy_server_gets_its_slots_before_what_is_lower(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = work(0.05)
    async with BackendServer(work(0.05)) as other:
        await service.admin.register(backend, "labelled", maxConcurrent=2, labels={"gpu": "1"})
        await service.admin.register(other, "plain", maxConcurrent=2)
        batch = [{"priority": "high", "require": {"gpu": "1"}, "payload": {"number": n}} for n in range(40)]
        answer = await service.alice.post("/api/tasks/batch", batch)
        assert answer.status == 200, answer
        await called(backend, 5)

        normal = await submit_all(service.bob, [{"payload": {"number": 1000 + number}} for number in range(100)])
        for task_id in normal:
            await service.bob.ended(task_id)

    order = [call["request"]["number"] for call in backend.calls]
    last_high = max(place for place, number in enumerate(order) if number < 1000)
    assert len([number for number in order if number < 1000]) == 40
    assert sum(number >= 1000 for number in order[:last_high]) <= 2
    assert len(other.calls) >= 50


async def test_what_no_server_can_take_keeps_no_slot_from_what_is_lower(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one", maxConcurrent=1)
    first = await service.alice.submit({"payload": "first"})
    await called(backend, 1)
    stuck = [{"priority": "high", "require": {"gpu": "1"}, "payload": number} for number in range(25)]
    await submit_all(service.alice, stuck)
    low = await submit_all(service.bob, [{"priority": "low", "payload": "low"} for _ in range(10)])
    high = await service.alice.submit({"priority": "high", "payload": "high"})

    backend.let_go.set()
    for task_id in (first, high):
        await service.alice.ended(task_id)
    for task_id in low:
        await service.bob.ended(task_id)

    assert [call["request"] for call in backend.calls] == ["first", "high", *["low"] * 10]


async def test_pools_of_one_priority_take_turns(service: Service, backend: BackendServer) -> None:
    backend.answer = work(0.005)
    for name in ("a", "b", "c"):
        await service.admin.put(f"/api/types/{name}", {})
    await service.admin.register(backend, "one", maxConcurrent=1, online=False)
    await service.admin.post("/api/servers/one/maintenance", {"maintenance": True})
    tasks = {
        await service.alice.submit({"type": name, "payload": {"number": number}}): name
        for name in ("a", "b", "c")
        for number in range(12)
    }

    await service.admin.post("/api/servers/one/maintenance", {"maintenance": False})

    for task_id in tasks:
        await service.alice.ended(task_id)
    order = [tasks[call["task_id"]] for call in backend.calls]
    for name in ("a", "b", "c"):
        assert order[:18].count(name) >= 3, order
