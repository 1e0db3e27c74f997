"""A puller of a test: it takes attempts of a pulled server over HTTP, and reports on them."""

from __future__ import annotations

from typing import Any

from .service import Answer, Client


async def register_pulled(admin: Client, server_id: str = "site-b", **more: Any) -> None:
    """Register a pulled server."""
    body = {"id": server_id, "name": server_id, "provider": "test", "mode": "pull", **more}
    await admin.done("POST", "/api/servers", body)


class Puller:
    """Asks as one server, with a token of the role `service`."""

    def __init__(self, client: Client, server_id: str = "site-b") -> None:
        self.client = client
        self.server_id = server_id

    async def take(self, *, most: int = 1, wait: float = 20.0, **more: Any) -> list[dict[str, Any]]:
        """Take up to so many attempts; return them when there is one, or after the wait."""
        body = {"server": self.server_id, "max": most, "wait": wait, **more}
        found: list[dict[str, Any]] = (await self.client.done("POST", "/api/attempts/take", body))["attempts"]
        return found

    async def one(self, **more: Any) -> dict[str, Any]:
        """Take one attempt. Raises AssertionError if there is none within the wait."""
        found = await self.take(**more)
        assert len(found) == 1, f"{len(found)} attempts"
        return found[0]

    async def say(self, taken: dict[str, Any], what: str, body: Any = None) -> Answer:
        """Send a report on an attempt, such as `renew` or `done`."""
        headers = {"Authorization": f"Bearer {taken['token']}"}
        return await self.client.post(f"/api/attempts/{taken['attempt']}/{what}", body, headers=headers)

    async def told(self, taken: dict[str, Any], what: str, body: Any = None) -> str:
        """Send a report; return the status in the answer: `running`, `recorded` or `gone`."""
        answer = await self.say(taken, what, body)
        assert answer.status == 200, f"{what} was answered {answer}"
        return str(answer["status"])
