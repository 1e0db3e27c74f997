"""High priority first, also where every slot is taken all the time."""

from __future__ import annotations

from testkit.backend import BackendServer, hold
from testkit.load import work
from testkit.service import Service
from testkit.waiting import wait_until


async def test_a_queue_that_was_empty_is_looked_into_while_another_fills_every_slot(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one", maxConcurrent=1)

    async def submit(priority: str, number: int) -> str:
        return await service.alice.submit({"priority": priority, "payload": {"number": number}})

    first = await submit("high", 0)
    await wait_until(lambda: backend.calls, "the only slot to be taken, and the high queue to be empty")
    low = [await submit("low", number) for number in range(40)]
    high = [await submit("high", number) for number in range(1, 6)]
    backend.let_go.set()
    for task_id in [first, *low, *high]:
        await service.alice.ended(task_id)

    order = [call["task_id"] for call in backend.calls]
    before = sum(order.index(task_id) < max(map(order.index, high)) for task_id in low)
    assert before <= 2, f"{before} of 40 low ones were run before the last high one"


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
