"""Recorded exchanges of real clients, sent to the real service again.

A recording is a list of requests with the answers that the client was content with. What it names (ids, URLs) is
replaced by what the service answered in their place, as soon as it has. The answers must have the recorded shape:
status, media type, and in JSON every recorded key with a value of the same kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from testkit.service import Client

RECORDED = Path(__file__).parent / "recorded"
TOKEN = "TOKEN"
"""Stands for the token of the client."""
API = "/v1/"
"""Beginning of the recorded paths that have routes here. Other URLs, and pages of lists, are those in answers."""
_KINDS = {
    "URL": re.compile(r"https?://\S+"),
    "data URI": re.compile(r"data:\S+"),
    "instant": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)"),
}


class Exchange(NamedTuple):
    """A request and the answer to it, as recorded."""

    method: str
    url: str
    """Path and query."""
    host: str
    headers: Mapping[str, str]
    body: Any
    status: int
    media_type: str
    answer: Any


def recording(name: str) -> list[Exchange]:
    """Return the exchanges of a recording, such as `replicate/run`."""
    found = []
    for each in json.loads((RECORDED / f"{name}.json").read_text()):
        request, reply = each["request"], each["reply"]
        found.append(
            Exchange(
                request["method"], request["url"], request["host"], request["headers"], request["body"],
                reply["status"], reply["content_type"], reply["body"],
            )
        )  # fmt: skip
    return found


def recordings(client: str) -> list[str]:
    """Return the names of all recordings of a client."""
    return sorted(f"{client}/{file.stem}" for file in (RECORDED / client).glob("*.json"))


class Replay:
    """Sends recorded requests as one user of a service."""

    def __init__(
        self,
        client: Client,
        prefix: str,
        known: Mapping[str, str],
        *,
        opaque: Collection[str] = (),
        missing: Collection[str] = (),
    ) -> None:
        """`prefix`: of the paths here. `known`: recorded texts and what stands for them here.

        `opaque`: keys whose values may be of any kind. `missing`: keys, as in `a.b`, that the service has not.
        """
        self._client = client
        self._prefix = prefix
        self._known = dict(known)
        self._opaque = frozenset(opaque)
        self._missing = frozenset(missing)

    def stand_for(self, recorded: str, here: str) -> None:
        """Send a text in the place of a recorded one."""
        self._known[recorded] = here

    async def run(self, exchanges: Sequence[Exchange]) -> list[str]:
        """Send the requests in order; return how the answers differ from the recorded ones."""
        wrong = []
        for exchange in exchanges:
            url = self._url(exchange)
            if not url.startswith("http"):  # a data URI: there is nothing to ask
                continue
            bearer = self._client.bearer or ""
            headers = {name: value.replace(TOKEN, bearer) for name, value in exchange.headers.items()}
            body = self._body(exchange.body)
            session = self._client.session
            async with session.request(exchange.method, url, headers=headers, data=body) as response:
                raw = await response.read()
                told = f"{exchange.method} {exchange.url}"
                if response.status != exchange.status:
                    wrong.append(f"{told}: {response.status} instead of {exchange.status}: {raw[:300]!r}")
                    continue
                if exchange.status == 204:
                    continue
                if response.content_type != exchange.media_type:
                    wrong.append(f"{told}: {response.content_type} instead of {exchange.media_type}")
            if exchange.media_type == "application/json":
                answer = json.loads(raw)
                wrong += [f"{told}: {each}" for each in self._differences("$", exchange.answer, answer)]
                self._learn(exchange.answer, answer)
        return wrong

    def _url(self, exchange: Exchange) -> str:
        """Return the URL here: one that an answer gave, else the recorded path under our prefix."""
        is_route = exchange.url.startswith(API) and "?" not in exchange.url
        for scheme in () if is_route else ("http", "https"):
            if (found := self._known.get(f"{scheme}://{exchange.host}{exchange.url}")) is not None:
                return found
        return f"{self._client.url}{self._prefix}{self._replaced(exchange.url)}"

    def _body(self, body: Any) -> bytes | None:
        if body is None:
            return None
        return self._replaced(body if isinstance(body, str) else json.dumps(body)).encode()

    def _replaced(self, text: str) -> str:
        for recorded in sorted(self._known, key=len, reverse=True):
            text = text.replace(recorded, self._known[recorded])
        return text

    def _learn(self, recorded: Any, answered: Any) -> None:
        """Remember what the service answered in the place of recorded ids and URLs."""
        match recorded, answered:
            case dict(), dict():
                for name, value in recorded.items():
                    if name == "id" and isinstance(value, str):
                        self._known.setdefault(value, answered.get(name, value))
                    self._learn(value, answered.get(name))
            case list(), list():
                for value, other in zip(recorded, answered, strict=False):
                    self._learn(value, other)
            case str(), str() if _KINDS["URL"].fullmatch(recorded):
                self._known[recorded] = answered

    def _differences(self, path: str, recorded: Any, answered: Any) -> list[str]:
        if recorded is None or answered is None or path.rpartition(".")[2] in self._opaque:
            return []
        if _kind(recorded) != _kind(answered):
            return [f"{path} is {_kind(answered)} instead of {_kind(recorded)}"]
        found = []
        if isinstance(recorded, dict):
            for name, value in recorded.items():
                below = f"{path}.{name}"
                if name in answered:
                    found += self._differences(below, value, answered[name])
                elif below.removeprefix("$.") not in self._missing:
                    found.append(f"{below} is missing")
        elif isinstance(recorded, list) and recorded and answered:
            found += self._differences(f"{path}[0]", recorded[0], answered[0])
        return found


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(value)), "text")
        case list():
            return "list"
        case _:
            return "object"
