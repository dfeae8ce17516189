"""The work pools: what their templates turn a run into, rendered by the workers' own code."""

import asyncio
import copy
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_args
from urllib.parse import urlsplit
from uuid import uuid4

import kubernetes_validate
import prefect.settings
import pytest
import yaml
from docker.models.containers import _create_container_args
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.server.schemas.actions import validate_base_job_template
from prefect.settings import Settings, temporary_settings
from prefect.settings.base import PrefectBaseSettings
from prefect.utilities.schema_tools.validation import ValidationError, is_valid_schema, validate
from prefect.utilities.templating import find_placeholders
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from pydantic import SecretStr

from deployments import setup
from tests.support.processes import ROOT

FOLDER = ROOT / "deployments"
TEMPLATES = {path.stem: json.loads(path.read_text()) for path in (FOLDER / "pools").glob("*.json")}
DEPLOYMENTS = yaml.safe_load((FOLDER / "prefect.yaml").read_text())["deployments"]
IN_CONTAINERS = [each for each in DEPLOYMENTS if each["work_pool"]["name"] in TEMPLATES]
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
CLUSTER = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
NEWEST = kubernetes_validate.latest_version()

# The settings of the made-up worker hold a password beside a whole address.
pytestmark = pytest.mark.filterwarnings("ignore:PREFECT_SERVER_DATABASE_PASSWORD is set")

each_pool = pytest.mark.parametrize("pool", TEMPLATES)
WRITABLE = "/var/lib/fmnist"
SERVER = "http://worker-sees.example:4200/api"


def secret_settings(model: type[PrefectBaseSettings] = Settings) -> Iterator[str]:
    """The names of all settings that Prefect itself declares secret."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        if SecretStr in kinds:
            yield f"{model.model_config.get('env_prefix', '')}{name}".upper()
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, PrefectBaseSettings):
                yield from secret_settings(kind)


LOGIN = {
    "PREFECT_API_AUTH_STRING": "nobody:NobodysAuthString",
    "PREFECT_API_KEY": "NobodysApiKey",
    "PREFECT_CLIENT_CUSTOM_HEADERS": {"Authorization": "NobodysHeader"},
}
SECRET_SETTINGS = {name: f"Nobodys{name}" for name in secret_settings()} | LOGIN
STORE_KEYS = {"AWS_ACCESS_KEY_ID": "NobodysKey", "AWS_SECRET_ACCESS_KEY": "NobodysSecretKey"}


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker whose settings and environment contain every secret, and with its own home."""
    for name, value in STORE_KEYS.items():
        monkeypatch.setenv(name, value)
    settings = SECRET_SETTINGS | {"PREFECT_API_URL": SERVER, "PREFECT_HOME": "/home/of/the/worker"}
    with temporary_settings({getattr(prefect.settings, n): v for n, v in settings.items()}):
        yield


def rendered(kind: Any, pool: str, **variables: object) -> Any:
    """What a worker makes of a run on that pool, before it starts the job."""
    template = copy.deepcopy(TEMPLATES[pool])
    configuration: Any = asyncio.run(kind.from_template_and_values(template, variables))
    configuration.prepare_for_flow_run(
        FlowRun(flow_id=uuid4(), name="nobodys-run"),
        deployment=DeploymentResponse(flow_id=uuid4(), name="weekly"),
    )
    return configuration


def manifest(**variables: object) -> Any:
    """The job that the Kubernetes worker sends to the cluster."""
    return rendered(KubernetesWorkerJobConfiguration, "kubernetes", **variables).job_manifest


def pod(**variables: object) -> Any:
    return manifest(**variables)["spec"]["template"]["spec"]


def job_container(**variables: object) -> Any:
    (only,) = pod(**variables)["containers"]
    return only


def docker_request(**variables: object) -> Any:
    """What the Docker worker asks of the Docker engine, in the terms of its API."""
    configuration = rendered(DockerWorkerJobConfiguration, "docker", **variables)
    engine: Any = SimpleNamespace(version=lambda: {"Version": "28.0.0"})
    worker = DockerWorker(work_pool_name="docker")
    settings = worker._build_container_settings(engine, configuration)
    return _create_container_args(settings | {"version": "1.48"})


