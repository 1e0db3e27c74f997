"""Registrations of servers: what admins send, and the commands and sealed keys that it leads to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple, replace

from ..backends.call_headers import is_in_use
from ..backends.dialects import dialect_of
from ..backends.dialects.oip import Oip, place_of
from ..backends.egress import EgressPolicy
from ..backends.exchange_body import ExchangeBody
from ..backends.exchange_form import check_exchange, stored_exchange
from ..backends.presets import Preset, expanded, presets
from ..clock import utc_now
from ..commands.handler import Handled
from ..commands.server import (
    AUTO,
    ChangeServer,
    Present,
    RegisterServer,
    ServerChange,
    ServerCommand,
    ServerState,
    settings_of,
)
from ..container import Container
from ..errors import ApiKeyReplaced, InvalidInput, NotFound, Refused
from ..events.exchange import BareExchange
from ..events.server import Overflow, ServerEvent, ServerRegistered
from ..submission.body import parse_json_object
from ..wire.addresses import BadAddress
from ..wire.validation_errors import nearest
from .auth.access import ApiRequest, Origin
from .bodies import decoded_as, read_body
from .schemas.dialects import read_server_dialect
from .schemas.servers import (
    PRESENT_STATE,
    Endpoints,
    EndpointsChange,
    OverflowBody,
    RegisterBody,
    ServerPatch,
    expectation,
)

KEY_RACES = 5
"""Tries to name an API key that other requests replace at the same time."""
FIELDS = {field.name: field.encode_name for field in msgspec.structs.fields(RegisterBody)} | {
    "api_key_id": "apiKey",
    "is_permanent": "removeAfter",
    "finds_models": "models",
}
"""Fields of a registration as clients name them."""
RESETTABLE = {field.encode_name for field in msgspec.structs.fields(RegisterBody) if not field.required}


async def command_server(
    container: Container, server_id: str, command: ServerCommand, signed: Origin
) -> Handled[ServerState, ServerEvent]:
    """Give a command, and wait until this process has read its events. Raises NotFound."""
    try:
        handled = await container.commands.servers.handle(server_id, command, **signed)
    except NotFound:
        raise NotFound("server", server_id) from None  # the log cannot name a server that it does not have
    await container.fleet.reached(handled.known.sequence)
    return handled


async def find_server(container: Container, server_id: str) -> Present:
    """Return a server as it is in the log. Raises NotFound."""
    state = (await container.commands.servers.load(server_id)).state
    if not isinstance(state, Present):
        raise NotFound("server", server_id)
    return state


async def read_registration(request: ApiRequest, max_depth: int) -> tuple[RegisterBody, frozenset[str]]:
    """Return a registration and the names of its fields, without those of a server's present state.

    A preset is expanded. Raises InvalidInput.
    """
    body = (await read_body(request)).strip() or b"{}"
    given = parse_json_object(body, max_depth)
    settings = whole_registration(given)
    if settings != given:
        body = msgspec.json.encode(settings)
    return decoded_as(body, RegisterBody, max_depth), frozenset(settings)


def whole_registration(given: dict[str, Any]) -> dict[str, Any]:
    """Return a registration without a server's present state, and with its preset expanded. Raises InvalidInput."""
    settings = {name: value for name, value in given.items() if name not in PRESENT_STATE}
    if settings.get("preset") is not None:
        settings = expanded(settings, _preset(settings["preset"]))
    return settings


async def register(container: Container, body: RegisterBody, given: Collection[str], signed: Origin) -> list[str]:
    """Register a server, or replace the one with its id, and start its first check. Raises InvalidInput.

    `given`: the names of the fields that were sent. Returns those that were not and had other values before.
    """
    registered = await read_settings(container, body)

    def registration(key_id: str, is_kept: bool) -> RegisterServer:
        return RegisterServer(settings=replace(registered, api_key_id=key_id), keeps_key=is_kept)

    handled = await command_with_key(container, body.id, body.api_key, registration, signed)
    assert isinstance(handled.known.state, Present)
    registered = handled.known.state.settings
    before = await settings_before(container, body.id, handled)
    await replaced(container, before, registered.api_key_id)
    await check_soon(container, body.id, handled.known.sequence)
    return [] if before is None else reset_fields(before, registered, given)


