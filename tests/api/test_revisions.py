"""Two who edit the same thing: a change with `If-Match` is made only on what it was made for."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from testkit.service import Answer, Service

GPU = {"id": "gpu-1", "name": "GPU 1", "provider": "p", "endpoints": {"predict": "http://127.0.0.1:9/predict"}}


class Edited(NamedTuple):
    """Something that is edited, and three changes of it."""

    method: str
    path: str
    changes: list[dict[str, Any]]


async def made(api: Service, kind: str) -> Edited:
    match kind:
        case "type":
            await api.admin.done("PUT", "/api/types/gpu", {"attempts": 1})
            return Edited("PUT", "/api/types/gpu", [{"attempts": number} for number in (2, 3, 4)])
        case "server":
            await api.admin.done("POST", "/api/servers", {**GPU, "apiKey": "a key of ten"})
            return Edited("PATCH", "/api/servers/gpu-1", [{"weight": 2}, {"weight": 3}, {"apiKey": "another key"}])
        case "limits":
            path = "/api/owners/alice/limits"
            await api.admin.done("PUT", path, {"concurrency": 1})
            return Edited("PUT", path, [{"concurrency": number} for number in (2, 3, 4)])
        case "schedule":
            body = {"name": "n", "cron": "0 0 1 1 *", "task": {"payload": 1}}
            found = await api.alice.done("POST", "/api/schedules", body)
            return Edited("PATCH", f"/api/schedules/{found['id']}", [{"name": name} for name in "abc"])
        case _:
            found = await api.alice.done("POST", "/api/webhooks", {"url": "http://127.0.0.1:9/hook"})
            path = f"/api/webhooks/{found['webhook']['id']}"
            return Edited("PATCH", path, [{"description": "a"}, {"active": False}, {"description": "c"}])


KINDS = ["type", "server", "limits", "schedule", "webhook"]


async def change(api: Service, edited: Edited, number: int, tag: str) -> Answer:
    return await api.admin.call(edited.method, edited.path, edited.changes[number], headers={"If-Match": tag})


@pytest.mark.parametrize("kind", KINDS)
async def test_a_change_is_made_on_what_was_read_and_on_nothing_else(api: Service, kind: str) -> None:
    edited = await made(api, kind)
    read = await api.admin.get(edited.path)

    first = await change(api, edited, 0, read.headers["ETag"])
    late = await change(api, edited, 1, read.headers["ETag"])
    again = await change(api, edited, 1, late.headers["ETag"])
    after = await change(api, edited, 2, again.headers["ETag"])

    assert [first.status, late.status, again.status, after.status] == [200, 412, 200, 200]
    assert late.headers["ETag"] == first.headers["ETag"]
    assert late["detail"].startswith("somebody else has changed this")
    assert (await api.admin.get(edited.path)).headers["ETag"].startswith(after.headers["ETag"][:-1])


@pytest.mark.parametrize("kind", KINDS)
async def test_without_the_header_and_with_a_star_a_change_is_made(api: Service, kind: str) -> None:
    edited = await made(api, kind)

    assert (await api.admin.call(edited.method, edited.path, edited.changes[0])).status == 200
    assert (await change(api, edited, 1, "*")).status == 200
    present = (await api.admin.get(edited.path)).headers["ETag"]
    assert (await change(api, edited, 1, f"{present}, {present}")).status == 200
    assert (await change(api, edited, 2, '"0123456789abcdef"')).status == 412
    assert await api.admin.refusal(edited.method, edited.path, edited.changes[2], headers={"If-Match": "x"}) == (
        400, "If-Match",
    )  # fmt: skip


async def test_what_is_not_there_matches_nothing(api: Service) -> None:
    for tag in ("*", '"0123456789abcdef"'):
        answer = await api.admin.put("/api/types/new", {"attempts": 1}, headers={"If-Match": tag})
        assert answer.status == 412
    assert (await api.admin.get("/api/types/new")).status == 404


async def test_what_happens_to_a_server_changes_its_tag_and_not_its_revision(api: Service) -> None:
    edited = await made(api, "server")
    read = await api.admin.get(edited.path)
    assert (await api.admin.get(edited.path, headers={"If-None-Match": read.headers["ETag"]})).status == 304

    await api.admin.done("POST", f"{edited.path}/heartbeat")

    assert (await api.admin.get(edited.path)).headers["ETag"] != read.headers["ETag"]
    assert (await change(api, edited, 0, read.headers["ETag"])).status == 200


async def test_a_late_change_of_a_key_leaves_the_present_key(api: Service) -> None:
    edited = await made(api, "server")
    before = [entry.key for entry in await api.container.buckets.secrets.scan("server.gpu-1.*")]

    assert (await change(api, edited, 2, '"0123456789abcdef"')).status == 412

    assert [entry.key for entry in await api.container.buckets.secrets.scan("server.gpu-1.*")] == before