def environment_of(pool: str, **variables: object) -> dict[str, str]:
    """The plain environment variables of the pool's job; none stands twice."""
    if pool == "docker":
        return dict(docker_request(**variables)["environment"])
    entries = job_container(**variables)["env"]
    environment = {entry["name"]: entry["value"] for entry in entries}
    assert len(environment) == len(entries)
    return environment


def test_each_pool_of_containers_has_a_template() -> None:
    """Those that setup.py creates, and no other."""
    assert set(TEMPLATES) == set(setup.POOLS.values()) - {"process"}


@each_pool
def test_the_template_is_accepted_by_prefect(pool: str) -> None:
    """The server's own checks accept the schema and each default."""
    validate_base_job_template(TEMPLATES[pool])
    schema = TEMPLATES[pool]["variables"]
    is_valid_schema(schema, preprocess=False)
    defaults = {n: p["default"] for n, p in schema["properties"].items() if "default" in p}
    validate(defaults, schema, raise_on_error=True, preprocess=False)
    with pytest.raises(ValidationError):
        validate({"image": 1}, schema, raise_on_error=True)


@pytest.mark.parametrize("deployment", IN_CONTAINERS, ids=lambda deployment: deployment["name"])
def test_the_pool_knows_every_variable_that_a_deployment_sets(deployment: Any) -> None:
    """Each variable has the name and the type that the template asks for."""
    schema = TEMPLATES[deployment["work_pool"]["name"]]["variables"]
    chosen = deployment["work_pool"].get("job_variables", {})
    validate(chosen, schema, raise_on_error=True)
    assert chosen.keys() <= schema["properties"].keys()


@each_pool
def test_each_variable_is_described_and_has_an_effect(pool: str) -> None:
    """A form shows what each field means, and no field is useless."""
    variables = TEMPLATES[pool]["variables"]["properties"]
    used = find_placeholders(json.dumps(TEMPLATES[pool]["job_configuration"]))
    assert {placeholder.name for placeholder in used} | {"env"} == variables.keys()
    for name, variable in variables.items():
        assert variable["title"] and variable["description"].endswith("."), name


@each_pool
@pytest.mark.parametrize("name", ["image", "store_url", "s3_region", "command", "name"])
def test_a_variable_of_the_run_replaces_the_default(pool: str, name: str) -> None:
    render = manifest if pool == "kubernetes" else docker_request
    assert "chosen" in json.dumps(render(**{name: "chosen"}))


