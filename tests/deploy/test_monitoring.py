"""What deploy/prometheus and deploy/grafana promise: metrics exist, alerts are tested and have runbook entries."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskstream.cli import _parser
from taskstream.explain.alarms import CRITICAL, KINDS
from testkit.helm import render
from testkit.metric_table import MetricRow, documented_metrics, series_of

DEPLOY = Path(__file__).parents[2] / "deploy"
OPERATIONS = (DEPLOY.parent / "docs" / "operations.md").read_text()
RULES = DEPLOY / "prometheus" / "rules" / "taskstream.yaml"
TESTS = DEPLOY / "prometheus" / "tests" / "taskstream.yaml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
LOADED: dict[str, Any] = yaml.safe_load(RULES.read_text())
ALL_RULES = [rule for group in LOADED["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in ALL_RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in ALL_RULES if "record" in rule}
OF_PROMETHEUS = {"up", "ALERTS"}
ADDED = {"job", "instance", "process", "le", "alertname", "alertstate"}
"""Labels that Prometheus, the scrape of several processes, and histograms add."""


def promtool(*arguments: str | Path) -> str:
    """Run promtool; return what it says. Raises AssertionError with that if it refuses."""
    program = shutil.which("promtool")
    assert program, "there is no promtool here: apt-get install --no-install-recommends prometheus"
    ran = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def kind_of(alert: str) -> str:
    """Return the name of an alert as alarms and runbook entries have it."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", alert.removeprefix("Taskstream")).lower()


