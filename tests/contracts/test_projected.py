"""How far the projection of tasks is, in a log that has other messages as well."""

from __future__ import annotations

from taskstream.container import Core
from taskstream.projections.active import is_projected


async def test_what_is_no_event_of_a_task_need_not_be_projected(core: Core) -> None:
    assert await is_projected(core.buckets.tasks, 0)
    await core.appending.request("keeper.turn", b"{}")
    assert await is_projected(core.buckets.tasks, 1)

    await core.appending.request("task.alice.1.noted", b"{}")
    await core.appending.request("keeper.turn", b"{}")

    assert await is_projected(core.buckets.tasks, 1)
    assert not await is_projected(core.buckets.tasks, 2)
    assert not await is_projected(core.buckets.tasks, 3)
    await core.buckets.tasks.put("checkpoint", b"2")
    assert await is_projected(core.buckets.tasks, 3)
