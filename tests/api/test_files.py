"""Files over HTTP: uploads, downloads, ranges, links, lists, deletions, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from taskstream.streams.objects import PART_BYTES
from testkit.nats import NatsServer
from testkit.outage import restart
from testkit.service import Client, Service, running_service
from testkit.waiting import wait_until

HELLO = b"hello, file"
SHA256 = hashlib.sha256(HELLO).hexdigest()


async def uploaded(client: Client, content: bytes = HELLO, query: str = "", **headers: str) -> dict[str, Any]:
    """Upload bytes as the body; return the file."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    found: dict[str, Any] = await client.done("POST", f"/api/files{query and '?'}{query}", content, headers=named)
    return found


async def raw(client: Client, path: str, **headers: str) -> tuple[int, Any, bytes]:
    """Make a GET request; return status, headers and body."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if client.bearer:
        given.setdefault("Authorization", f"Bearer {client.bearer}")
    url = path if path.startswith("http") else client.url + path
    async with client.session.get(url, headers=given) as response:
        return response.status, response.headers, await response.read()


async def send_form(client: Client, *fields: tuple[str, bytes | str, dict[str, str]]) -> tuple[int, Any]:
    form = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    for name, value, more in fields:
        form.add_field(name, value, **more)
    headers = {"Authorization": f"Bearer {client.bearer}"}
    async with client.session.post(f"{client.url}/api/files", data=form, headers=headers) as response:
        return response.status, await response.json(content_type=None)


async def objects_of(service: Service) -> set[str]:
    return {each.name for each in await service.container.files.objects.descriptions(0, 1_000)}


# Uploads


async def test_a_body_becomes_a_file_that_comes_back_as_it_was(api: Service) -> None:
    file = await uploaded(api.alice, HELLO, "name=grüße.txt&type=text/plain")

    status, headers, body = await raw(api.alice, f"/api/files/{file['id']}")

    assert (file["name"], file["mediaType"], file["bytes"], file["sha256"]) == (
        "grüße.txt",
        "text/plain",
        len(HELLO),
        SHA256,
    )
    assert (status, body) == (200, HELLO)
    assert headers["Content-Type"] == "text/plain"
    assert headers["ETag"] == f'"{SHA256}"'
    assert headers["Content-Disposition"] == "attachment; filename=\"gr__e.txt\"; filename*=UTF-8''gr%C3%BC%C3%9Fe.txt"
    assert "sandbox" in headers.getall("Content-Security-Policy")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert await api.alice.done("GET", f"/api/files/{file['id']}/info") == file


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 3_000_000])
async def test_a_file_of_any_size_has_all_its_bytes(api: Service, size: int) -> None:
    content = os.urandom(size)

    file = await uploaded(api.alice, content)

    assert (file["bytes"], file["sha256"]) == (size, hashlib.sha256(content).hexdigest())
    assert (await raw(api.alice, f"/api/files/{file['id']}"))[2] == content


async def test_a_form_has_the_file_as_a_part_and_its_fields_before_or_after(api: Service) -> None:
    """Clients of other APIs send fields after the file."""
    part = {"filename": "pictures/a.png", "content_type": "image/png"}

    status, file = await send_form(
        api.alice,
        ("purpose", "batch", {}),
        ("file", HELLO, part),
        ("metadata.camera", "left", {}),
        ("expiresIn", "2h", {}),
    )

    assert status == 200
    assert (file["name"], file["mediaType"], file["purpose"]) == ("a.png", "image/png", "batch")
    assert file["metadata"] == {"camera": "left"}
    assert file["expiresAt"] > file["createdAt"]
    assert (await raw(api.alice, f"/api/files/{file['id']}"))[2] == HELLO


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ([("purpose", "x", {})], None),
        ([("file", b"1", {"filename": "a"}), ("file", b"2", {"filename": "b"})], "file"),
        ([("file", b"1", {"filename": "a"}), ("colour", "red", {})], "colour"),
        ([("purpose", "a", {}), ("purpose", "b", {}), ("file", b"1", {"filename": "a"})], "purpose"),
        ([("file", b"1", {"filename": "a"}), ("purpose", "no such/purpose", {})], "purpose"),
        ([("file", b"1", {"filename": "a", "content_type": "image"})], "type"),
        ([("file", b"1", {"filename": "a"}), ("metadata.long", "x" * 70_000, {})], None),
    ],
)
async def test_a_form_that_is_not_one_file_with_known_fields_leaves_nothing(
    api: Service, fields: list[Any], path: str | None
) -> None:
    status, problem = await send_form(api.alice, *fields)

    assert (status, problem.get("path")) == (400, path), problem
    assert await objects_of(api) == set()
    assert await api.alice.listed("/api/files", "files") == []


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("name=..", "name"),
        ("name=a%2Fb", "name"),
        ("name=a%0Ab", "name"),
        ("name=" + "x" * 256, "name"),
        ("type=text", "type"),
        ("type=text/html%0d%0aX-Evil:%201", "type"),
        ("purpose=a.b", "purpose"),
        ("expiresAt=2020-01-01T00:00:00Z", "expiresAt"),
        ("expiresAt=soon", "expiresAt"),
        ("expiresIn=1&expiresAt=2099-01-01T00:00:00Z", "expiresIn"),
        ("expiresIn=never", "expiresIn"),
        ("sha256=f00d", "sha256"),
        ("sha256=" + "0" * 64, "sha256"),
        ("nmae=a", "nmae"),
    ],
)
async def test_a_name_type_or_time_that_no_file_may_have_is_refused(api: Service, query: str, path: str) -> None:
    assert await api.alice.refusal("POST", f"/api/files?{query}", HELLO) == (400, path)
    assert await objects_of(api) == set()


async def test_bytes_are_compared_with_the_digest_that_came_with_them(api: Service) -> None:
    right, wrong = (base64.b64encode(hashlib.sha256(each).digest()).decode() for each in (HELLO, b"other"))

    assert (await uploaded(api.alice, HELLO, Repr_Digest=f"sha-512=:AAAA:, sha-256=:{right}:"))["sha256"] == SHA256
    assert (await uploaded(api.alice, HELLO, Content_Digest=f"sha-256=:{right}:"))["sha256"] == SHA256
    for bad in (f"sha-256=:{wrong}:", "sha-256=:AAAA:"):
        assert (await api.alice.post("/api/files", HELLO, headers={"Repr-Digest": bad})).status == 400
    assert len(await objects_of(api)) == 2


async def test_the_same_key_makes_one_file_and_another_body_is_a_conflict(api: Service) -> None:
    key = {"Idempotency_Key": "upload 1"}
    first = await uploaded(api.alice, HELLO, **key)
    again = await uploaded(api.alice, HELLO, **key)
    other = await api.alice.post("/api/files", b"other", headers={"Idempotency-Key": "upload 1"})
    of_bob = await uploaded(api.bob, b"other", **key)

    assert first == again
    assert other.status == 422
    assert of_bob["id"] != first["id"]
    assert len(await objects_of(api)) == 2


async def test_uploads_with_one_key_at_the_same_time_make_one_file(api: Service) -> None:
    answers = await asyncio.gather(
        *(api.alice.post("/api/files", HELLO, headers={"Idempotency-Key": "k"}) for _ in range(6))
    )

    assert {answer.status for answer in answers} == {200}
    assert len({answer["id"] for answer in answers}) == 1
    assert len(await objects_of(api)) == 1


async def test_a_file_above_the_limit_is_refused_and_leaves_nothing(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, max_file=200_000) as api:
        announced = await api.alice.post("/api/files", b"x" * 200_001)

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 65_536

        headers = {"Authorization": f"Bearer {api.alice.bearer}"}
        async with api.alice.session.post(f"{api.url}/api/files", data=endless(), headers=headers) as unannounced:
            status = unannounced.status

        assert (announced.status, status) == (413, 413)
        assert "200,000 bytes" in announced["detail"]
        await wait_until(lambda: _none(api), "the bytes to be deleted")


async def _none(service: Service) -> bool:
    return await objects_of(service) == set()


async def test_an_upload_that_breaks_off_leaves_nothing(api: Service) -> None:
    started = asyncio.Event()

    async def cut() -> AsyncIterator[bytes]:
        yield b"x" * 300_000
        started.set()
        await asyncio.Event().wait()

    headers = {"Authorization": f"Bearer {api.alice.bearer}"}
    upload = asyncio.create_task(api.alice.session.post(f"{api.url}/api/files", data=cut(), headers=headers))
    await started.wait()

    async def has_begun() -> bool:
        return bool(await objects_of(api))

    await wait_until(has_begun, "the upload to begin")
    upload.cancel()

    await wait_until(lambda: _none(api), "the bytes to be deleted")
    assert api.container.files.uploads.taken == 0
    assert await api.alice.listed("/api/files", "files") == []


async def test_the_quota_of_stored_bytes_counts_files_and_what_is_being_uploaded(nats_url: str) -> None:
    async with running_service(nats_url, owner_stored=1_000_000) as service:
        first = await uploaded(service.alice, b"x" * 600_000)
        refused = await service.alice.post("/api/files", b"y" * 600_000)
        of_bob = await uploaded(service.bob, b"z" * 600_000)

        assert (refused.status, refused["violated-policies"]) == (429, ["stored"])
        assert of_bob["bytes"] == 600_000
        await service.alice.done("DELETE", f"/api/files/{first['id']}")

        async def fits() -> bool:
            return (await service.alice.post("/api/files", b"y" * 600_000)).status == 200

        await wait_until(fits, "the bytes of the deleted file to be free")


async def test_an_uploaded_file_outlives_a_kill_of_nats(api: Service, nats: NatsServer) -> None:
    content = os.urandom(700_000)
    file = await uploaded(api.alice, content)
    container = api.container

    await restart(nats, container.reading, container.storing, container.appending)

    assert (await raw(api.alice, f"/api/files/{file['id']}"))[2] == content


# Downloads


async def test_a_range_of_a_file_is_a_206_and_a_stale_one_the_whole(api: Service) -> None:
    content = os.urandom(3 * PART_BYTES + 7)
    file = await uploaded(api.alice, content)
    path, tag = f"/api/files/{file['id']}", f'"{file["sha256"]}"'

    for start, end in ((0, 1), (PART_BYTES - 1, PART_BYTES + 1), (2 * PART_BYTES + 5, 3 * PART_BYTES + 7)):
        status, headers, body = await raw(api.alice, path, Range=f"bytes={start}-{end - 1}", If_Range=tag)
        assert (status, body) == (206, content[start:end])
        assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(content)}"
    assert (await raw(api.alice, path, Range="bytes=-5"))[2] == content[-5:]
    assert (await raw(api.alice, path, Range="bytes=0-1", If_Range='"other"'))[0] == 200
    assert (await raw(api.alice, path, Range=f"bytes={len(content)}-"))[0] == 416
    assert (await raw(api.alice, path, If_None_Match=tag))[::2] == (304, b"")
    async with api.alice.session.head(
        api.url + path, headers={"Authorization": f"Bearer {api.alice.bearer}"}
    ) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, str(len(content)))


async def test_a_range_is_found_in_files_that_were_uploaded_at_the_same_time(api: Service) -> None:
    """Their parts lie between each other in the stream."""
    contents = [os.urandom(20 * PART_BYTES + number) for number in range(4)]
    files = await asyncio.gather(*(uploaded(api.alice, content) for content in contents))

    for content, file in zip(contents, files, strict=True):
        for start in (1, 7 * PART_BYTES + 3, 19 * PART_BYTES, len(content) - 1):
            got = await raw(api.alice, f"/api/files/{file['id']}", Range=f"bytes={start}-{start + 99}")
            assert got[::2] == (206, content[start : start + 100])


# Links


async def test_a_signed_link_needs_no_header_and_opens_one_file(api: Service) -> None:
    file, other = await uploaded(api.alice), await uploaded(api.alice, b"other")

    link = await api.alice.done("POST", f"/api/files/{file['id']}/links", {"expiresIn": 60})
    token = link["url"].partition("?token=")[2]

    status, headers, body = await raw(api.anonymous, link["url"], Range="bytes=0-4")
    assert (status, body, headers["ETag"]) == (206, HELLO[:5], f'"{SHA256}"')
    assert (await raw(api.anonymous, f"/api/files/{other['id']}?token={token}"))[0] == 403
    assert (await raw(api.anonymous, f"/api/files/{file['id']}?token={token[:-4]}"))[0] == 401
    assert (await raw(api.anonymous, f"/api/files/{file['id']}/info?token={token}"))[0] in (400, 401)
    assert (await raw(api.anonymous, f"/api/files/{file['id']}"))[0] == 401


async def test_a_link_ends_at_its_time_and_with_its_file(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    from taskstream.api.routes import files as routes
    from taskstream.clock import utc_now

    file = await uploaded(api.alice)
    link = await api.alice.done("POST", f"/api/files/{file['id']}/links", {"expiresIn": 60})
    later = await api.alice.done("POST", f"/api/files/{file['id']}/links", {"expiresIn": 6000})

    monkeypatch.setattr(routes, "utc_now", lambda: utc_now() + timedelta(seconds=61))
    assert (await raw(api.anonymous, link["url"]))[0] == 401
    assert (await raw(api.anonymous, later["url"]))[0] == 200
    await api.alice.done("DELETE", f"/api/files/{file['id']}")
    assert (await raw(api.anonymous, later["url"]))[0] == 404


# Lists, deletions, other users


async def test_files_are_listed_newest_first_in_pages_without_deleted_ones(api: Service) -> None:
    files = [(await uploaded(api.alice, b"%d" % number))["id"] for number in range(7)]
    batch = (await uploaded(api.alice, b"lines", "purpose=batch"))["id"]
    of_bob = (await uploaded(api.bob))["id"]
    await api.alice.done("DELETE", f"/api/files/{files.pop(3)}")

    pages = await api.alice.pages("/api/files", "files", "limit=3")

    assert [len(page) for page in pages] == [3, 3, 1]
    assert [file["id"] for page in pages for file in page] == [batch, *reversed(files)]
    assert [file["id"] for file in await api.alice.listed("/api/files", "files", "purpose=batch")] == [batch]
    assert [file["id"] for file in await api.admin.listed("/api/files", "files", "owner=bob")] == [of_bob]
    assert len(await api.admin.listed("/api/files", "files")) == 8
    assert (await api.alice.get("/api/files?owner=bob")).status == 403


async def test_a_deleted_file_and_its_bytes_are_gone(api: Service) -> None:
    file = await uploaded(api.alice)

    await api.alice.done("DELETE", f"/api/files/{file['id']}")

    assert await objects_of(api) == set()
    for path in (f"/api/files/{file['id']}", f"/api/files/{file['id']}/info"):
        assert (await api.alice.get(path)).status == 404
    assert (await api.alice.delete(f"/api/files/{file['id']}")).status == 404


async def test_another_users_file_is_not_found(api: Service) -> None:
    file = await uploaded(api.alice)
    path = f"/api/files/{file['id']}"

    for answer in (
        await api.bob.get(path),
        await api.bob.get(f"{path}/info"),
        await api.bob.post(f"{path}/links", {}),
        await api.bob.delete(path),
    ):
        assert answer.status == 404
    assert (await api.auditor.get(f"{path}/info")).status == 200
    assert (await api.auditor.delete(path)).status == 403
    assert (await api.admin.delete(path)).status == 200
