"""The models that callers may name: those of types, types by their names, and those that servers say they serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from ....backends.dialects import dialect_of
from ....backends.dialects.openai import OpenAI
from ....commands.task_type import DEFAULT_TYPE
from ....container import Container
from ....instants import whole_seconds
from ....projections.fleet import Fleet
from ...auth.identity import Identity
from .errors import no_such_model

OWNER = "taskstream"


class OfferedModel(Struct, frozen=True, kw_only=True):
    """A model, as OpenAI's API shows it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    """Seconds since the epoch: when the first of its servers was registered; 0: it has none now."""
    owned_by: str = OWNER


class NamedModel(Struct, frozen=True, kw_only=True):
    """What a model's name leads to."""

    model: OfferedModel
    task_type: str


class Models:
    """The models of a fleet, by name. They are found again after each change of the fleet."""

    def __init__(self, container: Container) -> None:
        self._fleet = container.fleet
        self._reading = container.reading
        self._sequence = -1
        self._known: Mapping[str, NamedModel] = {}

    def all(self, user: Identity) -> list[OfferedModel]:
        """Return the models that a caller reaches, sorted by name."""
        known = self._current()
        return [known[name].model for name in sorted(known) if reaches(user, known[name].task_type)]

    async def find(self, name: str, user: Identity) -> NamedModel:
        """Return what a name leads to. Raises OpenAIError, a 404, for a model that nothing serves, or out of reach."""
        if name not in self._current():  # another process may just have defined it
            await self.catch_up()
        found = self.known(name)
        if not reaches(user, found.task_type):
            raise no_such_model(name)
        return found

    async def catch_up(self) -> None:
        """Wait until what other processes have defined is known here."""
        await self._fleet.catch_up(self._reading)

    def known(self, name: str) -> NamedModel:
        """Return what a name leads to, as far as this process knows. Raises as `find` does."""
        found = self._current().get(name)
        if found is None:
            raise no_such_model(name)
        return found

    def _current(self) -> Mapping[str, NamedModel]:
        if self._sequence != self._fleet.sequence:
            self._known, self._sequence = models_of(self._fleet), self._fleet.sequence
        return self._known


def reaches(user: Identity, task_type: str) -> bool:
    """Return True if a caller reaches the tasks of a type: an API key may reach some types only."""
    return user.types is None or task_type in user.types


def models_of(fleet: Fleet) -> dict[str, NamedModel]:
    """Return the models by name. Of one name, a type that is offered under it wins, then a type, then a server's."""
    found: dict[str, NamedModel] = {}
    since: dict[str, int] = {}
    for server in sorted(fleet.servers(), key=lambda each: each.registered_at):
        at = whole_seconds(server.registered_at)
        types = server.settings.types or (DEFAULT_TYPE,)
        for name in types:
            since.setdefault(name, at)
        spoken = [name for name in types if dialect_of(server.settings, fleet.definition(name)).name == OpenAI.name]
        for name in server.models or () if spoken else ():
            found.setdefault(name, NamedModel(model=OfferedModel(id=name, created=at), task_type=spoken[0]))
    definitions = sorted(
        (state.definition for state in fleet.types() if state.definition is not None),
        key=lambda each: (bool(each.model), each.name),  # of two with one name, the type that is offered by it wins
    )
    for definition in definitions:
        name = definition.model or definition.name
        model = OfferedModel(id=name, created=since.get(definition.name, 0))
        found[name] = NamedModel(model=model, task_type=definition.name)
    return found
