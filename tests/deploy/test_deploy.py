"""What deploy/ promises, as far as it can be checked without a container engine."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskstream import settings
from taskstream.nats_server.config import USER as NATS_USER
from taskstream.nats_server.server import find_executable
from taskstream.streams.client.access import Access
from taskstream.streams.client.connection import open_connection
from taskstream.streams.client.connection_errors import AccessRefused
from taskstream.vault.sealing import new_key
from testkit.processes import Process, python, quick
from testkit.processes import environment as environment_of
from testkit.waiting import wait_until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMMANDS = {"up", "api", "worker", "token", "rebuild", "settings", "seal-key"}
SECRET = "a secret that is long enough for HS256"
CONFIGURATIONS = ("nats.conf", "deploy/nats/cluster.conf")

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")


def filled_in(value: str, environ: dict[str, str]) -> str:
    """Replace ${NAME:-default} and ${NAME:?message} as Compose does."""

    def replace(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if environ.get(name):
            return environ[name]
        if operator == ":?":
            raise KeyError(rest)
        return rest or ""

    return re.sub(r"\$\{(\w+)(:[-?])?([^}]*)\}", replace, value)


def environment(service: str, environ: dict[str, str]) -> dict[str, str]:
    return {name: filled_in(value, environ) for name, value in COMPOSE["services"][service]["environment"].items()}


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of NATS' passwords, made by the commands of deploy/README.md."""
    folder = tmp_path_factory.mktemp("deploy")
    [commands] = re.findall(
        r"(?m)^    password=\$\(openssl(?:.|\n)*?nats-passwords\.conf$", (DEPLOY / "README.md").read_text()
    )
    (folder / "deploy" / "secrets").mkdir(parents=True)
    subprocess.run(["bash", "-euc", commands], cwd=folder, check=True)
    return folder / "deploy" / "secrets" / "nats-passwords.conf"


def route_password(passwords: Path) -> str:
    [found] = re.findall(r'ROUTE_PASSWORD: "(\w{64})"', passwords.read_text())
    return str(found)