async def read_settings(container: Container, body: RegisterBody) -> ServerRegistered:
    """Return the settings that a registration means, without its API key. Raises InvalidInput."""
    predict, health = endpoints_of(body)
    if predict:
        await check_url(container.egress, predict, "$.endpoints.predict")
    if health:
        await check_url(container.egress, health, "$.endpoints.health")
    settings = ServerRegistered(
        server_id=body.id,
        name=body.name,
        provider=body.provider,
        predict_url=predict,
        health_url=health,
        is_async=body.is_async,
        callback=body.callback,
        types=distinct(body.types),
        max_concurrent=body.max_concurrent,
        weight=body.weight,
        labels=body.labels,
        overflow=_overflow(body.overflow),
        busy_status=statuses(body.busy_status),
        auth_header=auth_header(body.auth_header),
        health_auth=body.health_auth,
        health_expect=expectation(body.health_expect),
        remove_after=removal(body.remove_after),
        is_permanent=body.remove_after is None,
        dialect=read_server_dialect(body.dialect),
        model=body.model or "",
        mode=body.mode,
        exchange=_exchange(body.exchange, body.auth_header),
        preset=body.preset or "",
        models=_listed(body.models),
        finds_models=body.models == "discover",
    )
    check_model(settings)
    check_models(settings)
    check_pulled(settings, has_key=body.api_key is not None)
    check_exchange(settings)
    return settings


async def change(container: Container, server_id: str, body: ServerPatch, signed: Origin) -> None:
    """Change settings of a server, and check it. Raises NotFound and InvalidInput."""
    endpoints = body.endpoints if isinstance(body.endpoints, EndpointsChange) else EndpointsChange()
    if body.mode == "pull" and body.endpoints is UNSET:
        removed: dict[str, Any] = {"predict_url": "", "health_url": None}
    else:
        removed = {}
    for name, url in (("predict", endpoints.predict), ("health", endpoints.health)):
        if isinstance(url, str):
            await check_url(container.egress, url, f"$.endpoints.{name}")
    changes: dict[str, Any] = {
        "name": body.name,
        "provider": body.provider,
        "predict_url": endpoints.predict,
        "health_url": endpoints.health,
        "is_async": body.is_async,
        "callback": body.callback,
        "types": _read(body.types, distinct),
        "max_concurrent": body.max_concurrent,
        "weight": body.weight,
        "labels": body.labels,
        "overflow": _read(body.overflow, _overflow),
        "busy_status": _read(body.busy_status, statuses),
        "auth_header": _read(body.auth_header, auth_header),
        "health_auth": body.health_auth,
        "health_expect": _read(body.health_expect, expectation),
        "remove_after": _read(body.remove_after, removal),
        "is_permanent": _read(body.remove_after, lambda seconds: seconds is None),
        "dialect": _read(body.dialect, read_server_dialect),
        "model": _read(body.model, lambda name: name or ""),
        "mode": body.mode,
        "models": _read(body.models, _listed),
        "finds_models": _read(body.models, lambda models: models == "discover"),
        **removed,
    }
    current = await find_server(container, server_id)  # before a key is sealed for it
    if body.exchange is not UNSET:
        header = current.settings.auth_header if body.auth_header is UNSET else body.auth_header
        changes |= {"exchange": _exchange(body.exchange, header), "preset": ""}
    change = ServerChange(**changes)
    changed = change.of(current.registered)
    check_model(changed)
    check_models(changed)
    check_pulled(changed, has_key=isinstance(body.api_key, str))
    check_exchange(changed)

    def changing(key_id: str, is_kept: bool) -> ChangeServer:
        return ChangeServer(change=replace(change, api_key_id=key_id), keeps_key=is_kept)

    if body.api_key is UNSET:
        handled = await command_server(container, server_id, ChangeServer(change=change), signed)
    else:
        handled = await command_with_key(container, server_id, body.api_key, changing, signed)
    if handled.appended:
        assert isinstance(handled.known.state, Present)
        before = await settings_before(container, server_id, handled)
        await replaced(container, before, handled.known.state.settings.api_key_id)
        await check_soon(container, server_id, handled.known.sequence)


