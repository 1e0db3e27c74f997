"""Commands for many tasks: what is counted first, what is asked, and what then changes."""

from __future__ import annotations

import pytest

from taskstream.operator.confirmation import UNASKED
from testkit.processes import clients_of
from testkit.service import token

from .conftest import Known, taskstream
from .terminals import Terminal

pytestmark = pytest.mark.timeout(240)


async def waiting(known: Known, count: int, user: str) -> list[str]:
    """Submit tasks that no server takes."""
    async with clients_of(known.url) as service:
        body = [{"type": "nobody", "payload": {"n": number}} for number in range(count)]
        answer = await service.client(user).done("POST", "/api/tasks/batch", body)
        return list(answer["taskIds"])


async def cancelled(known: Known, user: str) -> int:
    async with clients_of(known.url) as service:
        counted = await service.client(user).done("GET", "/api/tasks/count?status=CANCELLED&type=nobody")
        return int(counted["count"])


async def test_a_dry_run_changes_nothing_and_counts_what_it_would(known: Known, admin: dict[str, str]) -> None:
    await waiting(known, 3, "dry")
    shown = taskstream("tasks", "cancel", "--owner", "dry", "--type", "nobody", "--dry-run", "--json", env=admin)

    assert shown.objects == [{"dryRun": True, "matched": 3, "done": 3, "unchanged": 0, "refused": []}]
    assert await cancelled(known, "dry") == 0


async def test_a_user_cancels_a_few_tasks_without_a_question(known: Known, admin: dict[str, str]) -> None:
    ids = await waiting(known, 3, "few")
    own = admin | {"TASKSTREAM_TOKEN": token("few")}
    assert taskstream("tasks", "cancel", "--type", "nobody", env=own).out.split() == ["cancelled", "3"]
    assert await cancelled(known, "few") == 3
    again = taskstream("tasks", "cancel", *ids, env=own)
    assert (again.status, again.out.count("already ended")) == (0, 0) or again.status == 1


async def test_more_than_a_hundred_tasks_need_the_number_or_yes(known: Known, admin: dict[str, str]) -> None:
    count = UNASKED + 1
    await waiting(known, count, "many")
    own = admin | {"TASKSTREAM_TOKEN": token("many")}
    words = ["tasks", "cancel", "--type", "nobody"]

    unasked = taskstream(*words, env=own)
    assert (unasked.status, "--yes" in unasked.err) == (2, True)
    wrong = Terminal(words, own)
    wrong.shows(f"type {count} to go on: ")
    wrong.type("yes\n")
    assert wrong.ends() == 1
    assert "nothing was changed" in wrong.output
    assert await cancelled(known, "many") == 0

    right = Terminal(words, own)
    right.shows(f"type {count} to go on: ")
    right.type(f"{count}\n")
    assert right.ends() == 0
    assert await cancelled(known, "many") == count


async def test_an_admin_is_asked_before_tasks_of_all_users_change(known: Known, admin: dict[str, str]) -> None:
    await waiting(known, 2, "fred")
    words = ["tasks", "cancel", "--type", "nobody", "--created-since", "1h"]

    unasked = taskstream(*words, env=admin)
    assert (unasked.status, "of all users" in unasked.err) == (2, True)
    assert await cancelled(known, "fred") == 0
    assert taskstream(*words, "--yes", env=admin).status == 0
    assert await cancelled(known, "fred") == 2


async def test_the_failures_of_the_last_hour_are_found_by_error_and_retried(
    known: Known, admin: dict[str, str]
) -> None:
    words = ["--since", "1h", "--error", "NO IMAGE", "--owner", "alice"]
    (before,) = taskstream("tasks", "list", "--status", "failed", *words, "--json", env=admin).objects

    assert before["id"] == known.failed
    retried = taskstream("tasks", "retry", *words, env=admin)
    assert (retried.status, retried.out.split()) == (0, ["retried", "1"])
    followed = taskstream("tasks", "follow", known.failed, env=admin)
    assert followed.status == 1  # it cannot succeed
    history = taskstream("tasks", "events", known.failed, "--event", "TaskQueued,TaskSubmitted", "--json", env=admin)
    assert len(history.objects) >= 2


def test_ids_that_do_not_exist_are_status_3(known: Known, admin: dict[str, str]) -> None:
    unknown = known.task.replace("01", "00", 1)
    done = taskstream("tasks", "retry", unknown, env=admin)
    assert (done.status, "no such task" in done.out) == (3, True)
    malformed = taskstream("tasks", "retry", "x", env=admin)
    assert (malformed.status, "ID: must be the id" in malformed.err) == (2, True)
