"""Schedules: tasks that are submitted again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ..core import given, path_of
from ..flow import Flow
from ..models import NewTask, Preview, Schedule, convert
from .call import Async, Part, Sync, call, iterates


class ScheduleCalls(Part):
    """Schedules: tasks that are submitted again and again, at the times of a cron expression."""

    @call
    def create(
        self,
        cron: str,
        task: NewTask | Mapping[str, Any],
        *,
        time_zone: str | None = None,
        name: str | None = None,
        description: str | None = None,
        missed: Literal["skip", "catch_up"] | None = None,
        catch_up: int | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[Schedule]:
        """Create a schedule and return it. With an `idempotency_key`, the same call returns the same schedule."""
        body = _fields(cron, task, time_zone, name, description, missed, catch_up)
        headers = {"Idempotency-Key": idempotency_key or self._core.new_key()}
        return convert((yield from self._core.ask("POST", "/api/schedules", body=body, headers=headers)), Schedule)

    @call
    def get(self, schedule_id: str) -> Flow[Schedule]:
        """Return a schedule with its task and its next runs."""
        return convert((yield from self._core.ask("GET", path_of("schedules", schedule_id))), Schedule)

    @iterates(Schedule)
    def list(self, *, owner: str | None = None, failing: bool | None = None, limit: int | None = None) -> Flow[None]:
        """Iterate over your schedules; with `failing`, over those whose last run failed."""
        query = {"owner": owner, "failing": failing}
        yield from self._core.items("/api/schedules", "schedules", Schedule, query, limit=limit)

    @call
    def update(
        self,
        schedule_id: str,
        *,
        cron: str | None = None,
        task: NewTask | Mapping[str, Any] | None = None,
        time_zone: str | None = None,
        name: str | None = None,
        description: str | None = None,
        missed: Literal["skip", "catch_up"] | None = None,
        catch_up: int | None = None,
    ) -> Flow[Schedule]:
        """Change what is given, and return the schedule."""
        body = _fields(cron, task, time_zone, name, description, missed, catch_up)
        return convert((yield from self._core.ask("PATCH", path_of("schedules", schedule_id), body=body)), Schedule)

    @call
    def pause(self, schedule_id: str, *, reason: str = "") -> Flow[Schedule]:
        """Stop a schedule until it is resumed."""
        answer = yield from self._core.ask("POST", path_of("schedules", schedule_id, "pause"), body={"reason": reason})
        return convert(answer, Schedule)

    @call
    def resume(self, schedule_id: str) -> Flow[Schedule]:
        """Continue a paused schedule."""
        return convert((yield from self._core.ask("POST", path_of("schedules", schedule_id, "resume"))), Schedule)

    @call
    def run(self, schedule_id: str, *, idempotency_key: str | None = None) -> Flow[str]:
        """Submit the task of a schedule now, and return the task's id."""
        headers = {"Idempotency-Key": idempotency_key or self._core.new_key()}
        answer = yield from self._core.ask("POST", path_of("schedules", schedule_id, "run"), headers=headers)
        return str(answer["taskId"])

    @iterates(dict)
    def runs(self, schedule_id: str, *, limit: int | None = None) -> Flow[None]:
        """Iterate over the runs of a schedule so far, the last one first."""
        path = path_of("schedules", schedule_id, "runs")
        yield from self._core.items(path, "runs", dict, {}, limit=limit)

    @call
    def preview(self, cron: str, *, time_zone: str = "UTC") -> Flow[Preview]:
        """Return when a cron expression fires, in words and as instants. Nothing is stored."""
        body = {"cron": cron, "timeZone": time_zone}
        return convert((yield from self._core.ask("POST", "/api/schedules/preview", body=body)), Preview)

    @call
    def delete(self, schedule_id: str) -> Flow[None]:
        """Delete a schedule. Its tasks stay."""
        yield from self._core.ask("DELETE", path_of("schedules", schedule_id))


def _fields(
    cron: str | None,
    task: NewTask | Mapping[str, Any] | None,
    time_zone: str | None,
    name: str | None,
    description: str | None,
    missed: str | None,
    catch_up: int | None,
) -> dict[str, Any]:
    return given(
        cron=cron,
        task=task,
        timeZone=time_zone,
        name=name,
        description=description,
        missed=missed,
        catchUp=catch_up,
    )


class Schedules(ScheduleCalls, Sync):
    """Schedules: tasks that are submitted again and again, at the times of a cron expression."""


class AsyncSchedules(ScheduleCalls, Async):
    """Schedules: tasks that are submitted again and again, at the times of a cron expression."""
