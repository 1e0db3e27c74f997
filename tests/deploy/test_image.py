"""What the image contains: the steps of its build run here, in a folder, without a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.backend import BackendServer
from testkit.processes import Process, clients_of, environment, quick
from testkit.waiting import free_port, until_ok

from .test_deploy import DOCKERFILE, ROOT

STEP_SECONDS = 280
pytestmark = pytest.mark.timeout(900)  # it installs every package, three times
SECRETS = {"SEAL_KEYS": "", "LOG_FORMAT": "json"}


def stage(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a stage of the Dockerfile."""
    [text] = re.findall(rf"(?ms)^FROM \S+ AS {name}$(.*?)(?=^FROM )", DOCKERFILE)
    return re.findall(r"(?m)^(\w+) (.*)$", text)


class Build:
    """A folder in the place of a container's root, and only a Python on the path."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "python").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
        (self.root / "opt").mkdir(parents=True)
        (self.root / "build").mkdir()

    @property
    def python(self) -> Path:
        return self.root / "opt" / "taskstream" / "bin" / "python"

    def run(self, name: str) -> None:
        """Run the instructions of a stage."""
        for instruction, arguments in stage(name):
            if instruction == "COPY" and not arguments.startswith("--from"):
                *sources, target = arguments.split()
                for source in sources:
                    self._copy(ROOT / source, self.root / "build" / target, is_alone=len(sources) == 1)
            elif instruction == "RUN":
                self.shell(arguments)

    def shell(self, command: str) -> None:
        """Run a command as `RUN` does."""
        ran = subprocess.run(
            ["/bin/sh", "-c", command.replace("/opt/", f"{self.root}/opt/")],
            cwd=self.root / "build",
            env={"PATH": str(self.bin), "HOME": str(self.root)} | _certificates(),
            capture_output=True,
            text=True,
            check=False,
            timeout=STEP_SECONDS,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"

    def _copy(self, source: Path, target: Path, *, is_alone: bool) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, target if is_alone and target.name not in ("", "build") else target / source.name)


def _certificates() -> dict[str, str]:
    """Where packages come from is a matter of the machine: pip's own variables and configuration."""
    return {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP", "http"))}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """What the image copies from its stages."""
    build = Build(tmp_path_factory.mktemp("image"))
    build.run("build")
    build.run("materials")
    return build


@pytest.fixture(scope="module")
def dependencies(image: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with our dependencies, and without us."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([image.bin / "python", "-m", "venv", folder], check=True)
    site = f"lib/python3.{sys.version_info.minor}/site-packages"
    own = shutil.ignore_patterns("taskstream*", "__editable__*", "pip", "pip-*", "__pycache__")
    shutil.copytree(image.python.parents[1] / site, folder / site, ignore=own, dirs_exist_ok=True)
    shutil.copy(image.python.parent / "nats-server", folder / "bin")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=STEP_SECONDS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


async def serves_and_works(python: Path, folder: Path) -> None:
    """Run `taskstream up` with an interpreter and nothing else on the path: the console, a task, an end."""
    port = free_port()
    env = environment(quick() | SECRETS | {"PORT": str(port), "DATA_DIR": str(folder / "data")})
    env = {name: value for name, value in env.items() if not name.startswith("PYTHON")} | {"PATH": str(python.parent)}
    up = Process("up", [str(python.parent / "taskstream"), "up"], env, folder / "up.log").start()
    try:
        await up.logged("ready")
        await until_ok(f"http://127.0.0.1:{port}/console/", says="<script")
        async with BackendServer() as backend, clients_of(f"http://127.0.0.1:{port}") as clients:
            for script in re.findall(r'src="([^"]+\.js)"', str((await clients.alice.call("GET", "/console/")).body)):
                await until_ok(f"http://127.0.0.1:{port}/console/{script.removeprefix('./')}")
            await clients.admin.register(backend, "one")
            assert (await clients.alice.ended(await clients.alice.submit({"n": 1})))["status"] == "FINISHED"
        up.terminate()
        assert await up.ended() == 0
    finally:
        up.kill()


async def test_what_is_in_the_image_serves_the_console_and_runs_tasks(image: Build, tmp_path: Path) -> None:
    await serves_and_works(image.python, tmp_path)


def test_the_image_has_no_installer_and_no_source_of_the_console(image: Build) -> None:
    names = {path.name for path in image.python.parents[1].rglob("*")}

    assert not names & {"pip", "setuptools", "node_modules", "package.json"}
    assert "console_files" in names


def test_the_bill_of_materials_names_every_package_of_the_image(image: Build) -> None:
    bill = json.loads((image.python.parents[1] / "sbom.cdx.json").read_text())
    script = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
    installed = json.loads(subprocess.run([image.python, "-c", script], capture_output=True, check=True).stdout)

    assert bill["bomFormat"] == "CycloneDX"
    listed = {(each["name"].lower(), each["version"]) for each in bill["components"]}
    root = bill["metadata"].get("component", {})
    listed.add((root.get("name", ""), root.get("version", "")))
    assert {(name.lower(), version) for name, version in installed} <= listed
    assert all(each.get("licenses") for each in bill["components"] if each["name"] in ("nats-py", "litestar"))


async def test_a_wheel_made_from_the_sdist_runs_with_its_console(
    dependencies: Path, distribution: Path, tmp_path: Path
) -> None:
    [wheel] = distribution.glob("*.whl")
    [_] = distribution.glob("*.tar.gz")
    command = [dependencies, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(command, check=True, timeout=STEP_SECONDS)
    subprocess.run([dependencies, "-m", "pip", "check"], check=True)

    await serves_and_works(dependencies, tmp_path)
