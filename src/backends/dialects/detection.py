"""What a server speaks, found by harmless requests. Pure: `backends.detection` does the I/O.

The first sign in the order of PROBES decides. No probe calls a model: `/health` of LiteLLM does, and `/openapi.json` is
there on servers of any kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msgspec

from ...events.server import DetectionEvidence, ServerRegistered
from .dialect import Request, auth_headers
from .oip import place_of
from .reasons import shortened

LONGEST_SIGN = 200
"""Characters of what a probe found."""
LONGEST_PROGRAM = 100
"""Characters of a program's name and version."""
_MARKS = re.compile(
    r"/(?:v[0-9]+|api|sdapi|openai|predictions?|predict|embed|embed_sparse|rerank|prompt|gradio_api|call|config|info)(?:/|$)"
)
"""Where the path of a known API begins."""
_KSERVE_V1 = re.compile(r"/v1/models/[^/]+:(?:predict|explain)$")


class Finding(NamedTuple):
    """What a server was found to speak."""

    dialect: str
    """Empty: the program is known, and no dialect speaks to it as it is registered."""
    preset: str = ""
    """The settings that fit the program; empty: none are needed."""
    program: str = ""
    """Its name and version, as it says."""
    problem: str = ""
    """Why there is no dialect."""


Read: TypeAlias = Callable[[dict[str, Any], ServerRegistered], Finding | None]


class _Probe(NamedTuple):
    path: str
    read: Read
    """Returns a finding for the JSON object of a 2xx; None if the sign is missing."""
    sign: str
    after: str = ""
    """Asked only if the probe of this path had its sign."""


def _cog(content: dict[str, Any], _: ServerRegistered) -> Finding | None:
    version = content.get("cog_version")
    return Finding("cog", program=f"Cog {version}") if isinstance(version, str) else None


def _oip(content: dict[str, Any], server: ServerRegistered) -> Finding | None:
    """KServe serves both of its protocols: the predict path says which is meant."""
    name, version = content.get("name"), content.get("version")
    is_named = isinstance(name, str) and isinstance(version, str)
    if not (is_named or isinstance(content.get("extensions"), list)):
        return None
    program = f"{name} {version}" if is_named else ""
    if _KSERVE_V1.search(urlsplit(server.predict_url).path):
        return Finding("bare", "kserve-v1", program)
    if place_of(server).model:
        return Finding("oip", program=program)
    return Finding("", program=program, problem=NO_MODEL)


def _info(content: dict[str, Any], server: ServerRegistered) -> Finding | None:
    of_server = content.get("server")
    if isinstance(of_server, dict) and "workers_per_device" in of_server:
        return Finding("openai" if _is_openai(server) else "bare", program="LitServe")
    return _tei(content, server)


def _tei(content: dict[str, Any], server: ServerRegistered) -> Finding | None:
    if not isinstance(content.get("model_id"), str) or "max_client_batch_size" not in content:
        return None
    if "max_best_of" in content:
        return None  # text-generation-inference, which has /v1/models
    program = f"text-embeddings-inference {_text(content.get('version'))}".strip()
    return Finding("openai", program=program) if _is_openai(server) else Finding("bare", "tei", program)


def _ollama_version(content: dict[str, Any], _: ServerRegistered) -> Finding | None:
    return Finding("") if isinstance(content.get("version"), str) else None


def _ollama(content: dict[str, Any], server: ServerRegistered) -> Finding | None:
    if not isinstance(content.get("models"), list):
        return None
    path = urlsplit(server.predict_url).path
    if "/api/" not in path:
        return Finding("openai", program="Ollama")
    name = path.rstrip("/").rpartition("/")[2]
    return Finding("bare", f"ollama-{name}" if name in ("chat", "generate") else "", "Ollama")


def _comfyui(content: dict[str, Any], server: ServerRegistered) -> Finding | None:
    system = content.get("system")
    version = system.get("comfyui_version") if isinstance(system, dict) else None
    if not isinstance(version, str):
        return None
    if urlsplit(server.predict_url).path.endswith("/prompt"):
        return Finding("bare", "comfyui", f"ComfyUI {version}")
    return Finding("", program=f"ComfyUI {version}", problem="`endpoints.predict` must be …/api/prompt")


def _gradio(content: dict[str, Any], server: ServerRegistered) -> Finding | None:
    version = content.get("version")
    if not isinstance(version, str) or not isinstance(content.get("components"), list):
        return None
    if "/call/" in urlsplit(server.predict_url).path:
        return Finding("bare", "gradio-call", f"Gradio {version}")
    return Finding("", program=f"Gradio {version}", problem="`endpoints.predict` must be …/gradio_api/call/{name}")


def _a1111(content: dict[str, Any], server: ServerRegistered) -> Finding | None:
    if not content:
        return None
    program = "Stable Diffusion web UI"
    if "/sdapi/" in urlsplit(server.predict_url).path:
        return Finding("bare", "a1111", program)
    return Finding("", program=program, problem="`endpoints.predict` must be as in …/sdapi/v1/txt2img")


