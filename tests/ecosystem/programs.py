"""Real programs in environments of their own: what each is started with, and one that runs."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from msgspec import Struct

from testkit.processes import Process
from testkit.usage import descendants
from testkit.waiting import free_port, until_ok

ROOT = Path(__file__).parents[2]
SERVERS = Path(__file__).parent / "servers"
STARTUP_SECONDS = 120.0
ENVIRONMENTS = {name: ROOT / f".venv-{name}" for name in ("ecosystem", "ecosystem-kserve", "ecosystem-mlserver")}
BOUNDS = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1",
    "LITELLM_TELEMETRY": "False", "BENTOML_DO_NOT_TRACK": "True", "GRADIO_ANALYTICS_ENABLED": "False",
    "PYTHONUNBUFFERED": "1", "NO_PROXY": "127.0.0.1",
}  # fmt: skip
"""Two cores at most, nothing downloaded or reported at run time."""


class Program(Struct, frozen=True, kw_only=True):
    """A program and how it is started."""

    name: str
    package: str
    """The distribution whose version the table shows."""
    environment: str
    command: tuple[str, ...]
    """`{bin}` is the environment's `bin`, `{port}` the port, `{folder}` the run's folder."""
    folder: str = "."
    """Where it runs, below `servers`."""
    ready: str
    """A path that answers 200 once it takes calls."""
    ready_says: str = ""
    """What that answer contains then."""
    up: str = ""
    """A path that answers (with whatever status) as soon as it listens, while it is still setting up."""
    env: dict[str, str] = {}

    @property
    def bin(self) -> Path:
        """Return the folder of its environment's programs."""
        return ENVIRONMENTS[self.environment] / "bin"

    @property
    def version(self) -> str:
        """Return the installed version."""
        [found] = self.bin.parent.glob(f"lib/python3*/site-packages/{self.package}-*.dist-info")
        return found.name.removeprefix(f"{self.package}-").removesuffix(".dist-info")


PYTHON = "{bin}/python"
COG = {
    "command": (PYTHON, "-m", "cog.server.http", "--host", "127.0.0.1"), "package": "cog", "environment": "ecosystem",
    "ready": "/health-check", "ready_says": '"status":"READY"', "up": "/",
}  # fmt: skip
BENTOML = {
    "command": ("{bin}/bentoml", "serve", "bentoml_app:Shouter", "--host", "127.0.0.1", "--port", "{port}"),
    "package": "bentoml", "environment": "ecosystem", "ready": "/readyz",
}  # fmt: skip
PROGRAMS = {
    program.name: program
    for program in (
        Program(
            name="fastapi", package="fastapi", environment="ecosystem", command=(PYTHON, "fastapi_app.py"),
            ready="/health", up="/",
        ),
        Program(
            name="litserve", package="litserve", environment="ecosystem-kserve", command=(PYTHON, "litserve_app.py"),
            ready="/health",
        ),
        Program(name="bentoml", **BENTOML, env={"BENTOML_HOME": "{folder}/bentoml", "MOST_CALLS": "1"}),
        Program(name="bentoml-task", **BENTOML, env={"BENTOML_HOME": "{folder}/bentoml", "MOST_CALLS": "3"}),
        Program(name="cog", **COG, folder="cog_model", env={"COG_PREDICT_TYPE_STUB": "run.py:Shouter"}),
        Program(name="cog-stream", **COG, folder="cog_stream", env={"COG_PREDICT_TYPE_STUB": "run.py:Streamer"}),
        Program(name="cog-file", **COG, folder="cog_file", env={"COG_PREDICT_TYPE_STUB": "run.py:Painter"}),
        Program(
            name="litellm", package="litellm", environment="ecosystem", folder="litellm_proxy",
            command=("{bin}/litellm", "--config", "config.yaml", "--host", "127.0.0.1", "--port", "{port}"),
            ready="/health/readiness", env={"LITELLM_MASTER_KEY": "sk-ecosystem-0123456789abcdef"},
        ),
        Program(
            name="kserve", package="kserve", environment="ecosystem-kserve", command=(PYTHON, "kserve_app.py"),
            ready="/v2/models/shouter/ready",
        ),
        Program(
            name="mlserver", package="mlserver", environment="ecosystem-mlserver", folder="mlserver_model",
            command=("{bin}/mlserver", "start", "."), ready="/v2/models/shouter/ready", up="/v2/health/live",
            env={
                "MLSERVER_HOST": "127.0.0.1", "MLSERVER_HTTP_PORT": "{port}", "MLSERVER_GRPC_PORT": "{port2}",
                "MLSERVER_METRICS_PORT": "{port3}", "MLSERVER_PARALLEL_WORKERS": "0", "MLSERVER_DEBUG": "false",
                "MLSERVER_METRICS_DIR": "{folder}/metrics", "MLSERVER_ENVIRONMENTS_DIR": "{folder}/environments",
            },
        ),
        Program(
            name="gradio", package="gradio", environment="ecosystem-kserve", command=(PYTHON, "gradio_app.py"),
            ready="/gradio_api/info",
        ),
    )
}  # fmt: skip