@pytest.fixture
def deployed(passwords: Path, tmp_path: Path) -> Path:
    """cluster.conf with the passwords beside it, and loopback addresses in the place of the containers'."""
    text = (DEPLOY / "nats" / "cluster.conf").read_text()
    for old, new in (("port: 4222", "host: 127.0.0.1\nport: -1"), ("port: 6222", "host: 127.0.0.1\n  port: -1")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    text = text.replace("http: 127.0.0.1:8222", "").replace('"/data"', f'"{tmp_path / "store"}"')
    routes = re.sub(r"nats-\d:6222", "127.0.0.1:1", passwords.read_text())
    (tmp_path / "passwords.conf").write_text(routes)
    (tmp_path / "cluster.conf").write_text(text)
    return tmp_path / "cluster.conf"


async def test_nobody_gets_in_without_the_passwords(deployed: Path, passwords: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = Process(
        "nats", [str(find_executable()), "-c", str(deployed)], os.environ | {"NATS_SERVER_NAME": "nats-1"}, log
    ).start()
    try:
        await wait_until(lambda: "Server is ready" in server.output(), "the server to be ready")
        ports = dict(re.findall(r"Listening for (client|route) connections on 127\.0\.0\.1:(\d+)", server.output()))
        url = f"nats://127.0.0.1:{ports['client']}"
        for access in (Access(), Access(user=NATS_USER, password="guessed"), Access(user="route", password="guessed")):
            with pytest.raises(AccessRefused):
                await open_connection(url, "test", access)
        known = passwords.with_name("nats-password").read_text()
        connection = await open_connection(url, "test", Access(user=NATS_USER, password=known))
        await connection.close()

        for password, greeting in (("guessed", b"Authorization Violation"), (route_password(passwords), b"PONG")):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(ports["route"]))
            info = json.loads((await reader.readline()).removeprefix(b"INFO "))
            hello = {"user": "route", "pass": password, "name": "x", "server_id": "x" * 56, "cluster": info["cluster"]}
            writer.write(f"CONNECT {json.dumps(hello)}\r\nPING\r\n".encode())
            said = b""
            while greeting not in said:
                piece = await asyncio.wait_for(reader.read(65536), 30)
                assert piece, said
                said += piece
            writer.close()
    finally:
        server.kill()


def with_secrets(given: dict[str, str], folder: Path, secrets: dict[str, str]) -> dict[str, str]:
    """Return an environment whose files of secrets are in a folder."""
    for name, content in secrets.items():
        (folder / name).write_text(f"{content}\n")
    return {name: value.replace("/run/secrets", str(folder)) for name, value in given.items()}


@pytest.mark.parametrize("service", ["api", "worker"])
def test_the_environment_of_a_service_is_made_of_real_settings_and_loads(service: str, tmp_path: Path) -> None:
    key = new_key()
    secrets = {"jwt-secret": SECRET, "seal-keys": key, "nats-password": "p"}
    given = with_secrets(environment(service, {}), tmp_path, secrets)

    loaded = settings.load(given)

    assert settings.unknown(given) == []
    assert (loaded.replicas, loaded.jwt_secret, loaded.seal_keys) == (3, SECRET, (key,))
    assert (loaded.nats_user, loaded.nats_password) == (NATS_USER, "p")
    assert loaded.nats_url is not None
    assert loaded.nats_url.count("nats://") == 3


def test_the_environment_of_the_image_is_made_of_real_settings_and_loads() -> None:
    given = dict(re.findall(r"(TASKSTREAM_\w+)=(\S+)", DOCKERFILE))

    assert settings.unknown(given) == []
    assert settings.load(given).host == "0.0.0.0"


@pytest.mark.parametrize("service", ["api", "worker"])
def test_each_secret_is_a_file_and_none_is_in_an_environment(service: str) -> None:
    mounted = {f"/run/secrets/{name}" for name in COMPOSE["services"][service]["secrets"]}
    given = environment(service, {})
    secrets = {settings.variable(field) for field in settings.hints() if settings.is_secret(field)}

    assert set(COMPOSE["services"][service]["secrets"]) <= COMPOSE["secrets"].keys()
    assert {value for name, value in given.items() if name.removesuffix("_FILE") in secrets} == mounted
    assert not secrets & given.keys()
    for secret in COMPOSE["secrets"].values():
        assert secret.keys() == {"file"}
        assert (
            subprocess.run(["git", "check-ignore", "-q", DEPLOY / secret["file"]], cwd=ROOT, check=False).returncode
            == 0
        )


@pytest.mark.parametrize("service", sorted(COMPOSE["services"]))
def test_a_container_can_write_little_gains_no_right_and_has_limits(service: str) -> None:
    container = COMPOSE["services"][service]

    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert "cap_add" not in container
    assert "privileged" not in container
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["pids_limit"] <= 256
    assert re.fullmatch(r"\$\{\w+_MEMORY:-1g\}", container["mem_limit"])
    assert all(mount.split(":")[0] in ("/tmp", "/run") for mount in container["tmpfs"])
    assert all(mount.endswith(":ro") for mount in container.get("volumes", ()) if mount.startswith("."))


@pytest.mark.parametrize("service", ["api", "worker"])
def test_our_containers_run_as_the_images_user(service: str) -> None:
    user = COMPOSE["services"][service]["user"]

    assert re.search(rf"(?m)^USER {user}$", DOCKERFILE)
    assert user.split(":")[0] != "0"


def test_every_image_can_be_pinned_by_its_digest() -> None:
    images = {container["image"] for container in COMPOSE["services"].values()} - {"taskstream"}
    built_on = COMPOSE["services"]["api"]["build"]["args"]["PYTHON_IMAGE"]
    readme = (DEPLOY / "README.md").read_text()

    for image in (*images, built_on):
        variable, default = re.fullmatch(r"\$\{(\w+):-(.+)\}", image).groups()  # type: ignore[union-attr]
        assert f"'{variable}={{{{index .RepoDigests 0}}}}' {default} >" in readme
        assert f"docker pull {default}" in readme
    assert set(re.findall(r"(?m)^FROM (\S+)", DOCKERFILE)) == {"${PYTHON_IMAGE}"}


async def test_the_service_writes_to_its_data_folder_only(tmp_path: Path) -> None:
    outside = {name: tmp_path / name for name in ("home", "tmp", "cwd")}
    for folder in outside.values():
        folder.mkdir(mode=0o555)
    env = environment_of(quick() | {"SEAL_KEYS": "", "PORT": "0", "DATA_DIR": str(tmp_path / "data")})
    env |= {"HOME": str(outside["home"]), "TMPDIR": str(outside["tmp"]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["sh", "-c", f'cd {outside["cwd"]} && exec "$0" "$@"', *python("taskstream", "up")]
    up = Process("up", command, env | {"TASKSTREAM_LOG_FORMAT": "json"}, tmp_path / "log").start()
    try:
        await up.logged("ready")
        up.terminate()
        assert await up.ended() == 0
    finally:
        up.kill()

    assert {name: list(folder.iterdir()) for name, folder in outside.items()} == {name: [] for name in outside}
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in outside) == ["data", "log"]


def test_the_nats_urls_and_routes_name_the_nats_services(passwords: Path) -> None:
    nats = {name for name in COMPOSE["services"] if name.startswith("nats-")}
    url = environment("api", {})["TASKSTREAM_NATS_URL"]
    routes = passwords.read_text().replace(route_password(passwords), "PASSWORD")

    assert set(re.findall(r"nats://([\w-]+):4222", url)) == nats
    assert set(re.findall(r"nats://route:PASSWORD@([\w-]+):6222", routes)) == nats
    assert {COMPOSE["services"][name]["environment"]["NATS_SERVER_NAME"] for name in nats} == nats


def test_there_are_two_of_each_of_ours() -> None:
    assert [COMPOSE["services"][name]["deploy"]["replicas"] for name in ("api", "worker")] == [2, 2]


def test_everything_mounted_exists() -> None:
    for service in COMPOSE["services"].values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_the_commands_are_subcommands() -> None:
    used = [COMPOSE["services"][name]["command"][0] for name in ("api", "worker")]
    used += re.findall(r'(?m)^CMD \["([\w-]+)"', DOCKERFILE)

    assert set(used) == {"api", "worker", "up"}
    assert set(used) <= COMMANDS


def test_what_the_image_copies_exists_and_reaches_the_build() -> None:
    ignored_except = (ROOT / ".dockerignore").read_text()
    copies = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if re.match(r"COPY (?!--from)", line)]
    sources = [source for copy in copies for source in copy]

    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}\n" in ignored_except


