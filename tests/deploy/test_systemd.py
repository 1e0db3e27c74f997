"""What deploy/systemd promises, read from the units."""

import re
from pathlib import Path

import pytest

from taskstream import settings
from taskstream.vault.sealing import new_key

from .test_deploy import COMMANDS, ROOT

SYSTEMD = ROOT / "deploy" / "systemd"
UNITS = sorted(path.name for path in SYSTEMD.glob("*.service"))
SECRETS = {"jwt-secret": "a secret that is long enough for HS256", "seal-keys": new_key(), "nats-password": "p"}
HARDENED = {
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectControlGroups=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "SystemCallFilter=@system-service",
    "User=taskstream",
    "UMask=0077",
}


def lines(unit: str) -> list[str]:
    return [line for line in (SYSTEMD / unit).read_text().splitlines() if line and not line.startswith("#")]


def values(unit: str, directive: str) -> list[str]:
    return [line.partition("=")[2] for line in lines(unit) if line.startswith(f"{directive}=")]


def variables(unit: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in values(unit, "Environment"))


def test_there_is_a_unit_for_the_whole_service_and_for_each_part() -> None:
    assert UNITS == ["taskstream-api.service", "taskstream-worker@.service", "taskstream.service"]
    commands = {re.fullmatch(r"/opt/taskstream/bin/taskstream (\w+).*", *values(unit, "ExecStart")) for unit in UNITS}
    assert {found[1] for found in commands if found} == {"up", "api", "worker"} <= COMMANDS


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_can_write_little_and_gains_no_right(unit: str) -> None:
    assert set(lines(unit)) >= HARDENED
    assert not values(unit, "ReadWritePaths")
    assert not values(unit, "AmbientCapabilities")[0]
    assert values(unit, "MemoryMax")
    assert values(unit, "TasksMax")


@pytest.mark.parametrize("unit", UNITS)
def test_the_environment_of_a_unit_is_made_of_real_settings_and_loads(unit: str, tmp_path: Path) -> None:
    for name, content in SECRETS.items():
        (tmp_path / name).write_text(f"{content}\n")
    given = {name: value.replace("%d", str(tmp_path)) for name, value in variables(unit).items()}
    loaded = settings.load(given)

    assert settings.unknown(given) == []
    assert loaded.jwt_secret == SECRETS["jwt-secret"]
    if unit != "taskstream.service":
        assert (loaded.seal_keys, loaded.nats_password) == ((SECRETS["seal-keys"],), "p")


@pytest.mark.parametrize("unit", UNITS)
def test_each_secret_is_a_credential_and_none_is_in_an_environment(unit: str) -> None:
    loaded = {value.partition(":")[0] for value in values(unit, "LoadCredential")}
    secrets = {settings.variable(field) for field in settings.hints() if settings.is_secret(field)}
    files = {value for name, value in variables(unit).items() if name.removesuffix("_FILE") in secrets}

    assert files == {f"%d/{name}" for name in loaded}
    assert not secrets & variables(unit).keys()
    assert all(value.partition(":")[2].startswith("/etc/taskstream/") for value in values(unit, "LoadCredential"))


def test_the_file_of_settings_has_real_ones_and_no_secret() -> None:
    given = dict(re.findall(r"(?m)^#? ?(TASKSTREAM_\w+)=(.*)$", (SYSTEMD / "taskstream.env").read_text()))

    assert settings.unknown(given) == []
    assert not any(settings.is_secret(name.removeprefix("TASKSTREAM_").lower()) for name in given)
    assert settings.load(given | {"TASKSTREAM_JWT_SECRET": SECRETS["jwt-secret"]}).replicas == 3


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_waits_longer_than_the_service_takes_to_stop(unit: str) -> None:
    loaded = settings.load(
        {name: value for name, value in variables(unit).items() if not name.endswith("_FILE")}
        | {"TASKSTREAM_JWT_SECRET": SECRETS["jwt-secret"]}
    )
    [stop] = values(unit, "TimeoutStopSec")
    takes = {
        "taskstream.service": loaded.drain + loaded.shutdown_grace + 20,
        "taskstream-api.service": loaded.drain + 10,
        "taskstream-worker@.service": loaded.shutdown_grace + 10,
    }

    assert int(stop) > takes[unit]


def test_a_wrong_setting_is_not_tried_again_and_the_supervisor_ends_the_others() -> None:
    assert values("taskstream.service", "KillMode") == ["mixed"]
    for unit in UNITS:
        assert values(unit, "RestartPreventExitStatus") == ["2"]
