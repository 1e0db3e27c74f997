"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from taskstream import settings
from taskstream.events.kinds import TASK_EVENTS
from taskstream_client.client import TOKENS
from testkit.metric_table import documented_metrics, exported_metrics

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "deploy" / "README.md", *ROOT.glob("docs/**/*.md")]


def test_every_setting_is_in_the_operations_table_with_its_default() -> None:
    table = (ROOT / "docs" / "operations.md").read_text()
    for name, default, meaning in settings.table():
        shown = f"`{default}`" if default else ""
        assert f"| `{name}` | {shown} | {meaning} |" in table, f"{name} differs: see `taskstream settings`"


def test_the_metrics_are_those_of_the_operations_table_with_their_types_and_labels() -> None:
    assert exported_metrics() == documented_metrics()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_names_a_setting_that_does_not_exist(document: Path) -> None:
    named = set(re.findall(r"TASKSTREAM_[A-Z_]+[A-Z]", document.read_text()))
    of_commands = {settings.variable(name) for name in settings.OperatorSettings.__struct_fields__}
    assert named <= settings.variables() | of_commands | set(TOKENS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", document.read_text()):
        page = document.parent / target if target else document
        assert page.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in _anchors(page), f"{document.name} links to {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_event_of_a_task_is_in_the_pages_of_tasks_and_webhooks() -> None:
    tasks, webhooks = ((ROOT / "docs" / f"{page}.md").read_text() for page in ("tasks", "webhooks"))
    for event, kind in TASK_EVENTS.items():
        assert f"`{event.__name__}`" in tasks, event
        assert f"`task.{kind.word}`" in webhooks, event


def test_the_glossary_defines_each_term_once_in_alphabetical_order() -> None:
    rows = re.findall(r"^\| (\*\*.+?) \| (.+) \|$", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    heads = [re.findall(r"\*\*(.+?)\*\*", term)[0].lower() for term, _ in rows]
    defined = [each.lower() for row in rows for each in re.findall(r"\*\*(.+?)\*\*", " ".join(row))]

    assert heads == sorted(heads)
    assert {each for each in defined if defined.count(each) > 1} == set()
