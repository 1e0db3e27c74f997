"""Types as models of Replicate's API, with their versions."""

from __future__ import annotations

import pytest

from testkit.service import Service

from .conftest import FLUX, ITERATOR

V1 = "/replicate/v1"


async def test_a_type_is_a_model_with_its_schema(service: Service) -> None:
    model = await service.alice.done("GET", f"{V1}/models/acme/flux")

    version = model.pop("latest_version")
    assert model == {
        "url": f"{service.url}{V1}/models/acme/flux",
        "owner": "acme",
        "name": "flux",
        "description": "makes pictures",
        "visibility": "private",
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
    }
    schemas = version["openapi_schema"]["components"]["schemas"]
    assert schemas["Input"] == {"title": "Input", **FLUX["schema"]}
    assert schemas["Output"] == {"title": "Output"}


async def test_references_in_a_schema_hold_in_the_description(service: Service) -> None:
    model = await service.alice.done("GET", f"{V1}/models/acme/writer")

    schemas = model["latest_version"]["openapi_schema"]["components"]["schemas"]
    assert schemas["Input"]["properties"]["prompt"] == {"$ref": "#/components/schemas/Input/$defs/text"}
    assert "x-output" not in schemas["Input"]
    assert schemas["Output"] == {"title": "Output", **ITERATOR["schema"]["x-output"]}


async def test_a_type_without_a_model_is_found_under_any_owner(service: Service) -> None:
    await service.admin.done("PUT", "/api/types/plain", {})

    listed = await service.alice.done("GET", f"{V1}/models")

    names = [f"{model['owner']}/{model['name']}" for model in listed["results"]]
    assert names == ["acme/flux", "acme/writer", "taskstream/plain"]
    assert (await service.alice.get(f"{V1}/models/stability-ai/plain")).status == 200
    assert (await service.alice.get(f"{V1}/models/stability-ai/flux")).status == 404


async def test_versions_are_the_schemas_a_type_has_had(service: Service) -> None:
    before = (await service.alice.done("GET", f"{V1}/models/acme/flux"))["latest_version"]
    await service.admin.done("PUT", "/api/types/flux", {**FLUX, "concurrency": 3})
    same = (await service.alice.done("GET", f"{V1}/models/acme/flux"))["latest_version"]
    await service.admin.done("PUT", "/api/types/flux", {**FLUX, "schema": {"type": "object"}})

    listed = await service.alice.done("GET", f"{V1}/models/acme/flux/versions")
    old = await service.alice.done("GET", f"{V1}/models/acme/flux/versions/{before['id']}")
    used = await service.alice.post(f"{V1}/predictions", {"version": before["id"], "input": {}})

    assert before == same == old
    assert [version["id"] for version in listed["results"]][1:] == [before["id"]]
    assert (used.status, used["version"]) == (201, before["id"])


async def test_a_version_of_another_model_is_not_found(service: Service) -> None:
    writer = (await service.alice.done("GET", f"{V1}/models/acme/writer"))["latest_version"]["id"]

    assert (await service.alice.get(f"{V1}/models/acme/flux/versions/{writer}")).status == 404
    assert (await service.alice.get(f"{V1}/models/acme/flux/versions/nothing")).status == 404


async def test_a_version_in_a_types_model_leads_to_it(service: Service) -> None:
    pinned = "7762fd07" * 8
    await service.admin.done("PUT", "/api/types/sdxl", {"model": f"stability-ai/sdxl:{pinned}"})

    by_version = await service.alice.post(f"{V1}/predictions", {"version": pinned, "input": {}})
    version = await service.alice.done("GET", f"{V1}/models/stability-ai/sdxl/versions/{pinned}")

    assert (by_version.status, by_version["model"], by_version["version"]) == (201, "stability-ai/sdxl", pinned)
    assert version["id"] == pinned


@pytest.mark.parametrize(
    ("words", "found"),
    [("PICTURES", ["flux"]), ('"acme flux"', ["flux"]), ("acme", ["flux", "writer"]), ("acme cat", [])],
)
async def test_models_are_searched_by_the_method_query(service: Service, words: str, found: list[str]) -> None:
    answer = await service.alice.call("QUERY", f"{V1}/models", words.encode(), {"Content-Type": "text/plain"})

    assert answer.status == 200
    assert [model["name"] for model in answer["results"]] == found


async def test_lists_of_models_and_versions_have_pages(service: Service) -> None:
    for number in range(100):
        await service.admin.done("PUT", f"/api/types/t{number:03}", {})

    first = await service.alice.done("GET", f"{V1}/models")
    second = await service.alice.done("GET", first["next"].removeprefix(service.url))

    assert (len(first["results"]), len(second["results"])) == (100, 2)
    assert (first["previous"], second["next"]) == (None, None)
    assert second["previous"] == f"{service.url}{V1}/models?cursor=0"


async def test_what_clients_ask_besides_is_answered(service: Service) -> None:
    account = await service.alice.done("GET", f"{V1}/account")
    hardware = await service.alice.done("GET", f"{V1}/hardware")
    collections = await service.alice.done("GET", f"{V1}/collections")
    deployment = await service.alice.done("GET", f"{V1}/deployments/acme/flux")

    assert (account["type"], account["username"]) == ("user", "alice")
    assert hardware == [{"name": "Servers of this service", "sku": "taskstream"}]
    assert collections == {"previous": None, "next": None, "results": []}
    assert deployment["current_release"]["model"] == "acme/flux"