RUNPOD = {
    name: Program(name=name, package="runpod", environment="ecosystem", command=(PYTHON, script), ready="/")
    for name, script in (("runpod", "runpod_plain.py"), ("runpod-stream", "runpod_stream.py"))
}


class Running:
    """A program that runs on 127.0.0.1, in a folder of its own."""

    def __init__(self, program: Program, folder: Path, port: int = 0, **env: str) -> None:
        self.program = program
        self.folder = folder
        self.port = port or free_port()
        folder.mkdir(parents=True, exist_ok=True)
        put = {
            "port": str(self.port), "port2": str(free_port()), "port3": str(free_port()), "folder": str(folder),
            "bin": str(program.bin),
        }  # fmt: skip
        self._env = (
            {name: value for name, value in os.environ.items() if not name.startswith(("TASKSTREAM_", "PIP_"))}
            | BOUNDS
            | {"ECOSYSTEM_FOLDER": str(folder), "PORT": str(self.port), "PYTHONPATH": str(SERVERS), "HOME": str(folder)}
            | {"PATH": f"{program.bin}:{os.environ['PATH']}"}
            | {name: value.format(**put) for name, value in program.env.items()}
            | env
        )
        command = [part.format(**put) for part in program.command]
        self._process = Process(
            program.name, ["env", "-C", str(SERVERS / program.folder), *command], self._env, folder / "log"
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and return at once."""
        self._process.start()

    async def ready(self) -> None:
        """Wait until it takes calls. Raises NotInTime with the end of its output."""
        try:
            await until_ok(self.url + self.program.ready, STARTUP_SECONDS, self.program.ready_says)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._process.tail()}") from None

    def kill(self) -> None:
        """End it and all that it has started, as a power cut would."""
        pid = self._process.pid
        if pid is not None:  # some programs' workers are in sessions of their own
            for each in (pid, *descendants(pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        self._process.kill()

    @property
    def started(self) -> bool:
        """Return True once it was started."""
        return self._process.log.exists()

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def alive(self) -> bool:
        """Return True while it runs."""
        return self._process.status is None

    def hold(self, file: str) -> None:
        """Make a file that the models look for: `hold-setup`, `release`."""
        (self.folder / file).touch()

    def let_go(self, file: str) -> None:
        """Remove such a file."""
        (self.folder / file).unlink(missing_ok=True)

    def trace(self) -> list[str]:
        """Return what the model has noted, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "trace").read_text().splitlines()
        return []

    def tail(self) -> str:
        """Return the end of its output."""
        return self._process.tail()


def check_environments() -> None:
    """Raise FileNotFoundError if an environment is missing."""
    for name, folder in ENVIRONMENTS.items():
        if not (folder / "bin" / "python").exists():
            raise FileNotFoundError(f"{folder.name} is missing: run `make test-servers` (it makes {name})")