def queries() -> Iterator[tuple[str, str]]:
    """Yield every expression of the dashboards, and where it is."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield f"{path.stem}: {panel['title']}", target["expr"]


def expressions() -> Iterator[tuple[str, str]]:
    """Yield every expression of rules and dashboards, and where it is."""
    for rule in ALL_RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]
    yield from queries()


SERIES: dict[str, MetricRow] = {
    series: row for name, row in documented_metrics().items() for series in series_of(name, row)
}


@pytest.mark.parametrize(("where", "expression"), [pytest.param(*each, id=each[0]) for each in expressions()])
def test_every_metric_and_label_of_rules_and_dashboards_is_exported(where: str, expression: str) -> None:
    plain = re.sub(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)", "", expression)
    selectors = re.findall(r"([a-zA-Z_:][\w:]*)\s*(?:\{([^}]*)\}|\[|(?![\w:(]))", re.sub(r"\[[^]]*\]", "", plain))
    named = {name: labels for name, labels in selectors if name in OF_PROMETHEUS or "taskstream" in name or "_" in name}
    assert named, expression
    for name, labels in named.items():
        if name in OF_PROMETHEUS | RECORDED:
            continue
        assert name in SERIES, f"{where}: {name} is not in the table of docs/operations.md"
        used = set(re.findall(r"(\w+)\s*[=!]~?", labels))
        assert used <= {*SERIES[name].labels, *ADDED}, f"{where}: labels of {name}"
    grouped = {label for labels in re.findall(r"\bby\s*\(([^)]*)\)", expression) for label in re.split(r",\s*", labels)}
    known = {label for row in SERIES.values() for label in row.labels} | ADDED
    assert grouped <= known, where


def test_promtool_accepts_the_rules_and_both_configurations() -> None:
    promtool("check", "rules", RULES)
    for name in ("prometheus.yml", "one-machine.yml"):
        promtool("check", "config", DEPLOY / "prometheus" / name)


def test_promtools_tests_of_the_rules_pass() -> None:
    assert "SUCCESS" in promtool("test", "rules", TESTS)


def test_each_alert_fires_in_a_test_and_is_quiet_in_another() -> None:
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    fired = set(re.findall(r'labels: \'ALERTS\{alertname="(\w+)"', TESTS.read_text()))

    assert fired == {alert["alert"] for alert in ALERTS}
    quiet = tests[0]["promql_expr_test"]
    assert [each["exp_samples"] for each in quiet if each["expr"] == 'ALERTS{alertstate="firing"}'] == [[], []]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_each_alert_says_how_bad_it_is_what_it_means_and_where_its_runbook_entry_is(alert: dict[str, Any]) -> None:
    assert alert["alert"].startswith("Taskstream")
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    kind = kind_of(alert["alert"])
    assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{kind}"
    entry = runbook()[kind]
    assert re.search(r"(?m)^\* See: \S", entry)
    assert re.search(r"(?m)^\* Do: \S", entry)


def runbook() -> dict[str, str]:
    """Return the entries of the runbook by their anchors."""
    section = OPERATIONS.split("\n## Runbook\n")[1].split("\n## ")[0]
    entries = re.split(r"(?m)^### (.+)$", section)[1:]
    titles, texts = entries[::2], entries[1::2]
    return {title.lower().replace(" ", "-"): text for title, text in zip(titles, texts, strict=True)}


def test_the_runbook_has_an_entry_for_each_alert_and_no_other() -> None:
    assert sorted(runbook()) == sorted(kind_of(alert["alert"]) for alert in ALERTS)
    headings = re.findall(r"(?m)^#+ (.+)$", OPERATIONS)
    assert len({heading.lower() for heading in headings}) == len(headings), "an anchor leads to one place"


def test_alerts_and_alarms_of_one_kind_have_one_name_and_severity() -> None:
    severities = {kind_of(alert["alert"]): alert["labels"]["severity"] for alert in ALERTS}

    assert set(KINDS) <= severities.keys()
    for kind in KINDS:
        assert severities[kind] == ("critical" if kind in CRITICAL else "warning"), kind


def test_the_commands_of_the_runbook_exist() -> None:
    used = set(re.findall(r"`taskstream ([a-z-]+)(?: ([a-z-]+))?", "".join(runbook().values())))
    parser = _parser()

    assert used
    for noun, verb in used:
        command = subcommands(parser)[noun]
        assert not verb or verb in subcommands(command), f"taskstream {noun} {verb}"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {
        name: command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, command in action.choices.items()
    }


def test_prometheus_can_parse_the_queries_of_the_dashboards(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": expression.replace("$__rate_interval", "1m").replace("$", "")}
        for number, (_, expression) in enumerate(queries())
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    assert len(rules) > 40
    promtool("check", "rules", path)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: str(path.stem))
def test_a_dashboard_needs_nothing_but_a_data_source_and_has_unique_panels_in_place(path: Path) -> None:
    board = json.loads(path.read_text())
    panels = board["panels"]

    assert board["uid"] == f"taskstream-{path.stem}"
    assert {panel["id"] for panel in panels} == set(range(1, len(panels) + 1))
    sources = re.findall(r'"uid": "([^"]*)"', json.dumps([panels, board["templating"]]))
    assert set(sources) == {"${datasource}"}
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", json.dumps([panel.get("targets") for panel in panels])))
    assert used <= variables | {"__rate_interval"}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_grafana_finds_the_dashboards_where_compose_mounts_them() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "taskstream.yaml").read_text())["providers"]
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]

    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in compose["grafana"]["volumes"]
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in compose["grafana"]["volumes"]
    assert source["url"] == "http://prometheus:9090"
    assert {name for name, service in compose.items() if service.get("profiles") == ["monitoring"]} == {
        "prometheus",
        "grafana",
    }
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {
        name: config["port"] for each in scraped for config in each["dns_sd_configs"] for name in config["names"]
    }
    assert targets == {"api": 8080, "worker": int(compose["worker"]["environment"]["TASKSTREAM_METRICS_PORT"])}


def test_the_chart_has_the_same_rules() -> None:
    [rendered] = [
        each for each in render(monitoring={"prometheusRule": {"enabled": True}}) if each["kind"] == "PrometheusRule"
    ]

    assert rendered["spec"] == LOADED
