"""What stands in deployments/: the deployments, the stack, the automations."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore

from deployments import setup
from deployments.stack import SECRETS
from tests.support.processes import ROOT, free_port, run_program

HERE = ROOT / "deployments"
PREFECT = yaml.safe_load((HERE / "prefect.yaml").read_text())
COMPOSE_TEXT = (HERE / "compose.yaml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)["services"]
LASTING = {name: spec for name, spec in SERVICES.items() if spec["restart"] != "no"}
by_name = pytest.mark.parametrize("name", SERVICES)


# ---- prefect.yaml -------------------------------------------------------------------------------


@pytest.mark.parametrize("deployment", PREFECT["deployments"], ids=lambda found: found["name"])
def test_each_deployment_says_what_when_and_one_at_a_time(deployment: dict[str, Any]) -> None:
    """Description, tags, the commit as version, a named schedule in a time zone, and a queue."""
    assert len(deployment["description"]) > 30
    assert deployment["tags"]
    assert deployment["version"] == "{{ source.stdout }}"
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    (schedule,) = deployment["schedules"]
    assert schedule.keys() == {"slug", "cron", "timezone", "active"}
    assert deployment["entrypoint"] == "flows/train.py:training_job"
    assert deployment["parameters"]["settings"].keys() == {"training", "gate"}


def test_there_are_three_deployments_and_one_schedule_is_on() -> None:
    """A team that deploys all of them gets one run a night."""
    kinds = {found["work_pool"]["name"]: found["schedules"] for found in PREFECT["deployments"]}
    assert kinds.keys() == {"training", "docker", "kubernetes"} == setup.POOLS.keys()
    assert [pool for pool, (schedule,) in kinds.items() if schedule["active"]] == ["training"]


def test_the_deployed_settings_are_the_defaults_but_for_the_champion() -> None:
    """A deployment starts from the values that were measured, and lets no worse model through."""
    from fmnist.settings import Settings, non_defaults

    for deployment in PREFECT["deployments"]:
        settings = Settings.model_validate(deployment["parameters"]["settings"])
        assert non_defaults(settings) == {"gate.champion": "not_worse"}


def test_the_version_is_the_commit() -> None:
    """Git says it in a checkout; elsewhere the image's variable does."""
    (step,) = PREFECT["build"]
    script = step["prefect.deployments.steps.run_shell_script"]["script"]

    def said(folder: Path) -> str:
        return subprocess.run(
            script, shell=True, cwd=folder, env={"PATH": "/usr/bin:/bin", "SOURCE_COMMIT": "built"},
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", said(ROOT))
    assert said(Path("/")) == "built"


# ---- compose.yaml -------------------------------------------------------------------------------


def test_the_compose_file_is_valid() -> None:
    """Compose's own schema finds nothing wrong with it."""
    schema = ["--builtin-schema", "vendor.compose-spec"]
    done = run_program("-m", "check_jsonschema", *schema, str(HERE / "compose.yaml"))
    assert done.returncode == 0, done.stdout


@by_name
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    """Every published port is bound to the loopback address."""
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("name", LASTING)
def test_every_lasting_service_is_checked_and_started_again(name: str) -> None:
    """It has a health check, and comes back after a failure or a restart of the machine."""
    assert LASTING[name]["healthcheck"]["test"]
    assert LASTING[name]["restart"] == "unless-stopped"
    assert LASTING[name]["volumes"]


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_has_a_default(secret: str) -> None:
    """Each is asked for with a message, and stands nowhere with a value."""
    uses = re.findall(rf"\$\{{{secret}([^}}]*)\}}", COMPOSE_TEXT)
    assert any(use.startswith(":?") and "stack.py secrets" in use for use in uses)
    assert all(use == "" or use.startswith(":?") for use in uses)


@by_name
def test_every_volume_is_declared_or_a_file_of_the_project(name: str) -> None:
    """No service mounts a folder of the machine that it runs on."""
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        declared = source in yaml.safe_load(COMPOSE_TEXT)["volumes"]
        assert declared or ((HERE / source).is_file() and volume.endswith(":ro")), volume


def test_every_job_sends_the_heartbeats_that_the_automation_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The automation's patience is three heartbeats and some, wherever the job runs."""
    monkeypatch.syspath_prepend(str(ROOT / "flows"))
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY as FREQUENCY

    from fmnist.orchestration import server

    (process,) = [d for d in PREFECT["deployments"] if d["name"] == "process"]
    environments = [process["work_pool"]["job_variables"]["env"]]
    for pool in ("docker", "kubernetes"):
        environments.append(setup.base_job_template(pool)["job_configuration"]["env"])
    sent = {int(environment[FREQUENCY.name]) for environment in environments}
    (every,) = sent | {server._settings_of_a_run()[FREQUENCY]}
    automation = setup.declared_automations(26)[0]
    assert "prefect.flow-run.heartbeat" in automation["trigger"]["after"]
    assert 3 * every < automation["trigger"]["within"] <= 4 * every


def test_the_flow_itself_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a queue of one, a flow that comes back by itself could wait for its own place."""
    monkeypatch.syspath_prepend(str(ROOT / "flows"))
    import train

    assert not train.training_job.retries


def test_runs_of_other_flows_are_left_alone() -> None:
    """They may send fewer heartbeats, and their alerts are their own."""
    for declared in setup.declared_automations(26):
        assert declared["trigger"]["match_related"]["prefect.resource.name"] == "fashion-mnist"


def test_the_policy_and_the_worker_name_the_same_place() -> None:
    """The job may write where its store is, and only there."""
    url = SERVICES["worker"]["environment"]["FMNIST_STORE__URL"].removeprefix("s3://")
    statements = json.loads((HERE / "minio-policy.json").read_text())["Statement"]
    bucket, _, prefix = url.partition("/")
    assert [statement["Resource"] for statement in statements] == [
        [f"arn:aws:s3:::{bucket}"],
        [f"arn:aws:s3:::{bucket}/{prefix}/*"],
    ]
    assert f"store/{bucket}\n" in (HERE / "minio-setup.sh").read_text()


# ---- automations.yaml ---------------------------------------------------------------------------


def test_the_automations_are_valid() -> None:
    """Prefect understands each of them, once the webhook's block is filled in."""
    for declared in setup.declared_automations(26):
        for action in declared["actions"]:
            if action["type"] == "call-webhook":
                action["block_document_id"] = "00000000-0000-0000-0000-000000000001"
        assert AutomationCore.model_validate(declared).name == declared["name"]


def test_no_run_that_was_judged_is_taken_for_crashed() -> None:
    """The heartbeat's automation knows the states that the flow ends in by their own names.

    And the one in which a run that Kubernetes evicted waits for its next start.
    """
    expected = setup.declared_automations(26)[0]["trigger"]["expect"]
    for state in ("Promoted", "Rejected", "Failed", "Cancelled", "Crashed", "AwaitingRetry"):
        assert f"prefect.flow-run.{state}" in expected


@pytest.mark.parametrize(("hours", "seconds"), [(26, 93_600), (0.01, 36)])
def test_the_silence_before_an_alert_can_be_set(hours: float, seconds: float) -> None:
    """In hours, for schedules other than nightly."""
    silence = setup.declared_automations(hours)[-1]
    assert float(silence["trigger"]["within"]) == seconds
    assert f"for {hours} hours" in silence["actions"][0]["payload"]


def test_a_server_that_cannot_be_set_up_is_named() -> None:
    """One line says which server and why, and the exit code is 1."""
    address = f"http://127.0.0.1:{free_port()}/api"
    variables = {"PREFECT_API_URL": address, "PREFECT_CLIENT_MAX_RETRIES": "0"}
    done = run_program(str(HERE / "setup.py"), timeout=120, **variables)
    assert done.returncode == 1
    assert done.stderr.startswith(f"setup: the Prefect server at {address} was not set up: ")
    assert "Traceback" not in done.stderr