def _openai(content: dict[str, Any], _: ServerRegistered) -> Finding | None:
    models = content.get("data")
    if content.get("object") != "list" or not isinstance(models, list):
        return None
    first = models[0] if models and isinstance(models[0], dict) else {}
    return Finding("openai", program=_text(first.get("owned_by")))


NO_DIALECT = "no dialect speaks to it"
NO_MODEL = "its registration names no model: `endpoints.predict` must be …/v2/models/{model}/infer"
PROBES: tuple[_Probe, ...] = (
    _Probe("/", _cog, "JSON with `cog_version`"),
    _Probe("/v2", _oip, "JSON with `extensions`, or `name` and `version`"),
    _Probe("/info", _info, "JSON with `model_id` and `max_client_batch_size`, or of LitServe"),
    _Probe("/api/version", _ollama_version, "JSON with `version`"),
    _Probe("/api/tags", _ollama, "JSON with `models`", after="/api/version"),
    _Probe("/system_stats", _comfyui, "JSON with `system.comfyui_version`"),
    _Probe("/config", _gradio, "JSON with `version` and `components`"),
    _Probe("/sdapi/v1/cmd-flags", _a1111, "a JSON object"),
    _Probe("/v1/models", _openai, "JSON with `object` `list`"),
)
"""In the order in which they are asked. Ollama and TEI have `/v1/models`, too."""


def base_of(url: str) -> str:
    """Return the address that probes are relative to: what comes before a known API, or the folder of the path.

    `http://h/team/v2/models/m/infer` and `http://h/team/`: `http://h/team`; `http://h/predict`: `http://h`.
    """
    parts = urlsplit(url)
    mark = _MARKS.search(parts.path)
    path = parts.path[: mark.start()] if mark else parts.path.rpartition("/")[0]
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/')}"


class Detection:
    """The probes of one server, one after another: send `request`, then give its answer to `read` or `missed`."""

    def __init__(self, server: ServerRegistered, api_key: str | None, dialects: Container[str]) -> None:
        """`dialects`: the names of those that exist."""
        self._server = server
        self._dialects = dialects
        self._headers = {"Accept": "application/json", **auth_headers(server, api_key)}
        self._left = list(PROBES)
        self._signs: set[str] = set()
        self.finding: Finding | None = None
        self.evidence: list[DetectionEvidence] = []

    def request(self) -> Request | None:
        """Return the next request; None once the server is found out, or nothing is left to ask."""
        while self.finding is None and self._left:
            probe = self._left[0]
            if probe.after and probe.after not in self._signs:
                self._left.pop(0)
                continue
            return Request(method="GET", url=base_of(self._server.predict_url) + probe.path, headers=self._headers)
        return None

    def read(self, status: int, body: bytes) -> None:
        """Take the answer to the last request."""
        probe = self._left.pop(0)
        content = _object_in(body) if 200 <= status < 300 else None
        found = None if content is None else probe.read(content, self._server)
        if found is None:
            what = "no JSON object" if 200 <= status < 300 and content is None else ""
            self.evidence.append(DetectionEvidence(path=probe.path, status=status, sign=what))
            return
        self._signs.add(probe.path)
        found = found._replace(program=shortened(_in_line(found.program), LONGEST_PROGRAM))
        if found.dialect and found.dialect not in self._dialects:
            found = found._replace(dialect="", problem=NO_DIALECT)
        sign = f"{probe.sign}: {found.program}" if found.program else probe.sign
        self.evidence.append(DetectionEvidence(path=probe.path, status=status, sign=shortened(sign, LONGEST_SIGN)))
        if found != Finding(""):
            self.finding = found

    def missed(self, why: str) -> None:
        """Record that the last request got no answer that can be read."""
        probe = self._left.pop(0)
        self.evidence.append(DetectionEvidence(path=probe.path, status=0, sign=shortened(why, LONGEST_SIGN)))

    @property
    def is_answered(self) -> bool:
        """True if the server has answered at least one request."""
        return any(one.status for one in self.evidence)

    @property
    def problem(self) -> str:
        """Why no dialect was detected, for the server's status; empty if one was."""
        if self.finding is not None:
            if self.finding.dialect:
                return ""
            return f"{self.finding.program or 'the server'} was found, but {self.finding.problem}"
        if not self.is_answered:
            return self.evidence[-1].sign if self.evidence else "it was not asked"
        refused = {one.status for one in self.evidence} & {401, 403}
        asked = ", ".join(f"{one.path} ({one.status or 'no answer'})" for one in self.evidence)
        what = "it refuses the API key, or needs one" if refused else "none of the known signs"
        return f"{what}: {asked}; name its `dialect`"


def _object_in(body: bytes) -> dict[str, Any] | None:
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return content if isinstance(content, dict) else None


def _in_line(text: str) -> str:
    """Return a text that a server chose on one line, of printable characters."""
    return " ".join("".join(each if each.isprintable() else " " for each in text[: 4 * LONGEST_PROGRAM]).split())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _is_openai(server: ServerRegistered) -> bool:
    return "/v1" in urlsplit(server.predict_url).path
