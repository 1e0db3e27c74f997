"""Detection: which sign means which dialect, and what is never asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.backends.dialects.detection import PROBES, Detection, base_of
from taskstream.backends.dialects.dialect import Request
from taskstream.events.server import ServerRegistered

from .recorded_answers import RECORDED

DIALECTS = ("bare", "cog", "oip", "openai")
TEI = {"model_id": "b", "max_client_batch_size": 32}
OLLAMA = {"/api/version": {"version": "0.9"}, "/api/tags": {"models": []}}
COMFYUI = {"/system_stats": {"system": {"comfyui_version": "0.3"}}}
GRADIO = {"/config": {"version": "5.1", "components": []}}
LISTED = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm"}]}


def server_at(path: str = "/", **more: Any) -> ServerRegistered:
    return ServerRegistered(server_id="s1", name="", provider="", predict_url=f"http://h:1{path}", **more)


def asked(answers: dict[str, Any], server: ServerRegistered | None = None) -> Detection:
    """Return a detection after the answers of a server, by path: JSON for a 200, a status alone, None for none."""
    detection = Detection(server or server_at(), None, DIALECTS)
    while (request := detection.request()) is not None:
        answer = answers.get(request.url.removeprefix("http://h:1"), 404)
        if answer is None:
            detection.missed("no answer in 2 s")
        elif isinstance(answer, int):
            detection.read(answer, b"")
        else:
            detection.read(200, answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    return detection


@pytest.mark.parametrize(
    ("answers", "path", "dialect", "preset", "program"),
    [
        ({"/": {"docs_url": "/docs", "cog_version": "0.23.0"}}, "/", "cog", "", "Cog 0.23.0"),
        ({"/v2": {"name": "triton", "version": "2.40.0"}}, "/v2/models/m/infer", "oip", "", "triton 2.40.0"),
        ({"/info": TEI}, "/embed", "bare", "tei", "text-embeddings-inference"),
        ({"/info": TEI}, "/v1/embeddings", "openai", "", "text-embeddings-inference"),
        ({**OLLAMA, "/v1/models": LISTED}, "/", "openai", "", "Ollama"),
        (OLLAMA, "/api/chat", "bare", "ollama-chat", "Ollama"),
        (OLLAMA, "/api/generate", "bare", "ollama-generate", "Ollama"),
        (OLLAMA, "/api/embed", "bare", "", "Ollama"),
        (COMFYUI, "/api/prompt", "bare", "comfyui", "ComfyUI 0.3"),
        (GRADIO, "/gradio_api/call/predict", "bare", "gradio-call", "Gradio 5.1"),
        ({"/v2": {"name": "kserve", "version": "1"}}, "/v1/models/m:predict", "bare", "kserve-v1", "kserve 1"),
        ({"/sdapi/v1/cmd-flags": {"api": True}}, "/sdapi/v1/txt2img", "bare", "a1111", "Stable Diffusion web UI"),
        ({"/v1/models": LISTED}, "/v1/chat/completions", "openai", "", "vllm"),
        ({"/info": {**TEI, "max_best_of": 2}, "/v1/models": LISTED}, "/", "openai", "", "vllm"),
    ],
)  # fmt: skip
def test_a_sign_means_its_dialect(answers: dict[str, Any], path: str, dialect: str, preset: str, program: str) -> None:
    found = asked(answers, server_at(path)).finding

    assert found is not None
    assert (found.dialect, found.preset, found.program) == (dialect, preset, program)


RECORDED_PROBES = sorted(RECORDED.glob("*/probes.json"), key=lambda file: file.parent.name)
SPOKEN = {
    "bentoml": ("/generate", None),
    "fastapi": ("/predict", None),
    "gradio": ("/gradio_api/call/predict", ("bare", "gradio-call", "Gradio")),
    "kserve": ("/v2/models/shouter/infer", ("oip", "", "kserve")),
    "litellm": ("/v1/chat/completions", ("openai", "", "openai")),
    "litserve": ("/predict", ("bare", "", "LitServe")),
    "mlserver": ("/v2/models/shouter/infer", ("oip", "", "mlserver")),
}
"""The path that a program is called at, and what its recorded answers show it to be; None: no sign."""


@pytest.mark.parametrize("file", RECORDED_PROBES, ids=lambda file: file.parent.name)
def test_real_programs_are_told_apart_by_what_they_answered(file: Path) -> None:
    path, spoken = SPOKEN[file.parent.name]
    # `probes.json` has only the beginning of long answers, and was recorded without a key.
    files = (file, file.parent / "config.json", file.parent / "models.json")
    exchanges = [one for each in files if each.exists() for one in json.loads(each.read_text())["exchanges"]]
    answers: dict[str, Any] = {}
    for one in sorted(exchanges, key=lambda each: each["status"] == 200):  # an answer that says something counts
        answers[one["request"]["path"]] = one["body"].encode() if one["status"] == 200 else one["status"]

    found = asked(answers, server_at(path)).finding

    assert (None if found is None else (found.dialect, found.preset, found.program.split(" ")[0])) == spoken


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (COMFYUI, "ComfyUI 0.3 was found, but `endpoints.predict` must be"),
        (GRADIO, "Gradio 5.1 was found, but `endpoints.predict` must be"),
        ({"/v2": {"name": "kserve", "version": "1"}}, "names no model"),
        ({"/sdapi/v1/cmd-flags": {"api": True}}, "must be as in …/sdapi/v1/txt2img"),
        ({}, "none of the known signs: / (404), /v2 (404)"),
        (dict.fromkeys([probe.path for probe in PROBES], 401), "it refuses the API key, or needs one"),
        (dict.fromkeys([probe.path for probe in PROBES]), "no answer in 2 s"),
    ],
)
def test_a_server_without_a_dialect_says_why(answers: dict[str, Any], reason: str) -> None:
    detection = asked(answers)

    assert detection.finding is None or not detection.finding.dialect
    assert reason in detection.problem


def test_a_dialect_that_does_not_exist_here_is_not_found() -> None:
    detection = Detection(server_at(), None, ["oip"])
    detection.read(200, b'{"cog_version": "0.23"}')

    assert detection.finding is not None
    assert (detection.finding.dialect, detection.problem) == ("", "Cog 0.23 was found, but no dialect speaks to it")


def test_the_first_sign_decides_and_nothing_is_asked_after_it() -> None:
    detection = asked({"/v2": {"extensions": []}, "/v1/models": LISTED}, server_at("/v2/models/m/infer"))

    assert [(one.path, one.status) for one in detection.evidence] == [("/", 404), ("/v2", 200)]
    assert "extensions" in detection.evidence[-1].sign


def test_no_probe_calls_a_model_or_is_on_servers_of_any_kind() -> None:
    assert not {"/openapi.json", "/health", "/docs"} & {probe.path for probe in PROBES}


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:1", "http://h:1"),
        ("http://h:1/", "http://h:1"),
        ("http://h:1/predict", "http://h:1"),
        ("http://h:1/predictions", "http://h:1"),
        ("http://h:1/v2/models/m/infer", "http://h:1"),
        ("http://h:1/team/v2/models/m/infer", "http://h:1/team"),
        ("http://h:1/team/", "http://h:1/team"),
        ("http://h:1/openai/v1/chat/completions", "http://h:1"),
        ("http://h:1/sdapi/v1/txt2img", "http://h:1"),
        ("http://h:1/api/chat?x=1", "http://h:1"),
    ],
)
def test_probes_go_below_what_comes_before_a_known_api(url: str, base: str) -> None:
    assert base_of(url) == base


def test_the_key_goes_where_calls_send_it() -> None:
    request = Detection(server_at(auth_header="X-Key"), "secret-of-the-server", DIALECTS).request()

    assert isinstance(request, Request)
    assert request.headers["X-Key"] == "secret-of-the-server"


@given(st.lists(st.tuples(st.integers(200, 599), st.binary(max_size=200)), min_size=20, max_size=20))
def test_no_bytes_break_a_detection_and_its_evidence_is_bounded(answers: list[tuple[int, bytes]]) -> None:
    detection = Detection(server_at(), None, DIALECTS)
    while detection.request() is not None:
        detection.read(*answers.pop())

    assert len(detection.evidence) <= len(PROBES)
    assert all(len(one.sign) <= 200 for one in detection.evidence)


def test_a_long_name_of_a_program_is_shortened_and_on_one_line() -> None:
    detection = asked({"/": {"cog_version": "9\n\x1b[31m" * 100}})

    assert detection.finding is not None
    assert len(detection.finding.program) <= 100
    assert detection.finding.program.isprintable()
