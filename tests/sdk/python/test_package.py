"""The wheel and the sdist of the Python client, and what they need."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

SDK = Path(__file__).parents[3] / "sdk" / "python"
SOURCES = SDK / "src" / "taskstream_client"
STEP_SECONDS = 200


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(SDK))
    return folder


def run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=STEP_SECONDS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_both_contain_every_module_and_the_marker_of_types(built: Path) -> None:
    names = {f"taskstream_client/{path.relative_to(SOURCES)}" for path in SOURCES.rglob("*.py")}
    names.add("taskstream_client/py.typed")
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")

    with zipfile.ZipFile(wheel) as packed:
        assert names <= set(packed.namelist())
        assert not [name for name in packed.namelist() if name.startswith(("tests", "taskstream/"))]
    with tarfile.open(sdist) as packed:
        inside = {name.partition("/")[2].removeprefix("src/") for name in packed.getnames()}
        assert names | {"LICENSE", "README.md", "pyproject.toml"} <= inside


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_each_installs_in_an_empty_environment_without_a_network(kind: str, built: Path, tmp_path: Path) -> None:
    """`--no-deps`: httpx, anyio and msgspec are those of this environment, and nothing else is imported."""
    (package,) = built.glob(kind)
    run(sys.executable, "-m", "venv", str(tmp_path))
    python = str(tmp_path / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    mine = next(path for path in sys.path if path.endswith("site-packages"))
    site = next((tmp_path / "lib").glob("python*/site-packages"))
    if kind == "*.tar.gz":
        install.append("--no-build-isolation")
        run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools")
        for name in (*Path(mine).glob("setuptools*"), Path(mine) / "_distutils_hack"):
            (site / name.name).symlink_to(name)
    run(*install, str(package))
    for name in NEEDED:
        (site / name).symlink_to(Path(mine) / name)

    said = run(
        python,
        "-I",
        "-c",
        TRIED,
    )

    assert said.split()[-1] == "0.1.0"


TRIED = "import taskstream_client, taskstream_client.server as kit; print(kit.Server, taskstream_client.__version__)"
NEEDED = ("httpx", "httpcore", "h11", "anyio", "idna", "certifi", "msgspec", "typing_extensions.py", "sniffio")
