"""What must hold for deployments/prefect.yaml, whatever a team changes in it."""

import ast
import re
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel, RawScheduleConfig
from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY as HEARTBEAT

from deployments import setup
from fmnist.orchestration.server import run_settings
from fmnist.settings import Settings
from tests.support.processes import ROOT

FILE = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = FILE["deployments"]
each_deployment = pytest.mark.parametrize(
    "deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"]
)


def test_the_file_is_valid_and_names_each_deployment_once() -> None:
    """Prefect understands it, and no deployment replaces another."""
    names = [deployment.name for deployment in PrefectYamlModel.model_validate(FILE).deployments]
    assert names and len(names) == len(set(names))


@each_deployment
def test_a_run_waits_while_another_is_active(deployment: dict[str, Any]) -> None:
    """One run at a time; cancelling the new one instead can block the deployment for good."""
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


@each_deployment
def test_the_entrypoint_is_a_flow_of_this_project(deployment: dict[str, Any]) -> None:
    path, _, name = deployment["entrypoint"].partition(":")
    (flow,) = (
        node
        for node in ast.parse((ROOT / path).read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    assert ast.unparse(flow.decorator_list[0]).startswith("flow(")


@each_deployment
def test_the_settings_of_a_deployment_are_valid(deployment: dict[str, Any]) -> None:
    """Each has the name, type and range that the command line asks of it too."""
    Settings.model_validate(deployment["parameters"]["settings"])
    for schedule in deployment["schedules"]:
        Settings.model_validate(schedule.get("parameters", {}).get("settings", {}))


@each_deployment
def test_the_schedules_of_a_deployment_are_valid(deployment: dict[str, Any]) -> None:
    """Each has a name, so that deploying again updates it; a cron expression has a time zone."""
    slugs = [schedule["slug"] for schedule in deployment["schedules"]]
    assert len(slugs) == len(set(slugs))
    for schedule in deployment["schedules"]:
        RawScheduleConfig.model_validate(schedule)
        _schedule_config_to_deployment_schedule(schedule)
        assert "cron" not in schedule or schedule["timezone"]


@each_deployment
def test_the_version_of_a_deployment_is_the_commit(deployment: dict[str, Any]) -> None:
    """It is the output of a step that asks git, or the image."""
    step_id = re.fullmatch(r"\{\{ (\w+)\.stdout \}\}", deployment["version"])
    assert step_id
    steps = [step for steps in FILE["build"] for step in steps.values()]
    (script,) = (step["script"] for step in steps if step["id"] == step_id[1])
    assert "git describe" in script and "$SOURCE_COMMIT" in script


@each_deployment
def test_every_job_sends_the_heartbeats_that_the_automation_waits_for(
    deployment: dict[str, Any],
) -> None:
    """The automation waits for a little more than three heartbeats, wherever the job runs."""
    pool = deployment["work_pool"]
    kind = setup.POOLS[pool["name"]]  # so setup.py creates the pool
    if kind == "process":
        environment = pool["job_variables"]["env"]
    else:
        environment = setup.base_job_template(kind)["job_configuration"]["env"]
    seconds = int(environment[HEARTBEAT.name])
    assert seconds == run_settings()[HEARTBEAT]
    (automation,) = (
        found
        for found in setup.declared_automations(26)
        if "prefect.flow-run.heartbeat" in found["trigger"].get("after", [])
    )
    assert 3 * seconds < automation["trigger"]["within"] <= 4 * seconds


def test_the_flow_itself_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one run at a time, a flow that is retried could wait for its own place."""
    monkeypatch.syspath_prepend(str(ROOT / "flows"))
    import train

    assert not train.training_job.retries
