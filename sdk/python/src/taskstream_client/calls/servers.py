"""Servers and types, for admins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core import as_list, given, path_of
from ..flow import Flow
from ..models import Server, TaskType, convert
from .call import Async, Part, Sync, call, iterates


class ServerCalls(Part):
    """Servers that do the work. Changes need an admin's token."""

    @call
    def register(
        self,
        server_id: str,
        *,
        predict: str | None = None,
        health: str | None = None,
        name: str | None = None,
        provider: str = "python",
        types: Iterable[str] | None = None,
        max_concurrent: int | None = None,
        labels: Mapping[str, str] | None = None,
        callback: bool | None = None,
        api_key: str | None = None,
        dialect: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Flow[Server]:
        """Register a server, or replace its registration, and return it.

        `predict` is the address that takes tasks; without one, pullers fetch them. `callback`: it may answer at once
        and report later. `settings` has further fields, as the service names them.
        """
        endpoints = given(predict=predict, health=health)
        body = given(
            id=server_id,
            name=name or server_id,
            provider=provider,
            types=as_list(types),
            maxConcurrent=max_concurrent,
            labels=None if labels is None else dict(labels),
            apiKey=api_key,
            dialect=dialect,
        )
        body |= {"endpoints": endpoints} if endpoints else {"mode": "pull"}
        body |= {} if callback is None else {"callback": callback, "async": callback}
        yield from self._core.ask("POST", "/api/servers", body={**body, **(settings or {})})
        return convert((yield from self._core.ask("GET", path_of("servers", server_id))), Server)

    @call
    def get(self, server_id: str) -> Flow[Server]:
        """Return a server."""
        return convert((yield from self._core.ask("GET", path_of("servers", server_id))), Server)

    @iterates(Server)
    def list(self, *, removed: bool | None = None, limit: int | None = None) -> Flow[None]:
        """Iterate over the registered servers, or with `removed` over those that are gone."""
        yield from self._core.items("/api/servers", "servers", Server, {"removed": removed}, limit=limit)

    @call
    def update(self, server_id: str, settings: Mapping[str, Any]) -> Flow[Server]:
        """Change settings of a server, named as the service names them, and return it. None removes a setting."""
        answer = yield from self._core.ask("PATCH", path_of("servers", server_id), body=dict(settings))
        return convert(answer, Server)

    @call
    def delete(self, server_id: str) -> Flow[None]:
        """Remove a server."""
        yield from self._core.ask("DELETE", path_of("servers", server_id))

    @call
    def drain(self, server_id: str, *, reason: str = "") -> Flow[int]:
        """Give a server no further tasks, and return how many it still runs: 0 means that it can be stopped."""
        answer = yield from self._core.ask("POST", path_of("servers", server_id, "drain"), body={"reason": reason})
        return int(answer["running"])

    @call
    def resume(self, server_id: str, *, reason: str = "") -> Flow[None]:
        """Give a drained server tasks again."""
        yield from self._core.ask("POST", path_of("servers", server_id, "resume"), body={"reason": reason})


class TypeCalls(Part):
    """Task types and their settings. Changes need an admin's token."""

    @call
    def define(self, name: str, settings: Mapping[str, Any] | None = None) -> Flow[TaskType]:
        """Set the settings of a type, named as the service names them, and return it."""
        return convert((yield from self._core.ask("PUT", path_of("types", name), body=dict(settings or {}))), TaskType)

    @call
    def get(self, name: str) -> Flow[TaskType]:
        """Return a type."""
        return convert((yield from self._core.ask("GET", path_of("types", name))), TaskType)

    @iterates(TaskType)
    def list(self, *, limit: int | None = None) -> Flow[None]:
        """Iterate over the types."""
        yield from self._core.items("/api/types", "types", TaskType, {}, limit=limit)

    @call
    def delete(self, name: str) -> Flow[None]:
        """Return a type to the defaults of the service."""
        yield from self._core.ask("DELETE", path_of("types", name))


class Servers(ServerCalls, Sync):
    """Servers that do the work. Changes need an admin's token."""


class AsyncServers(ServerCalls, Async):
    """Servers that do the work. Changes need an admin's token."""


class Types(TypeCalls, Sync):
    """Task types and their settings. Changes need an admin's token."""


class AsyncTypes(TypeCalls, Async):
    """Task types and their settings. Changes need an admin's token."""
