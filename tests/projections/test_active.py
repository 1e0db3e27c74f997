"""How far the projection of tasks is, in a log that has other messages as well."""

from __future__ import annotations

from taskstream.container import Container
from taskstream.projections.active import is_projected


async def test_what_is_no_event_of_a_task_need_not_be_projected(container: Container) -> None:
    assert await is_projected(container.buckets.tasks, 0)
    await container.appending.request("scheduler.fence", b"{}")
    assert await is_projected(container.buckets.tasks, 1)

    await container.appending.request("task.alice.1.noted", b"{}")
    await container.appending.request("scheduler.fence", b"{}")

    assert await is_projected(container.buckets.tasks, 1)
    assert not await is_projected(container.buckets.tasks, 2)
    assert not await is_projected(container.buckets.tasks, 3)
    await container.buckets.tasks.put("checkpoint", b"2")
    assert await is_projected(container.buckets.tasks, 3)
