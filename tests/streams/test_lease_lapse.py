"""A holder that was stopped for longer than its presence lasts does not take up again what another has taken."""

from __future__ import annotations

import asyncio

from taskstream.container import Container
from taskstream.streams.leases import Lease, Membership

TTL_SECONDS = 2.0


async def test_a_lease_is_not_held_after_a_lapse_until_it_was_looked_at(container: Container) -> None:
    stopped, other = (Membership(container.buckets.leases, "worker", TTL_SECONDS) for _ in range(2))
    await stopped.renew()
    lease = Lease(stopped, "one")
    assert await lease.acquire()
    await asyncio.sleep(TTL_SECONDS)  # as long as it is stopped
    await other.renew()
    await Lease(other, "one").take_over()

    await stopped.renew()

    assert stopped.is_current
    assert not lease.held
    assert not await lease.acquire()


async def test_a_lease_that_nobody_took_meanwhile_is_held_again_once_it_was_looked_at(container: Container) -> None:
    stopped = Membership(container.buckets.leases, "worker", TTL_SECONDS)
    await stopped.renew()
    lease = Lease(stopped, "one")
    assert await lease.acquire()
    await asyncio.sleep(TTL_SECONDS)
    await stopped.renew()
    assert not lease.held

    assert await lease.acquire()
    assert lease.held