async def command_with_key(
    container: Container,
    server_id: str,
    api_key: str | None,
    command: Callable[[str, bool], ServerCommand],
    signed: Origin,
) -> Handled[ServerState, ServerEvent]:
    """Seal an API key and give the command that names it. Raises what the command raises; then no key is left behind.

    `command`: returns the command for the id of the key (empty: none) and whether this is the present key's: the same
    key is sealed once. If another request replaces that meanwhile, which destroys it, the key is sealed again.
    """
    for tries_left in reversed(range(KEY_RACES)):
        current = settings_of((await container.commands.servers.load(server_id)).state)
        current_id = current.api_key_id if current else ""
        key_id = "" if api_key is None else await container.secrets.put(server_id, api_key, current_id)
        is_kept = bool(key_id) and key_id == current_id
        try:
            handled = await command_server(container, server_id, command(key_id, is_kept), signed)
        except ApiKeyReplaced:
            if tries_left:
                continue
            raise
        except Refused:
            if not is_kept:
                await container.secrets.destroy(server_id, key_id)
            raise
        named = settings_of(handled.known.state)
        if not is_kept and (named is None or named.api_key_id != key_id):  # nothing was to be done
            await container.secrets.destroy(server_id, key_id)
        return handled
    raise AssertionError("the last try has raised")


async def settings_before(
    container: Container, server_id: str, handled: Handled[ServerState, ServerEvent]
) -> ServerRegistered | None:
    """Return the settings that a command replaced, None if it replaced none."""
    if not handled.appended:
        return None
    first = handled.appended[0].sequence
    servers = container.commands.servers
    history = [stored for stored in await servers.history(server_id) if stored.sequence < first]
    return settings_of(servers.fold(history).state)


async def replaced(container: Container, before: ServerRegistered | None, key_id: str) -> None:
    """Destroy the API key of replaced settings, unless it is still in use."""
    if before is not None and before.api_key_id != key_id:
        await container.secrets.destroy(before.server_id, before.api_key_id)


async def check_soon(container: Container, server_id: str, sequence: int) -> None:
    """Have a server checked now, by a worker that knows the event at `sequence`."""
    await container.timers.check_server(server_id, utc_now(), msgspec.json.encode({"sequence": sequence}))


async def check_url(policy: EgressPolicy, url: str, path: str) -> None:
    """Raise InvalidInput, with the path in the body, unless the policy allows this address."""
    try:
        await policy.check_url(url)
    except BadAddress as error:
        raise InvalidInput(str(error), path) from None


def endpoints_of(body: RegisterBody) -> tuple[str, str | None]:
    """Return the addresses of a registration; empty and None for a pulled server. Raises InvalidInput."""
    endpoints = body.endpoints
    if isinstance(endpoints, Endpoints):
        return endpoints.predict, endpoints.health
    if body.mode == "push":
        raise InvalidInput("is required, unless `mode` is `pull`", "$.endpoints")
    return "", None


