"""Files of Replicate's API, and files in the outputs of predictions."""

from __future__ import annotations

import base64
from typing import Any

import aiohttp
from aiohttp import web

from taskstream.facades import predictions
from testkit.backend import BackendServer
from testkit.service import Client, Service

V1 = "/replicate/v1"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 32
HTTPS = {"X-Forwarded-Proto": "https"}


async def uploaded(client: Client, content: bytes = PNG, metadata: str | None = None) -> Any:
    """Upload a file as JavaScript's client does: every part has a file name."""
    form = aiohttp.FormData()
    form.add_field("content", content, filename="cat.png", content_type="image/png")
    if metadata is not None:
        form.add_field("metadata", metadata, filename="blob", content_type="application/json")
    headers = {"Authorization": f"Bearer {client.bearer}"}
    async with client.session.post(f"{client.url}{V1}/files", data=form, headers=headers) as response:
        assert response.status == 201, await response.text()
        return await response.json()


async def test_an_uploaded_file_has_every_field_and_a_url_that_needs_no_header(service: Service) -> None:
    file = await uploaded(service.alice, metadata='{"camera": "left", "tags": [1, 2]}')

    url = file["urls"].pop("get")
    assert url.startswith(f"{service.url}/api/files/{file['id']}?token=")
    async with service.alice.session.get(url) as response:
        assert (response.status, await response.read()) == (200, PNG)
        assert response.headers["Content-Type"] == "image/png"
    shown = {name: file[name] for name in ("name", "content_type", "size", "metadata", "expires_at")}
    assert shown == {
        "name": "cat.png",
        "content_type": "image/png",
        "size": len(PNG),
        "metadata": {"camera": "left", "tags": "[1,2]"},
        "expires_at": None,
    }
    assert file["etag"] == file["checksums"]["sha256"]


async def test_files_are_read_listed_and_deleted(service: Service) -> None:
    files = [await uploaded(service.alice, str(number).encode()) for number in range(2)]

    one = await service.alice.done("GET", f"{V1}/files/{files[0]['id']}")
    listed = await service.alice.done("GET", f"{V1}/files")
    deleted = await service.alice.delete(f"{V1}/files/{files[0]['id']}")

    assert one["size"] == 1
    assert [file["id"] for file in listed["results"]] == [file["id"] for file in files[::-1]]
    assert (listed["previous"], listed["next"]) == (None, None)
    assert (deleted.status, deleted.body) == (204, "")
    assert (await service.alice.get(f"{V1}/files/{files[0]['id']}")).status == 404
    assert (await service.bob.get(f"{V1}/files/{files[1]['id']}")).status == 404


async def test_a_body_that_is_no_form_with_a_file_is_refused(service: Service) -> None:
    assert (await service.alice.post(f"{V1}/files", {"content": "x"})).status == 422
    form = aiohttp.FormData()
    form.add_field("metadata", "[]", filename="blob")
    headers = {"Authorization": f"Bearer {service.alice.bearer}"}
    async with service.alice.session.post(f"{service.url}{V1}/files", data=form, headers=headers) as response:
        assert response.status == 422


async def test_a_file_without_end_is_refused_at_its_limit(service: Service) -> None:
    service.container.files.most_bytes = 1_000
    form = aiohttp.FormData()
    form.add_field("content", b"x" * 200_000, filename="x")
    headers = {"Authorization": f"Bearer {service.alice.bearer}"}

    async with service.alice.session.post(f"{service.url}{V1}/files", data=form, headers=headers) as response:
        assert response.status == 413
        assert response.content_type == "application/problem+json"


async def picture(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    return web.Response(body=PNG, content_type="image/png")


async def drawn(service: Service, backend: BackendServer, headers: dict[str, str]) -> Any:
    """Return the prediction of a picture."""
    backend.answer = picture
    answer = await service.alice.post(
        f"{V1}/models/acme/flux/predictions", {"input": {}}, headers={"Prefer": "wait", **headers}
    )
    assert answer["status"] == "succeeded", answer
    return answer.body


async def test_a_file_is_a_url_without_a_header_where_urls_are_https(service: Service, backend: BackendServer) -> None:
    prediction = await drawn(service, backend, HTTPS)

    url = prediction["output"]
    assert url.startswith(f"https{service.url.removeprefix('http')}/api/task/{prediction['id']}/result/file?")
    async with service.alice.session.get("http" + url.removeprefix("https")) as response:
        assert (response.status, await response.read()) == (200, PNG)


async def test_a_small_file_is_a_data_uri_where_urls_are_not_https(service: Service, backend: BackendServer) -> None:
    prediction = await drawn(service, backend, {})

    assert prediction["output"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


async def test_a_larger_file_is_a_url_and_every_file_of_a_list(
    service: Service, backend: BackendServer, monkeypatch: Any
) -> None:
    await drawn(service, backend, {})
    listed = await service.alice.done("GET", f"{V1}/predictions")
    monkeypatch.setattr(predictions, "LARGEST_INLINE_FILE", len(PNG) - 1)
    prediction = await service.alice.done("GET", f"{V1}/predictions/{listed['results'][0]['id']}")

    for output in (listed["results"][0]["output"], prediction["output"]):
        assert output.startswith(f"{service.url}/api/task/{prediction['id']}/result/file?")


async def test_a_reference_that_a_server_makes_up_is_left_as_it_is(service: Service, backend: BackendServer) -> None:
    made_up = {"$ref": "https://evil.example.com/x", "mediaType": "image/png", "bytes": 1}
    other = {"$ref": "/api/task/x/result", "mediaType": "image/png", "bytes": 1}

    async def answer(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        return web.json_response([made_up, other])

    backend.answer = answer
    prediction = await service.alice.post(
        f"{V1}/models/acme/flux/predictions", {"input": {}}, headers={"Prefer": "wait"}
    )

    assert prediction["output"] == [made_up, other]


async def test_a_large_result_is_whole_alone_and_left_out_of_lists(service: Service, backend: BackendServer) -> None:
    text = "x" * (service.container.settings.inline_result + 1)

    async def answer(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        return web.json_response([text])

    backend.answer = answer
    prediction = await service.alice.post(
        f"{V1}/models/acme/flux/predictions", {"input": {}}, headers={"Prefer": "wait"}
    )
    listed = await service.alice.done("GET", f"{V1}/predictions")

    assert (prediction["output"], prediction["data_removed"]) == ([text], False)
    assert (listed["results"][0]["output"], listed["results"][0]["data_removed"]) == (None, True)
