"""The route that tells callers who they are."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version

from ...clock import utc_now
from ...instants import from_seconds, iso
from ..auth.access import READERS_OF_ALL, SUBMITTERS, ApiRequest
from ..auth.authenticator import Identity
from ..auth.narrowing import CALLER, narrows
from ..auth.roles import ROLES
from ..routing import RouteHandler, Routes
from ..schemas.me import Me, Permissions


def described(caller: Identity, release: str, now: datetime) -> Me:
    """Return what a caller is told about itself."""
    return Me(
        subject=caller.subject,
        roles=sorted(caller.roles.intersection(ROLES)),
        expires_at=iso(from_seconds(caller.expires_at)),
        server_time=iso(now),
        version=release,
        key=caller.key_id or None,
        types=None if caller.types is None else sorted(caller.types),
        may=Permissions(
            submit=caller.has(*SUBMITTERS),
            read_all=caller.has(*READERS_OF_ALL),
            administer=caller.has("admin"),
            read_payloads=caller.has(*READERS_OF_ALL) and caller.payloads,
        ),
    )


def me_routes() -> list[RouteHandler]:
    routes = Routes("/me", "Service")
    release = version("taskstream")

    @routes.get("/", "Read who you are", "The caller", opt=narrows(CALLER))
    async def get_me(request: ApiRequest) -> Me:
        """Return the caller's name, roles and permissions, when the token ends, and the server's time and version."""
        return described(request.user, release, utc_now())

    return routes.handlers