def test_the_image_installs_by_hash() -> None:
    assert "--require-hashes" in DOCKERFILE


@pytest.mark.parametrize("path", CONFIGURATIONS)
def test_nats_accepts_the_configuration(path: str, passwords: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / path, tmp_path / "nats.conf")
    shutil.copy(passwords, tmp_path / "passwords.conf")
    checked = subprocess.run(
        [find_executable(), "-t", "-c", tmp_path / "nats.conf"],
        env=os.environ | {"NATS_SERVER_NAME": "nats-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("line", ["max_payload: 8MB", 'write_deadline: "10s"', "sync_interval: always"])
def test_one_server_and_three_have_the_same_limits(line: str) -> None:
    for path in CONFIGURATIONS:
        assert line in (ROOT / path).read_text()


@pytest.mark.parametrize("path", ["requirements.txt", "requirements-dev.txt", "deploy/Dockerfile"])
def test_nothing_says_where_packages_come_from(path: str) -> None:
    text = (ROOT / path).read_text()

    assert not re.search(r"--[\w-]*index|--find-links|--trusted-host|file://|https?://(?!127\.0\.0\.1)", text)


PUBLISHED_AS_ONE_FILE = {"cronsim", "nkeys"}


def test_every_package_is_pinned_by_the_hashes_of_several_files() -> None:
    for path in ("requirements.txt", "requirements-dev.txt"):
        packages = re.split(r"(?m)^(?=[a-z0-9])", (ROOT / path).read_text())[1:]

        assert len(packages) > 30
        for package in packages:
            assert re.match(r"[\w.-]+==[\w.]+( ;[^\\]+)? \\\n", package), package
            name = package.partition("==")[0]
            assert package.count("--hash=sha256:") > (name not in PUBLISHED_AS_ONE_FILE), package
