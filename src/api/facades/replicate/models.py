"""The models of Replicate's API: every defined type is one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from ....container import Container
from ....errors import NotFound
from ....events.task_type import TypeDefined
from ....facades.model_versions import (
    COG_VERSION,
    PREFIX_DIGITS,
    VERSION_DIGITS,
    ModelVersion,
    model_name,
    openapi_schema,
    prefix_of,
    version_id,
    versions_in,
)
from ....facades.prediction import PREFIX
from ....instants import EPOCH, iso
from ...auth.authenticator import Identity
from .errors import InvalidVersion

MOST_FOUND = 25
"""Models that a search returns."""
HEX = frozenset("0123456789abcdef")


class VersionAnswer(Struct, kw_only=True):
    """A version of a model."""

    id: str
    created_at: str
    cog_version: str = COG_VERSION
    openapi_schema: dict[str, Any]


class ModelAnswer(Struct, kw_only=True):
    """A model."""

    url: str
    owner: str
    name: str
    description: str
    visibility: Literal["private"] = "private"
    github_url: str | None = None
    paper_url: str | None = None
    license_url: str | None = None
    run_count: int = 0
    cover_image_url: str | None = None
    default_example: None = None
    latest_version: VersionAnswer


class _KnownModels(Struct):
    """The models of a fleet."""

    sequence: int
    by_path: dict[str, TypeDefined]
    by_prefix: dict[str, TypeDefined]
    by_version: dict[str, TypeDefined]
    """By the versions that types name in their `model`."""


class ReplicateModels:
    """Finds types by the names and versions of models. A key reaches only the models of its types."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._known = _KnownModels(-1, {}, {}, {})

    async def catch_up(self) -> None:
        """Wait until every definition that was acknowledged is known here."""
        await self._container.fleet.catch_up(self._container.reading)

    def all(self, user: Identity) -> list[TypeDefined]:
        """Return the types that a caller may use, by the path of their models."""
        known = self._current().by_path
        return [known[path] for path in sorted(known) if _may_use(user, known[path])]

    async def named(self, user: Identity, owner: str, name: str) -> TypeDefined:
        """Return the type of a model: the one that has this name, else the type `name`. Raises NotFound."""
        for is_last in (False, True):
            known = self._current()
            found = known.by_path.get(f"{owner}/{name}")
            if found is None:
                definition = self._container.fleet.definition(name)
                found = definition if definition is not None and not definition.model else None
            if found is not None and _may_use(user, found):
                return found
            if not is_last:
                await self.catch_up()
        raise NotFound("model", f"{owner}/{name}")

    async def of_version(self, user: Identity, text: str) -> TypeDefined:
        """Return the type that `version` of a request means. Raises InvalidVersion."""
        path, _, version = text.rpartition(":") if ":" in text else (text, "", "")
        owner, slash, name = path.partition("/")
        try:
            if slash and "/" not in name:
                found = await self.named(user, owner, name)
                return await self._checked(found, version)
            return await self.with_version(user, version or text)
        except NotFound:
            raise InvalidVersion from None

    async def _checked(self, found: TypeDefined, version: str) -> TypeDefined:
        """Return a type unless the version is another's."""
        other = self._current().by_prefix.get(version[:PREFIX_DIGITS])
        if other is not None and other.name != found.name:
            raise InvalidVersion
        return found

    async def with_version(self, user: Identity, version: str) -> TypeDefined:
        """Return the type that a version's id leads to. Raises NotFound."""
        for is_last in (False, True):
            known = self._current()
            found = known.by_version.get(version)
            if found is None and len(version) == VERSION_DIGITS and HEX.issuperset(version):
                found = known.by_prefix.get(version[:PREFIX_DIGITS])
            if found is not None and _may_use(user, found):
                return found
            if not is_last:
                await self.catch_up()
        raise NotFound("version", version)

    async def versions(self, definition: TypeDefined) -> list[ModelVersion]:
        """Return the versions of a type that the log has, newest first. Raises StoreError."""
        history = await self._container.commands.types.history(definition.name)
        return versions_in(stored.recorded for stored in history)

    def _current(self) -> _KnownModels:
        fleet = self._container.fleet
        if self._known.sequence != fleet.sequence:
            definitions = [state.definition for state in fleet.types() if state.definition is not None]
            self._known = _known(definitions, fleet.sequence)
        return self._known


def _known(definitions: Sequence[TypeDefined], sequence: int) -> _KnownModels:
    found = _KnownModels(sequence, {}, {}, {})
    for definition in sorted(definitions, key=lambda each: each.name, reverse=True):
        name = model_name(definition)
        found.by_path[str(name)] = definition
        found.by_prefix[prefix_of(definition.name)] = definition
        if name.version:
            found.by_version[name.version] = definition
    return found


def _may_use(user: Identity, definition: TypeDefined) -> bool:
    return user.types is None or definition.name in user.types


def version_answer(version: ModelVersion) -> VersionAnswer:
    return VersionAnswer(
        id=version.id,
        created_at=iso(version.created_at or EPOCH),
        openapi_schema=openapi_schema(version.definition),
    )


def model_answer(definition: TypeDefined, base: str, since: datetime | None = None) -> ModelAnswer:
    """Return a type as a model. `since`: when its present version began."""
    name = model_name(definition)
    return ModelAnswer(
        url=f"{base}{PREFIX}/models/{name}",
        owner=name.owner,
        name=name.name,
        description=definition.description,
        latest_version=version_answer(ModelVersion(version_id(definition), since, definition)),
    )


def searched(definitions: Sequence[TypeDefined], words: str) -> list[TypeDefined]:
    """Return the types whose model's name or description has every word, MOST_FOUND at most."""
    wanted = words.casefold().split()
    found = []
    for definition in definitions:
        text = f"{model_name(definition)} {definition.name} {definition.description}".casefold()
        if all(word in text for word in wanted):
            found.append(definition)
    return found[:MOST_FOUND]