@each_pool
def test_the_job_knows_its_store_and_sends_heartbeats(pool: str) -> None:
    """Plain variables name the store; heartbeats are on, so that a killed job is noticed."""
    expected = {
        "AWS_ENDPOINT_URL_S3": "http://minio:9000",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FMNIST_STORE__URL": "s3://models/fashion-mnist",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }
    environment = environment_of(pool)
    assert environment.items() >= expected.items()
    # The worker's folder does not exist in the image, which has its own.
    assert "PREFECT_HOME" not in environment


@each_pool
def test_extra_variables_keep_those_of_the_template(pool: str) -> None:
    """A run may have more environment; AWS itself needs no address."""
    environment = environment_of(pool, s3_endpoint=None, env={"FMNIST_TRAINING__EPOCHS": "3"})
    assert environment["FMNIST_TRAINING__EPOCHS"] == "3"
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert "AWS_ENDPOINT_URL_S3" not in environment


def test_the_defaults_are_those_of_the_compose_file() -> None:
    """Image, store, network and host names fit what compose.yaml starts."""
    docker, kubernetes = (
        {n: p.get("default") for n, p in TEMPLATES[pool]["variables"]["properties"].items()}
        for pool in ("docker", "kubernetes")
    )
    worker = COMPOSE["services"]["worker"]
    for name in ("image", "store_url", "s3_endpoint", "s3_region", "image_pull_policy"):
        assert docker[name] == kubernetes[name]
    assert docker["image"] == worker["image"]
    assert docker["store_url"] == worker["environment"]["FMNIST_STORE__URL"]
    assert docker["s3_region"] == worker["environment"]["AWS_DEFAULT_REGION"]
    assert docker["networks"] == [f"{COMPOSE['name']}_default"]
    for address in (docker["s3_endpoint"], docker["prefect_api_url"]):
        assert urlsplit(address).hostname in COMPOSE["services"]


def of_kubernetes(job: Any) -> Any:
    """The job without the two fields that Prefect demands where Kubernetes ignores them."""
    job = copy.deepcopy(job)
    for name in ("parallelism", "completions"):
        del job["spec"]["template"]["spec"][name]
    return job


def test_the_job_is_valid_for_kubernetes() -> None:
    """Each field is known to Kubernetes and of its type; but for two, which Prefect insists on."""
    job = manifest(
        service_account_name="nobody",
        labels={"team": "a"},
        annotations={"note": "b"},
        command="python flows/train.py --help",
        env={"FMNIST_TRAINING__EPOCHS": "3"},
    )
    assert kubernetes_validate.validate(of_kubernetes(job), NEWEST, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError, match="'completions', 'parallelism'"):
        kubernetes_validate.validate(job, NEWEST, strict=True)


def test_the_check_finds_mistakes_in_the_job() -> None:
    misspelt, mistyped = of_kubernetes(manifest()), of_kubernetes(manifest())
    container = misspelt["spec"]["template"]["spec"]["containers"][0]
    container["securityContext"]["readOnlyRoot"] = True
    mistyped["spec"]["ttlSecondsAfterFinished"] = "week"
    for job in (misspelt, mistyped):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(job, NEWEST, strict=True)


@pytest.mark.parametrize("resource", CLUSTER, ids=lambda resource: resource["kind"])
def test_the_resources_of_the_cluster_are_valid(resource: Any) -> None:
    """Namespace and volume claim pass the same check."""
    assert kubernetes_validate.validate(resource, NEWEST, strict=True)


def test_the_job_runs_once_and_is_cleaned_up() -> None:
    """Prefect alone retries; a finished job stays for a week; a stopped one gets a minute to end."""
    spec = manifest()["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["ttlSecondsAfterFinished"] == 7 * 24 * 3600
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 60


def test_the_job_runs_the_flow_and_carries_its_labels() -> None:
    """The image has no entrypoint: the arguments are the program; the labels name the run."""
    job = manifest(labels={"team": "a"})
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert "command" not in container
    assert container["args"] == ["prefect", "flow-run", "execute"]
    run = next(each["value"] for each in container["env"] if each["name"] == "PREFECT__FLOW_RUN_ID")
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert labels["prefect.io/flow-run-id"] == run
        assert labels["prefect.io/deployment-name"] == "weekly"
        assert labels["team"] == "a"
    assert job["metadata"]["generateName"] == "nobodys-run-"
    assert container["image"] == "fmnist-training:latest"
    assert container["imagePullPolicy"] == "IfNotPresent"


def test_the_job_in_kubernetes_has_bounded_resources() -> None:
    """Cores and memory are requested and limited, above the job's peak of 1.2 GB."""
    assert job_container()["resources"] == {
        "requests": {"cpu": "2", "memory": "1536Mi"},
        "limits": {"cpu": "2", "memory": "3Gi"},
    }
    assert job_container(memory_limit="4Gi")["resources"]["limits"]["memory"] == "4Gi"


def test_the_job_in_kubernetes_has_no_rights() -> None:
    """It meets the 'restricted' standard, on a read-only root, as the image's own user."""
    assert pod()["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert job_container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["automountServiceAccountToken"] is False
    # Otherwise each service of the namespace adds variables, and one called fmnist adds settings.
    assert pod()["enableServiceLinks"] is False
    namespace = next(resource for resource in CLUSTER if resource["kind"] == "Namespace")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}


def test_the_job_in_kubernetes_can_write_where_it_must() -> None:
    """The cluster's claim is mounted on the image's writable folder, and in the job's namespace."""
    (volume,), (mount,) = pod()["volumes"], job_container()["volumeMounts"]
    assert mount == {"name": volume["name"], "mountPath": WRITABLE}
    assert volume["persistentVolumeClaim"] == {"claimName": "fmnist-cache"}
    of_kind = {resource["kind"]: resource["metadata"] for resource in CLUSTER}
    claim = of_kind["PersistentVolumeClaim"]
    assert claim["name"] == "fmnist-cache"
    assert manifest()["metadata"]["namespace"] == of_kind["Namespace"]["name"] == claim["namespace"]


def test_secrets_reach_the_job_by_reference() -> None:
    """All keys of two Kubernetes secrets are its environment; a missing one fails it at once.

    With a reference that is not optional, the pod would wait for the secret, and the runs that
    follow for the pod.
    """
    assert job_container()["envFrom"] == [
        {"secretRef": {"name": "fmnist-store", "optional": True}},
        {"secretRef": {"name": "fmnist-prefect", "optional": True}},
    ]
    # `env` would take precedence over the secret.
    assert not environment_of("kubernetes").keys() & (SECRET_SETTINGS.keys() | STORE_KEYS.keys())
    # Nor is any secret that the worker knows elsewhere in the job.
    assert len(SECRET_SETTINGS) > len(LOGIN)
    assert "Nobodys" not in json.dumps(manifest())


def test_the_job_uses_the_workers_server_unless_told_otherwise() -> None:
    """Inside the cluster the address is the same; a worker outside may use a different one."""
    assert environment_of("kubernetes")["PREFECT_API_URL"] == SERVER
    other = "http://prefect:4200/api"
    assert environment_of("kubernetes", prefect_api_url=other)["PREFECT_API_URL"] == other


def test_the_container_runs_the_flow() -> None:
    """The image has no entrypoint: the command is the program; the labels name the run."""
    request = docker_request()
    assert request["command"] == "prefect flow-run execute"
    assert "entrypoint" not in request
    assert request["image"] == "fmnist-training:latest"
    run = request["environment"]["PREFECT__FLOW_RUN_ID"]
    assert request["labels"]["io.prefect.flow-run-id"] == run
    # Without a policy, an image called 'latest' would be pulled from a registry that has none.
    configuration = rendered(DockerWorkerJobConfiguration, "docker")
    assert configuration._determine_image_pull_policy().value == "IfNotPresent"


def test_the_keys_of_the_store_are_a_file_mounted_read_only() -> None:
    """boto3 finds it by a variable; no key is in the container's environment or labels."""
    request = docker_request()
    (file,) = (bind for bind in request["host_config"]["Binds"] if bind.endswith(":ro"))
    assert file == "/etc/fmnist/aws-credentials:/run/secrets/aws-credentials:ro"
    assert request["environment"]["AWS_SHARED_CREDENTIALS_FILE"] == file.split(":")[1]
    for word in (*STORE_KEYS, *STORE_KEYS.values()):
        assert word not in json.dumps(request)


def test_the_container_gets_the_login_and_no_other_secret() -> None:
    """Docker has no secrets for plain containers: the login to the server is in the environment."""
    environment = environment_of("docker")
    assert environment.keys() & SECRET_SETTINGS.keys() == LOGIN.keys()
    assert environment["PREFECT_API_AUTH_STRING"] == LOGIN["PREFECT_API_AUTH_STRING"]
    assert json.dumps(list(environment.values())).count("Nobodys") == len(LOGIN)


def test_the_container_has_no_rights_and_bounded_memory() -> None:
    """It can write to one volume only, can gain no capability, and cannot swap."""
    host = docker_request()["host_config"]
    assert host["ReadonlyRootfs"] is True
    writable = [bind for bind in host["Binds"] if not bind.endswith(":ro")]
    assert writable == [f"fmnist-jobs:{WRITABLE}"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert not host.get("Privileged")
    assert host["Memory"] == host["MemorySwap"] == 3 * 1024**3
    # An init process ends the others.
    assert host["Init"] is True
    # Otherwise the worker cannot learn how the container ended.
    assert not host.get("AutoRemove")


def test_the_container_is_in_the_network_of_the_compose_file() -> None:
    """There it reaches server and store by name, not by the address that the worker uses."""
    request = docker_request()
    assert request["host_config"]["NetworkMode"] == "fmnist_default"
    assert list(request["networking_config"]) == ["fmnist_default"]
    assert request["environment"]["PREFECT_API_URL"] == "http://prefect:4200/api"


@each_pool
def test_no_template_holds_a_secret(pool: str) -> None:
    environment = TEMPLATES[pool]["job_configuration"]["env"]
    for name in (*SECRET_SETTINGS, *STORE_KEYS):
        assert environment.get(name) is None
        assert name not in TEMPLATES[pool]["variables"]["properties"]["env"]["default"]