def check_pulled(settings: ServerRegistered, *, has_key: bool) -> None:
    """Raise InvalidInput if a pulled server has a setting that only calls need, or another has no address."""
    if not settings.is_pulled:
        if not settings.predict_url:
            raise InvalidInput("is required, unless `mode` is `pull`", "$.endpoints.predict")
        return
    given = {
        "endpoints": settings.predict_url or settings.health_url,
        "async": settings.is_async,
        "callback": settings.callback,
        "apiKey": has_key,
        "authHeader": settings.auth_header,
        "busyStatus": settings.busy_status is not None,
        "preset": settings.preset,
        "dialect": settings.dialect or settings.exchange is not None,
        "model": settings.model,
        "models": settings.finds_models,
        "healthAuth": settings.health_auth,
        "healthExpect": settings.health_expect is not None,
    }
    for name, value in given.items():
        if value:
            raise InvalidInput("must be left out: a server with `mode: pull` is never called", f"$.{name}")


def reset_fields(before: ServerRegistered, after: ServerRegistered, given: Collection[str]) -> list[str]:
    """Return the fields that a registration left out, and thereby set to their defaults."""
    values = zip(ServerRegistered.__struct_fields__, astuple(before), astuple(after), strict=True)
    names = {FIELDS.get(name, name) for name, old, new in values if old != new}
    return sorted(names & RESETTABLE - set(given)) + ["endpoints.health"] * (
        before.health_url is not None and after.health_url is None
    )


def check_model(settings: ServerRegistered) -> None:
    """Raise InvalidInput if a server needs the name of a model and has none, or has one without a use for it."""
    if settings.dialect == Oip.name and not place_of(settings).model:
        raise InvalidInput(
            "must name the model, as in …/v2/models/{model}/infer; or set `model`", "$.endpoints.predict"
        )
    if settings.model and settings.dialect not in ("", Oip.name, AUTO):
        raise InvalidInput(f"is only for servers of the dialect `{Oip.name}`", "$.model")


def check_models(settings: ServerRegistered) -> None:
    """Raise InvalidInput if a server is to be asked for its models, and its dialect has no such request."""
    if settings.finds_models and settings.dialect != AUTO and dialect_of(settings).list_models(settings, None) is None:
        raise InvalidInput("`discover` needs a `dialect` that lists models, such as `openai`; name them", "$.models")


def _listed(models: str | list[str] | None) -> tuple[str, ...] | None:
    """Return the models that a registration names, None if it names none."""
    return tuple(sorted(set(models))) if isinstance(models, list) else None


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def statuses(given: Iterable[int] | None) -> tuple[int, ...] | None:
    return None if given is None else tuple(sorted(set(given)))


def removal(seconds: float | UnsetType | None) -> timedelta | None:
    return timedelta(seconds=seconds) if isinstance(seconds, int | float) else None


def auth_header(name: str | None) -> str:
    """Return the header that carries the API key, empty for the default. Raises InvalidInput for one in use."""
    if name is not None and is_in_use(name.lower()):
        raise InvalidInput(
            "must not be a header that calls use for another purpose: name one for the key, such as X-API-Key",
            "$.authHeader",
        )
    return name or ""


def _exchange(body: ExchangeBody | None, key_header: str | None) -> BareExchange | None:
    return None if body is None else stored_exchange(body, (key_header or "Authorization").lower())


def _preset(name: Any) -> Preset:
    if not isinstance(name, str) or name not in presets():
        guess = nearest(name, presets()) if isinstance(name, str) else f"; known: {', '.join(presets())}"
        raise InvalidInput(f"must be the name of a preset{guess}", "$.preset")
    return presets()[name]


def _read(given: Any, read: Callable[[Any], Any]) -> Any:
    """Return what a field of a change is read as; UNSET if it is left out."""
    return UNSET if given is UNSET else read(given)


def _overflow(body: OverflowBody | None) -> Overflow | None:
    if body is None:
        return None
    if body.waiting is None and body.oldest is None:
        raise InvalidInput("must have `waiting`, `oldest` or both: when the server takes work", "$.overflow")
    return Overflow(waiting=body.waiting, oldest=timedelta(seconds=body.oldest) if body.oldest is not None else None)
