"""What deploy/helm promises: its objects are rendered by helm, and what its pods run is run here."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskstream import settings
from taskstream.nats_server.server import find_executable
from taskstream.vault.sealing import new_key
from testkit.backend import BackendServer
from testkit.helm import CHART, NAMESPACE, RELEASE, HelmRefused, lint, render
from testkit.processes import Process, clients_of, environment, python
from testkit.waiting import free_port, until_ok, wait_until

SECRETS = {
    "jwt-secret": "a secret of the tests, longer than 32 bytes",
    "seal-keys": new_key(),
    "nats-password": "0123456789abcdef",
    "nats-route-password": "fedcba9876543210",
}
SECRETS_PATH = "/run/secrets/taskstream"
WORKLOADS = {"Deployment", "StatefulSet"}
KEDA = {
    "tokenSecret": "demand-token",
    "scaledObjects": [{"name": "render", "pool": "render", "deployment": "render-backend", "maxReplicas": 10}],
}
MONITORING = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}


def of(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """What the chart renders by default."""
    return render()


@pytest.fixture(scope="module")
def everything() -> list[dict[str, Any]]:
    """What the chart renders with all options."""
    return render(
        keda=KEDA,
        monitoring=MONITORING,
        networkPolicy={"enabled": True},
        ingress={"enabled": True, "host": "tasks.example.com", "tlsSecret": "tls"},
    )


def workloads(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] in WORKLOADS]


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod(workload)["containers"], *pod(workload).get("initContainers", ())]


def container(objects: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [found] = [each for workload in workloads(objects) for each in containers(workload) if each["name"] == name]
    return found


def variables(given: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in given["env"] if "value" in each}


def test_helm_finds_nothing_wrong() -> None:
    said = lint(keda=KEDA, monitoring=MONITORING)

    assert not [line for line in said.splitlines() if line and "icon is recommended" not in line], said


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replica": 3}, "replica"),
        ({"nats": {"replicas": 2}}, "replicas"),
        ({"settings": {"TASK_RETENTION": "1"}}, "TASK_RETENTION"),
        ({"settings": {"TASKSTREAM_JWT_SECRET": "x" * 40}}, "TASKSTREAM_JWT_SECRET is a secret"),
        ({"settings": {"TASKSTREAM_PORT": "80"}}, "TASKSTREAM_PORT is set by another value"),
        ({"nats": {"enabled": False}}, "externalNats.url"),
        ({"ingress": {"enabled": True}}, "ingress.host"),
        ({"keda": {"scaledObjects": KEDA["scaledObjects"]}}, "keda.tokenSecret"),
    ],
)
def test_wrong_values_are_refused_and_named(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(HelmRefused, match=re.escape(complaint)):
        render(**values)


def test_every_secret_setting_is_refused_among_the_settings() -> None:
    for field in settings.hints():
        if settings.is_secret(field):
            with pytest.raises(HelmRefused, match="is a secret"):
                render(settings={settings.variable(field): "x"})


@pytest.mark.parametrize("name", ["api", "worker"])
@pytest.mark.parametrize("nats", [{"enabled": True}, {"enabled": False}], ids=["own", "external"])
def test_the_environment_is_made_of_real_settings_and_loads(name: str, nats: dict[str, Any], tmp_path: Path) -> None:
    rendered = render(nats=nats, externalNats={"url": "nats://a:4222"}, settings={"TASKSTREAM_TASK_RETENTION": "86400"})
    given = variables(container(rendered, name))
    for secret, content in SECRETS.items():
        (tmp_path / secret).write_text(f"{content}\n")
    loaded = settings.load({key: value.replace(SECRETS_PATH, str(tmp_path)) for key, value in given.items()})

    assert settings.unknown(given) == []
    assert loaded.jwt_secret == SECRETS["jwt-secret"]
    assert loaded.nats_password == SECRETS["nats-password"]
    assert loaded.replicas == 3
    assert loaded.task_retention == 86400


def test_no_container_has_more_rights_than_it_needs(everything: list[dict[str, Any]]) -> None:
    assert len(workloads(everything)) == 3
    for workload in workloads(everything):
        spec = pod(workload)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for each in containers(workload):
            assert each["securityContext"] == {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert each["resources"]["limits"]["memory"]
            assert not re.search("password|secret", str([v for v in each.get("env", ()) if "_FILE" not in v["name"]]))


def test_an_upgrade_can_replace_the_workers_before_the_apis() -> None:
    digest = "sha256:" + "0" * 64
    rendered = render(image={"digest": digest}, worker={"tag": "2.0"})

    assert container(rendered, "worker")["image"] == "taskstream:2.0"
    assert container(rendered, "api")["image"] == f"taskstream@{digest}"


def test_every_selector_selects_the_pods_that_are_meant(everything: list[dict[str, Any]]) -> None:
    labels = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in workloads(everything)
    }

    def selected(selector: dict[str, str]) -> set[str]:
        return {name for name, given in labels.items() if selector.items() <= given.items()}

    for workload in workloads(everything):
        assert selected(workload["spec"]["selector"]["matchLabels"]) == {workload["metadata"]["name"]}
    guarded: set[str] = set()
    for each in everything:
        if each["kind"] == "PodDisruptionBudget":
            assert each["spec"]["maxUnavailable"] == 1
            guarded |= selected(each["spec"]["selector"]["matchLabels"])
    assert guarded == labels.keys()
    assert selected(of(everything, "Service", "ts-taskstream-api")["spec"]["selector"]) == {"ts-taskstream-api"}
    assert selected(of(everything, "Service", "ts-nats")["spec"]["selector"]) == {"ts-nats"}
    assert selected(of(everything, "PodMonitor", "ts-taskstream-worker")["spec"]["selector"]["matchLabels"]) == {
        "ts-taskstream-worker"
    }
    policy = of(everything, "NetworkPolicy", "ts-nats")["spec"]
    assert selected(policy["podSelector"]["matchLabels"]) == {"ts-nats"}
    to_clients, to_routes = policy["ingress"]
    assert selected(to_clients["from"][0]["podSelector"]["matchLabels"]) == {
        "ts-taskstream-api",
        "ts-taskstream-worker",
    }
    assert selected(to_routes["from"][0]["podSelector"]["matchLabels"]) == {"ts-nats"}


def test_every_port_has_the_name_that_others_use(everything: list[dict[str, Any]]) -> None:
    for name in ("api", "worker", "nats"):
        given = container(everything, name)
        named = {port["name"] for port in given["ports"]}
        assert {
            given[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        } <= named
    [port] = of(everything, "Service", "ts-taskstream-api")["spec"]["ports"]
    assert port["targetPort"] in {each["name"] for each in container(everything, "api")["ports"]}
    [endpoint] = of(everything, "ServiceMonitor", "ts-taskstream-api")["spec"]["endpoints"]
    assert endpoint["port"] == port["name"]
    [scraped] = of(everything, "PodMonitor", "ts-taskstream-worker")["spec"]["podMetricsEndpoints"]
    assert scraped["port"] in {each["name"] for each in container(everything, "worker")["ports"]}


def test_a_pod_has_more_time_to_end_than_its_process_takes(objects: list[dict[str, Any]]) -> None:
    for name, setting in (("api", "TASKSTREAM_DRAIN"), ("worker", "TASKSTREAM_SHUTDOWN_GRACE")):
        given = pod(of(objects, "Deployment", f"ts-taskstream-{name}"))
        assert given["terminationGracePeriodSeconds"] > int(variables(given["containers"][0])[setting]) + 10


def test_readiness_is_never_a_reason_to_restart(objects: list[dict[str, Any]]) -> None:
    for name in ("api", "worker"):
        given = container(objects, name)
        assert given["livenessProbe"]["httpGet"]["path"] == given["startupProbe"]["httpGet"]["path"] == "/health/live"
        assert given["readinessProbe"]["httpGet"]["path"] == "/health/ready"


def test_the_nats_servers_are_as_durable_as_those_of_the_cluster_file(objects: list[dict[str, Any]]) -> None:
    text = of(objects, "ConfigMap", "ts-nats")["data"]["nats.conf"]
    cluster = (CHART.parents[1] / "nats" / "cluster.conf").read_text()

    for line in ("max_payload: 8MB", 'write_deadline: "10s"', "sync_interval: always"):
        assert line in text
        assert line in cluster


def test_keda_reads_the_demand_of_the_pool_with_a_token(everything: list[dict[str, Any]]) -> None:
    scaled = of(everything, "ScaledObject", "render")["spec"]
    [trigger] = scaled["triggers"]

    assert scaled["minReplicaCount"] == 0
    assert trigger["metadata"]["url"] == f"http://ts-taskstream-api.{NAMESPACE}:8080/api/pools/render/demand"
    assert trigger["metadata"]["authMode"] == "bearer"
    authentication = of(everything, "TriggerAuthentication", trigger["authenticationRef"]["name"])
    assert authentication["spec"]["secretTargetRef"] == [{"parameter": "token", "name": "demand-token", "key": "token"}]


def prepare_nats(rendered: list[dict[str, Any]], folder: Path) -> Path:
    """Do what the first container of a NATS pod does, with its own script, and return the configuration."""
    for name, content in SECRETS.items():
        (folder / name).write_text(f"{content}\n")
    (folder / "config").mkdir()
    (folder / "config" / "nats.conf").write_text(of(rendered, "ConfigMap", "ts-nats")["data"]["nats.conf"])
    (folder / "nats").mkdir()
    first = container(rendered, "passwords")
    script = first["args"][0]
    for path, here in (("/run/nats", folder / "nats"), ("/config", folder / "config"), ("/secrets", folder)):
        script = re.sub(rf"(?<![\w/]){path}(?=/)", str(here), script)
    subprocess.run([*first["command"], script], check=True)
    return folder / "nats" / "nats.conf"


@pytest.mark.parametrize("replicas", [1, 3, 5])
def test_nats_accepts_its_configuration_and_knows_every_other_server(replicas: int, tmp_path: Path) -> None:
    rendered = render(nats={"replicas": replicas})
    configuration = prepare_nats(rendered, tmp_path)
    checked = subprocess.run(
        [find_executable(), "-t", "-c", configuration],
        env=os.environ | {"SERVER_NAME": "ts-nats-0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr

    routes = re.findall(r"nats://route:(\w+)@([\w.-]+):6222", (tmp_path / "nats" / "passwords.conf").read_text())
    named = [f"{RELEASE}-nats-{number}.{RELEASE}-nats" for number in range(replicas)] if replicas > 1 else []
    assert routes == [(SECRETS["nats-route-password"], name) for name in named]
    urls = variables(container(rendered, "api"))["TASKSTREAM_NATS_URL"].split(",")
    assert urls == [f"nats://{RELEASE}-nats-{number}.{RELEASE}-nats:4222" for number in range(replicas)]


async def test_what_the_pods_run_is_a_service_that_runs_tasks(tmp_path: Path) -> None:
    rendered = render(nats={"replicas": 1}, settings={"TASKSTREAM_ALLOW_PRIVATE_BACKENDS": "true"})
    client, monitor, http, metrics = (free_port() for _ in range(4))
    configuration = prepare_nats(rendered, tmp_path)
    text = configuration.read_text()
    for old, new in (
        ("port: 4222", f"listen: 127.0.0.1:{client}"),
        ("http_port: 8222", f"http: 127.0.0.1:{monitor}"),
        ('"/data"', f'"{tmp_path / "store"}"'),
        ("max_file_store: 18GB", "max_file_store: 1GB"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    configuration.write_text(text)
    command = container(rendered, "nats")["command"]
    assert command == ["nats-server", "--config", "/run/nats/nats.conf"]
    started: list[Process] = []

    def start(name: str, arguments: list[str], env: dict[str, str]) -> Process:
        started.append(Process(name, arguments, env, tmp_path / f"{name}.log"))
        return started[-1].start()

    def env_of(name: str, **own: str) -> dict[str, str]:
        given = variables(container(rendered, name)) | own
        here = {
            SECRETS_PATH: str(tmp_path),
            f"{RELEASE}-nats-0.{RELEASE}-nats:4222": f"127.0.0.1:{client}",
            f"{RELEASE}-nats-0.{RELEASE}-nats:8222": f"127.0.0.1:{monitor}",
            f"{RELEASE}-taskstream-api:8080": f"127.0.0.1:{http}",
        }
        for old, new in here.items():
            given = {key: value.replace(old, new) for key, value in given.items()}
        return environment({key.removeprefix("TASKSTREAM_"): value for key, value in given.items()})

    try:
        nats = start(
            "nats",
            [str(find_executable()), *command[1:-1], str(configuration)],
            {**os.environ, "SERVER_NAME": "ts-nats-0"},
        )
        await wait_until(lambda: "Server is ready" in nats.output(), "the nats-server")
        worker = container(rendered, "worker")
        start("worker", python("taskstream", *worker["args"]), env_of("worker", TASKSTREAM_METRICS_PORT=str(metrics)))
        api = container(rendered, "api")
        folder = {
            "TASKSTREAM_HOST": "127.0.0.1",
            "TASKSTREAM_PORT": str(http),
            "TASKSTREAM_INDEX_DIR": str(tmp_path / "index"),
        }
        start("api", python("taskstream", *api["args"]), env_of("api", **folder, TASKSTREAM_DRAIN="0"))

        for given, port in ((api, http), (worker, metrics)):
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                await until_ok(f"http://127.0.0.1:{port}{given[probe]['httpGet']['path']}", 60)
        async with BackendServer() as backend, clients_of(f"http://127.0.0.1:{http}") as clients:
            ready = (await clients.admin.get("/health/ready")).body
            assert ready["nats"]["durability"] == "always"
            assert ready["storage"]["limitBytes"] is not None
            await clients.admin.register(backend, "one")
            task = await clients.alice.submit({"n": 1})
            assert (await clients.alice.ended(task))["status"] == "FINISHED"
    finally:
        for process in reversed(started):
            process.kill()


def test_the_alerts_of_the_release_are_those_that_are_tested(everything: list[dict[str, Any]]) -> None:
    [file] = (CHART.parents[1] / "prometheus" / "rules").glob("*.yaml")

    assert of(everything, "PrometheusRule", "ts-taskstream")["spec"] == yaml.safe_load(file.read_text())
