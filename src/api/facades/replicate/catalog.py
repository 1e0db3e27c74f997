"""Routes of models, versions, deployments, hardware, collections and the account."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath

from ....errors import InvalidInput, NotFound
from ....events.task_type import TypeDefined
from ....facades.model_versions import ModelVersion, model_name, version_id
from ....facades.prediction import PREFIX
from ....instants import EPOCH, iso
from ...auth.access import ApiRequest
from ...auth.narrowing import CALLER, MODEL, narrows
from ...bodies import read_body
from ..addresses import RequestAddresses
from .models import ReplicateModels, model_answer, searched, version_answer

JSON = "application/json"
PAGE = 100
"""Entries of a page."""
LONGEST_SEARCH = 1_000
"""Bytes of the words that are searched for."""
HARDWARE = [{"name": "Servers of this service", "sku": "taskstream"}]
"""Where every model runs: its type decides."""
_encode = msgspec.json.Encoder().encode


def catalog_routes(models: ReplicateModels, addresses: RequestAddresses) -> list[Any]:
    """Return the routes, without the prefix."""

    def page(request: ApiRequest, entries: list[Any], path: str) -> Response[bytes]:
        """Return a page of entries; its cursor is the place of its first one."""
        start = _place(request.query_params.get("cursor"))
        base = f"{addresses.base(request)}{PREFIX}/{path}"
        before, after = max(0, start - PAGE), start + PAGE
        shown = {
            "previous": f"{base}?cursor={before}" if start else None,
            "next": f"{base}?cursor={after}" if after < len(entries) else None,
            "results": [entry() for entry in entries[start:after]],
        }
        return _answer(shown)

    @get("/models", opt=narrows(MODEL))
    async def list_models(request: ApiRequest) -> Response[bytes]:
        await models.catch_up()
        base = addresses.base(request)
        return page(request, [lambda of=of: model_answer(of, base) for of in models.all(request.user)], "models")

    @post("/models/search", status_code=200, opt=narrows(MODEL))
    async def search_models(request: ApiRequest) -> Response[bytes]:
        words = _words(await read_body(request, LONGEST_SEARCH))
        await models.catch_up()
        base = addresses.base(request)
        found = [model_answer(each, base) for each in searched(models.all(request.user), words)]
        return _answer({"previous": None, "next": None, "results": found})

    @get("/models/{model_owner:str}/{model_name:str}", opt=narrows(MODEL))
    async def get_model(request: ApiRequest, model_owner: FromPath[str], model_name: FromPath[str]) -> Response[bytes]:
        found = await models.named(request.user, model_owner, model_name)
        versions = await models.versions(found)
        since = next((each.created_at for each in versions if each.id == version_id(found)), None)
        return _answer(model_answer(found, addresses.base(request), since))

    @get("/models/{model_owner:str}/{model_name:str}/versions", opt=narrows(MODEL))
    async def list_versions(
        request: ApiRequest, model_owner: FromPath[str], model_name: FromPath[str]
    ) -> Response[bytes]:
        found = await models.versions(await models.named(request.user, model_owner, model_name))
        entries = [lambda each=each: version_answer(each) for each in found]
        return page(request, entries, f"models/{model_owner}/{model_name}/versions")

    @get("/models/{model_owner:str}/{model_name:str}/versions/{version:str}", opt=narrows(MODEL))
    async def get_version(
        request: ApiRequest, model_owner: FromPath[str], model_name: FromPath[str], version: FromPath[str]
    ) -> Response[bytes]:
        """Return a version; one whose definition is not in the log any more has the present schema."""
        definition = await models.named(request.user, model_owner, model_name)
        known = {each.id: each for each in await models.versions(definition)}
        if version in known:
            return _answer(version_answer(known[version]))
        if (await models.with_version(request.user, version)).name != definition.name:
            raise NotFound("version", version)
        return _answer(version_answer(ModelVersion(version, None, definition)))

    @get("/deployments", opt=narrows(MODEL))
    async def list_deployments(request: ApiRequest) -> Response[bytes]:
        await models.catch_up()
        return page(request, [lambda of=of: _deployment(of) for of in models.all(request.user)], "deployments")

    @get("/deployments/{model_owner:str}/{model_name:str}", opt=narrows(MODEL))
    async def get_deployment(
        request: ApiRequest, model_owner: FromPath[str], model_name: FromPath[str]
    ) -> Response[bytes]:
        return _answer(_deployment(await models.named(request.user, model_owner, model_name)))

    @get("/hardware", opt=narrows(CALLER))
    async def list_hardware(request: ApiRequest) -> Response[bytes]:  # noqa: ARG001 - authenticated like any route
        return _answer(HARDWARE)

    @get("/collections", opt=narrows(CALLER))
    async def list_collections(request: ApiRequest) -> Response[bytes]:
        return page(request, [], "collections")

    @get("/account", opt=narrows(CALLER))
    async def get_account(request: ApiRequest) -> Response[bytes]:
        name = request.user.subject
        return _answer({"type": "user", "username": name, "name": name, "github_url": None, "avatar_url": None})

    return [
        list_models,
        search_models,
        get_model,
        list_versions,
        get_version,
        list_deployments,
        get_deployment,
        list_hardware,
        list_collections,
        get_account,
    ]


def _words(body: bytes) -> str:
    """Return the words to search for: text, or a JSON text, as JavaScript's client sends it."""
    try:
        return msgspec.json.decode(body, type=str)
    except msgspec.DecodeError:
        return body.decode(errors="replace")


def _deployment(definition: TypeDefined) -> dict[str, Any]:
    """Return a type as a deployment: of Replicate's settings of one, nothing applies here."""
    name = model_name(definition)
    release = {
        "number": 1,
        "model": str(name),
        "version": version_id(definition),
        "created_at": iso(EPOCH),
        "created_by": {"type": "organization", "username": name.owner, "name": name.owner, "github_url": None},
        "configuration": {"hardware": "taskstream", "min_instances": 0, "max_instances": 1},
    }
    return {"owner": name.owner, "name": name.name, "current_release": release}


def _place(text: str | None) -> int:
    """Return the place of a page's first entry. Raises InvalidInput."""
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise InvalidInput("not a cursor; use the `next` or `previous` URL of a page unchanged", "cursor")
    return int(text)


def _answer(content: Any) -> Response[bytes]:
    return Response(_encode(content), media_type=JSON)
