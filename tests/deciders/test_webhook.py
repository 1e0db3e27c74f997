"""What may be done with a webhook, and what may not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from taskstream.commands import webhook
from taskstream.commands.webhook import (
    BOTH_SECRETS,
    UNREGISTERED,
    ChangeWebhook,
    DeleteWebhook,
    DisableWebhook,
    Registered,
    RegisterWebhook,
    RotateSecret,
)
from taskstream.errors import NotFound
from taskstream.events.webhook import (
    SecretRotated,
    WebhookChanged,
    WebhookDeleted,
    WebhookDisabled,
    WebhookEnabled,
    WebhookRegistered,
    WebhookSettings,
)

from .support import NOW, Given

given = Given(webhook.decide, webhook.evolve, UNREGISTERED)
SETTINGS = WebhookSettings(url="https://h.example/", events=("succeeded",))
REGISTERED = WebhookRegistered(webhook_id="w~alice", owner="alice", settings=SETTINGS, secret_id="s1", after=7)
ROTATED = SecretRotated(secret_id="s2", previous_until=NOW + BOTH_SECRETS)
DISABLED = WebhookDisabled(reason="410")


def test_a_webhook_is_registered_once_and_active() -> None:
    after = given.when(RegisterWebhook(registration=REGISTERED)).then(REGISTERED)

    after.is_quiet()
    state: Registered = after.given.state
    assert (state.active, state.after, state.settings) == (True, 7, SETTINGS)


def test_one_can_be_registered_as_not_active() -> None:
    command = RegisterWebhook(registration=REGISTERED, active=False)

    given.when(command).then(REGISTERED, WebhookDisabled(reason="registered as not active")).is_quiet()


def test_only_what_is_named_changes() -> None:
    changed = WebhookChanged(settings=replace(SETTINGS, events=("failed",), types=("a",)))

    given(REGISTERED).when(ChangeWebhook(events=("failed",), types=("a",), after=9)).then(changed).is_quiet()
    given(REGISTERED).when(ChangeWebhook(url=SETTINGS.url, active=True, after=9)).is_quiet()


def test_enabling_it_again_leaves_out_what_came_meanwhile() -> None:
    after = given(REGISTERED, DISABLED).when(ChangeWebhook(active=True, after=20)).then(WebhookEnabled(after=20))

    after.is_quiet()
    assert (after.given.state.active, after.given.state.after, after.given.state.disabled_reason) == (True, 20, "")


def test_it_is_disabled_once() -> None:
    given(REGISTERED).when(DisableWebhook(reason="410")).then(DISABLED).is_quiet()
    given(REGISTERED, DISABLED).when(ChangeWebhook(active=False, after=9, reason="by alice")).is_quiet()


def test_a_change_to_not_active_disables_it_and_says_why() -> None:
    after = given(REGISTERED).when(ChangeWebhook(active=False, after=9, reason="by alice"))

    disabled = after.then(WebhookDisabled(reason="by alice"))
    disabled.is_quiet()
    assert (disabled.given.state.active, disabled.given.state.disabled_reason) == (False, "by alice")
    moved = WebhookChanged(settings=replace(SETTINGS, url="https://i.example/", description="d"))
    both = ChangeWebhook(url="https://i.example/", description="d", active=False, after=9, reason="by alice")
    given(REGISTERED).when(both).then(moved, WebhookDisabled(reason="by alice")).is_quiet()


def test_one_registered_twice_or_deleted_is_not_registered_again() -> None:
    given(REGISTERED).when(RegisterWebhook(registration=REGISTERED, active=False)).is_quiet()
    given(REGISTERED, WebhookDeleted()).when(RegisterWebhook(registration=REGISTERED)).is_quiet()


def test_for_a_day_both_secrets_sign() -> None:
    assert given(REGISTERED).state.secret_ids(NOW) == ("s1",)
    after = given(REGISTERED).when(RotateSecret(secret_id="s2")).then(ROTATED)

    after.is_quiet()
    state: Registered = after.given.state
    assert state.secret_ids(NOW) == ("s2", "s1")
    assert state.secret_ids(NOW + BOTH_SECRETS) == ("s2",)
    assert state.secret_ids(NOW + BOTH_SECRETS - timedelta(seconds=1)) == ("s2", "s1")


@pytest.mark.parametrize(
    "command", [ChangeWebhook(after=1), DisableWebhook(reason=""), RotateSecret(secret_id="s"), DeleteWebhook()]
)
def test_nothing_is_done_with_one_that_is_not_there(command: Any) -> None:
    given.when(command).is_refused(NotFound, "no webhook ''")
    given(REGISTERED, WebhookDeleted()).when(command).is_refused(NotFound, "w~alice")


def test_it_is_deleted_once() -> None:
    given(REGISTERED).when(DeleteWebhook()).then(WebhookDeleted()).is_refused(NotFound)
