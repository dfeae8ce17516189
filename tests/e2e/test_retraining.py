"""Retraining on the real stack, through what goes right and what goes wrong. In this order."""

import getpass
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from deployments import stack as stack_command
from tests.e2e.conftest import (
    DEPLOYMENT,
    DEPLOYMENTS,
    ENDLESS,
    LONG,
    LOW_BAR,
    MEDIUM,
    PROMOTED,
    REJECTED,
    WORSE,
    Operator,
    outcome_of,
    run_id_of,
    until,
)
from tests.support.processes import ROOT, files_in, kept_run
from tests.support.records import FILES

# A store that was never used would look unchanged too early.
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("promoted")]


def test_a_schedule_creates_a_run_that_is_trained_published_and_promoted(
    operator: Operator, promoted: FlowRun
) -> None:
    """The worker picks it up when it is due, and the store has the run whole and as champion."""
    assert promoted.auto_scheduled
    assert outcome_of(promoted) == "promoted", operator.log(promoted.id)
    assert "test accuracy 0." in promoted.state.message
    assert "above the required 0.5000" in promoted.state.message
    stored = operator.stored()
    run_id = run_id_of(promoted)
    run = f"runs/{run_id}/"
    assert {key.removeprefix(run) for key in stored if key.startswith(run)} == {
        *FILES,
        "manifest.json",
    }
    assert run_id in promotions(operator)


def promotions(operator: Operator) -> list[str]:
    """Every run that became the champion, whoever is it now."""
    moves = json.loads(operator.fmnist("history", "--limit", "1000", "--json"))["moves"]
    return [move["run_id"] for move in moves if move["move"] == "promotion"]


def test_a_rejected_run_says_why_and_leaves_the_champion(
    operator: Operator, promoted: FlowRun, rejected: FlowRun
) -> None:
    """It is stored whole too, and is completed as far as Prefect is concerned."""
    assert outcome_of(rejected) == "rejected", operator.log(rejected.id)
    assert "below the required 0.9900" in rejected.state.message
    assert {*rejected.tags} == {*DEPLOYMENTS["process"]["tags"], "official-data", "rejected"}
    assert f"runs/{run_id_of(rejected)}/manifest.json" in operator.stored()
    assert run_id_of(rejected) not in promotions(operator)


def test_deploying_and_setting_up_again_change_nothing(operator: Operator) -> None:
    """Both commands may be repeated: no second deployment, schedule, pool or automation comes."""

    def seen() -> list[int]:
        deployments = operator.client.read_deployments()
        return [
            len(deployments),
            *(len(deployment.schedules) for deployment in deployments),
            len(operator.client.read_work_pools()),
            len(operator.client.read_automations()),
        ]

    before = seen()
    operator.deploy()
    operator.stack("start")
    assert seen() == before
    assert before[0] == 1
    assert [pool.name for pool in operator.client.read_work_pools()] == ["training"]


def test_settings_that_a_run_does_not_give_come_from_deployment_and_worker(
    operator: Operator, rejected: FlowRun
) -> None:
    """A run gives two settings: the deployment's others and the worker's environment hold too."""
    settings = json.loads(operator.read_object(f"runs/{run_id_of(rejected)}/settings.json"))
    assert settings["training"]["epochs"] == REJECTED["training"]["epochs"]  # the run's own
    assert settings["training"]["warmup_fraction"] == 0  # the worker's environment
    assert settings["store"]["url"] == "s3://models/fashion-mnist"
    higher = DeploymentUpdate(parameters={"settings": {"gate": {"min_accuracy": 0.97}}})
    operator.client.update_deployment(operator.deployment().id, higher)
    try:
        run = operator.wait(operator.start_run({"training": {"epochs": 2}}))
    finally:
        operator.deploy()
    assert "below the required 0.9700" in run.state.message  # the deployment's


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gate": {"min_accuracy": 90}}, "90 is greater than the maximum of 1"),
        ({"training": {"epochs": 0}}, "0 is less than the minimum of 1"),
        ({"training": {"epoch": 3}}, "'epoch' was unexpected"),
    ],
    ids=["out of range", "below range", "misspelt"],
)
def test_a_bad_parameter_is_refused_before_a_run_exists(
    operator: Operator, settings: dict[str, Any], words: str
) -> None:
    """The command says what is wrong with it, and the server has no run more."""
    before = operator.runs_by_hand()
    refused = operator.run(
        *("prefect", "deployment", "run", DEPLOYMENT, "--param", f"settings={json.dumps(settings)}")
    )
    assert refused.returncode != 0
    assert words in " ".join((refused.stdout + refused.stderr).split())
    assert operator.runs_by_hand() == before


def test_nobody_gets_in_without_the_password(operator: Operator) -> None:
    """A call without it, or with another, is answered 401; the health check alone is open."""
    api = operator.variables["PREFECT_API_URL"]
    assert httpx.get(f"{api}/health").status_code == 200
    for auth in (None, ("admin", "wrong"), ("admin", "")):
        for verb, path in (("POST", "flow_runs/filter"), ("GET", "admin/version")):
            assert httpx.request(verb, f"{api}/{path}", json={}, auth=auth).status_code == 401
    name, _, password = operator.variables["PREFECT_API_AUTH_STRING"].partition(":")
    assert httpx.get(f"{api}/admin/version", auth=(name, password)).status_code == 200
    port = operator.variables["POSTGRES_PORT"]
    wrong = operator.run(
        *("psql", f"postgresql://prefect:wrong@127.0.0.1:{port}/prefect", "-c", "SELECT 1")
    )
    assert wrong.returncode != 0
    assert "password authentication failed" in wrong.stderr


def test_the_jobs_key_can_do_what_it_must_and_no_more(operator: Operator) -> None:
    """It reads and adds below its prefix; it deletes nothing, and sees nothing else."""
    job = operator.s3()
    owner = operator.s3("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD")
    owner.put_object(Bucket="models", Key="others/secret", Body=b"x")
    owner.create_bucket(Bucket="others")
    key = next(key for key in operator.stored() if key.endswith("manifest.json"))
    forbidden: list[Callable[[], Any]] = [
        lambda: job.delete_object(Bucket="models", Key=f"fashion-mnist/{key}"),
        lambda: job.delete_objects(
            Bucket="models", Delete={"Objects": [{"Key": f"fashion-mnist/{key}"}]}
        )["Errors"][0]["Code"],
        lambda: job.get_object(Bucket="models", Key="others/secret"),
        lambda: job.put_object(Bucket="models", Key="others/mine", Body=b""),
        lambda: job.list_objects_v2(Bucket="models"),
        lambda: job.list_objects_v2(Bucket="others"),
        lambda: job.list_buckets(),
        lambda: job.put_object(Bucket="others", Key="mine", Body=b""),
        lambda: job.create_bucket(Bucket="mine"),
        lambda: job.delete_bucket(Bucket="models"),
        lambda: job.put_bucket_policy(Bucket="models", Policy="{}"),
    ]
    for attempt in forbidden:
        try:
            answer = attempt()
        except ClientError as error:
            answer = error.response["Error"]["Code"]
        assert answer == "AccessDenied"
    # Not an administrator either.
    access, secret = operator.variables["JOB_ACCESS_KEY"], operator.variables["JOB_SECRET_KEY"]
    address = f"http://{access}:{secret}@127.0.0.1:{operator.variables['MINIO_PORT']}"
    home = str(operator.state / "home")
    mc = operator.run(*["mc", "admin", "user", "list", "store"], HOME=home, MC_HOST_store=address)
    assert mc.returncode != 0
    assert "Access Denied" in mc.stdout + mc.stderr
    assert key in operator.stored()


def test_each_verdict_is_an_event_with_its_figures(
    operator: Operator, promoted: FlowRun, rejected: FlowRun
) -> None:
    """Each has run id, accuracy, bound, champion before and after, and where the report is."""
    for run, what, bound in ((promoted, "promoted", 0.5), (rejected, "rejected", 0.99)):
        run_id = run_id_of(run)
        payload = operator.event(f"fmnist.run.{what}", run_id)["payload"]
        report = f"s3://models/fashion-mnist/runs/{run_id}/report.md"
        assert payload.keys() == {
            *("run_id", "reason", "accuracy", "bound"),
            *("champion_before", "champion_after", "report"),
        }
        assert (payload["run_id"], payload["bound"], payload["report"]) == (run_id, bound, report)
        assert f"{payload['accuracy']:.4f}" in run.state.message
        assert f"{what}: {payload['reason']}" == run.state.message
    champion = run_id_of(promoted)
    assert payload["champion_before"] == payload["champion_after"] == champion


@pytest.mark.parametrize("verdict", ["promoted", "rejected"])
def test_both_webhooks_are_called_for_each_verdict(
    operator: Operator, verdict: str, request: pytest.FixtureRequest
) -> None:
    """The call says which run, why, and where its page is; Slack gets the same as a text."""
    run: FlowRun = request.getfixturevalue(verdict)
    run_id = run_id_of(run)
    until(lambda: operator.webhook.of(run.name), 30, "the alert comes")
    (alert,) = [alert for alert in operator.webhook.alerts if alert.get("run") == run_id]
    assert alert["alert"] == verdict
    assert f"{verdict}: {alert['reason']}" == run.state.message
    assert alert["deployment"] == "process"
    assert alert["page"].endswith(f"/runs/flow-run/{run.id}")
    page = f"<{alert['page']}|Page of the run>"
    operator.webhook.wait_for_slack(f"*{verdict}* {run_id}: {alert['reason']} {page}")


def test_the_second_of_two_overlapping_runs_waits(operator: Operator) -> None:
    """It waits for the place of the first, starts when that has ended, and both go through."""
    first = operator.start_run(LONG)
    operator.wait(first, "Running")
    second = operator.start_run(PROMOTED)
    operator.wait(second, "AwaitingConcurrencySlot", seconds=60)
    assert operator.read(first).state_name == "Running"
    one, two = operator.wait(first), operator.wait(second)
    assert (outcome_of(one), outcome_of(two)) == ("promoted", "promoted")
    assert two.start_time >= one.end_time


def test_a_killed_worker_leaves_a_crashed_run_and_an_unchanged_store(operator: Operator) -> None:
    """SIGKILL while it trains: heartbeats are missed, people are told, the next run goes through."""
    before = operator.stored()
    run_id = operator.start_training(ENDLESS)
    operator.kill("worker")
    next_run, _ = operator.schedule(PROMOTED)
    operator.start("worker")
    crashed = operator.wait(run_id, "Crashed", seconds=180)
    # First of all, since the next run now starts, and will publish.
    assert operator.stored() == before
    assert "No heartbeat for 100 s" in crashed.state.message
    until(lambda: operator.webhook.of(crashed.name) == ["crashed"], 30, "the alert comes")
    operator.webhook.wait_for_slack(f"*crashed* {crashed.name}: {crashed.state.message} <http")
    assert outcome_of(operator.wait(next_run)) == "promoted"


@pytest.mark.parametrize(("service", "seconds"), [("prefect", 5), ("postgres", 3)])
def test_a_run_survives_a_restart_of_server_or_database(
    operator: Operator, service: str, seconds: float
) -> None:
    """The run goes on, ends in its proper state, and its artifacts are there."""
    run_id = operator.start_training(MEDIUM)
    operator.stop(service)
    time.sleep(seconds)
    operator.start(service)
    run = operator.wait(run_id)
    assert outcome_of(run) == "promoted", operator.log(run_id)
    artifacts = operator.artifacts(run.id)
    assert artifacts["report"].startswith(f"# Promoted: {run_id_of(run)}")
    assert len(json.loads(artifacts["classification-report"])) == 12
    assert artifacts["training-progress"] == 100


def test_a_short_outage_of_the_store_costs_nothing(operator: Operator) -> None:
    """MinIO is away when the run is published: it is tried again, and the run goes through."""
    run_id = operator.start_training(MEDIUM)
    operator.stop("minio")
    operator.wait_for_task(run_id, "publish", "AwaitingRetry")
    operator.start("minio")
    run = operator.wait(run_id)
    assert outcome_of(run) == "promoted", operator.log(run_id)
    assert operator.champion().run_id == run_id_of(run)
    assert "cannot reach" in operator.log(run_id)


def test_a_worse_model_does_not_replace_the_champion(operator: Operator) -> None:
    """A gate that asks it not to be significantly worse rejects it, and its state says why."""
    champion = operator.champion()
    run = operator.wait(operator.start_run(WORSE))
    assert outcome_of(run) == "rejected", operator.log(run.id)
    assert "above the required 0.1000" in run.state.message
    assert "worse than the champion" in run.state.message
    assert operator.champion() == champion
    comparison = json.loads(operator.read_object(f"runs/{run_id_of(run)}/comparison.json"))
    assert comparison["champion"] == champion.run_id
    assert comparison["lost"] > comparison["gained"]


def test_an_operator_goes_back_to_the_previous_champion(operator: Operator) -> None:
    """One command with the job's own rights does it, records it, and leaves the run intact."""
    before = operator.champion()
    operator.fmnist("rollback", "--reason", "it was slow")
    after = operator.champion()
    assert (after.run_id, after.previous) == (before.rollback_to, before.run_id)
    assert (after.generation, after.move) == (before.generation + 1, "rollback")
    (latest, *_) = json.loads(operator.fmnist("history", "--json"))["moves"]
    assert (latest["run_id"], latest["reason"]) == (after.run_id, "it was slow")
    operator.fmnist("verify", after.run_id)


def test_a_rollback_holds_until_it_is_released(operator: Operator) -> None:
    """A run that passes meanwhile is held back, and people are told; the next one is promoted."""
    champion = operator.champion()
    run = operator.wait(operator.start_run(PROMOTED))
    assert outcome_of(run) == "held", operator.log(run.id)
    assert {"held", run_id_of(run)} <= {*run.tags, *run.name.split()}
    assert operator.champion() == champion
    until(lambda: operator.webhook.of(run.name) == ["held"], 30, "the alert comes")
    operator.fmnist("release")
    run = operator.wait(operator.start_run(PROMOTED))
    assert outcome_of(run) == "promoted", operator.log(run.id)
    assert operator.champion().run_id == run_id_of(run)


@pytest.mark.parametrize(
    ("command", "move"),
    [
        (("hold", "--reason", "for the demo"), "hold"),
        (("release", "--reason", "for the demo"), "release"),
        (("promote", "RUN", "--force", "--reason", "for the demo"), "forced-promotion"),
        (("rollback", "--no-hold", "--reason", "for the demo"), "rollback"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_people_are_told_what_a_person_does_to_the_champion(
    operator: Operator, rejected: FlowRun, command: tuple[str, ...], move: str
) -> None:
    """Event, history and both webhooks say what was done, why, by whom and on which machine."""
    operator.fmnist(*(word.replace("RUN", run_id_of(rejected)) for word in command))
    run_id = operator.champion().run_id
    payload = operator.event(f"fmnist.champion.{move}", run_id)["payload"]
    (latest, *_) = json.loads(operator.fmnist("history", "--json"))["moves"]
    by = f"fmnist {command[0]}, {getpass.getuser()}@{platform.node()}"
    for record in (latest, payload):
        assert (record["run_id"], record["by"]) == (run_id, by)
        assert record["reason"].startswith("for the demo")
    reason = payload["reason"]
    alert = {"alert": move, "run": run_id, "reason": reason, "by": by}
    alert["report"] = f"s3://models/fashion-mnist/runs/{run_id}/report.md"
    until(lambda: alert in operator.webhook.alerts, 30, "the webhook is called")
    operator.webhook.wait_for_slack(f"*{move}* {run_id}: {reason} ({by})")


def test_three_days_of_outage_are_made_up_for_by_one_training(operator: Operator) -> None:
    """The worker finds three runs that are late: the first trains, the others have nothing to do."""
    operator.stop("worker")
    # A seed that no run has had; whether to train is left to the deployment.
    settings = {"training": {"epochs": 4, "seed": 12}, "gate": LOW_BAR}
    deployment, now = operator.deployment(), datetime.now(UTC)
    late = [
        operator.client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"settings": settings},
            state=Scheduled(scheduled_time=now - timedelta(days=days)),
        ).id
        for days in (3, 2, 1)
    ]
    for run_id in late:
        operator.wait(run_id, "Late")
    before = operator.stored()
    operator.start("worker")
    runs = [operator.wait(run_id) for run_id in late]
    assert sorted(map(outcome_of, runs)) == ["promoted", "unchanged", "unchanged"]
    (trained,) = [run for run in runs if outcome_of(run) == "promoted"]
    new = {
        key.split("/")[1] for key in operator.stored().keys() - before if key.startswith("runs/")
    }
    assert new == {run_id_of(trained)}
    for run in runs:
        if run is trained:
            continue
        assert run.state.message.endswith(f"code and versions as {run_id_of(trained)}")
        assert run.name.split()[1:] == ["unchanged"] and "unchanged" in run.tags
        assert (
            f"`s3://models/fashion-mnist/runs/{run_id_of(trained)}/report.md`"
            in (operator.artifacts(run.id)["report"])
        )
        assert not operator.webhook.of(run.name)


def test_an_unreachable_store_fails_the_run_which_is_kept(operator: Operator) -> None:
    """State, log, event and alert say so, and one command publishes what was kept."""
    before = operator.stored()
    run_id = operator.start_training(MEDIUM)
    operator.stop("minio")
    try:
        run = operator.wait(run_id)
    finally:
        operator.start("minio")
    assert run.state_name == "Failed"
    assert files_in(kept_run(run.state.message)) == {*FILES, "manifest.json"}
    assert "Traceback" not in operator.log(run_id)
    payload = operator.event("fmnist.run.failed", run_id_of(run))["payload"]
    assert "cannot reach" in payload["reason"]
    until(lambda: operator.webhook.of(run.name) == ["failed"], 30, "the alert comes")
    assert operator.stored() == before

    operator.fmnist("publish", str(kept_run(run.state.message)))
    assert operator.champion().run_id == run_id_of(run)
    assert not kept_run(run.state.message).exists()


def test_the_exit_code_of_the_command_tells_of_an_unreachable_store(operator: Operator) -> None:
    """An ad hoc run with the worker's environment ends with 5, and names the kept run."""
    home = operator.state / "home"
    environment = operator.services()["worker"].environment
    output = home / "output"
    with output.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, ROOT / "flows" / "train.py", "--training.epochs", "30"],
            env={**environment, "HOME": str(home)},
            cwd=home,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        until(lambda: "training: epoch" in output.read_text(), 90, "the run trains")
        operator.stop("minio")
        try:
            code = process.wait(120)
        finally:
            operator.start("minio")
    last = output.read_text().splitlines()[-1]
    assert code == 5, output.read_text()
    assert last.startswith("failed  20")
    assert (kept_run(last) / "manifest.json").is_file()
    assert "Traceback" not in output.read_text()
    # Who started it by hand has seen it; the scheduled run before it was alerted of within seconds.
    time.sleep(5)
    assert not operator.webhook.of(last.split()[1])


def test_the_next_run_succeeds_after_a_restart_of_the_database(operator: Operator) -> None:
    """The server finds it again, and the next scheduled run goes through."""
    operator.stop("postgres")
    operator.start("postgres")
    run_id, _ = operator.schedule(PROMOTED)
    assert outcome_of(operator.wait(run_id)) == "promoted"


def test_a_stopped_worker_ends_its_run_cleanly(operator: Operator) -> None:
    """SIGTERM while it trains: the run is marked at once, nothing is left, the next goes through."""
    leftovers = set(operator.work.iterdir())
    before = operator.stored()
    run_id = operator.start_training(ENDLESS)
    processes = operator.processes("worker")
    assert any("prefect.engine" in " ".join(process.cmdline()) for process in processes)
    temporary = operator.temporary
    assert temporary.name.startswith("fmnist-worker-") and temporary.exists()
    operator.stop("worker")
    assert not temporary.exists()
    assert not [process for process in processes if process.is_running()]
    run = operator.read(run_id)
    assert (run.state_name, run.state.message) == ("Cancelled", "interrupted")
    time.sleep(5)
    assert not operator.webhook.of(run.name)
    assert set(operator.work.iterdir()) == leftovers
    assert operator.stored() == before
    operator.start("worker")
    assert outcome_of(operator.wait(operator.start_run(PROMOTED))) == "promoted"


def test_a_run_can_be_cancelled(operator: Operator) -> None:
    """Within ten seconds its process has ended in good order, and all is as it was."""
    operator.wait_until_idle()
    before, temporary = operator.stored(), operator.temporary
    left = {path.name for path in temporary.iterdir()}
    run_id = operator.start_training(ENDLESS)
    operator.succeed("prefect", "flow-run", "cancel", str(run_id))
    operator.wait(run_id, "Cancelled", seconds=10)
    assert "Crash detected" not in operator.log(run_id)
    operator.wait_until_idle()
    until(lambda: {path.name for path in temporary.iterdir()} <= left, 20, "all is cleaned up")
    assert operator.stored() == before


def test_a_silent_schedule_raises_an_alert(operator: Operator) -> None:
    """No run was completed for the hours that are allowed: both webhooks are called."""
    operator.succeed("python", "deployments/setup.py", ALERT_SILENCE_HOURS="0.01")
    try:
        alerts = operator.webhook.alerts
        until(lambda: any(a["alert"] == "silence" for a in alerts), 120, "the alert comes")
    finally:
        operator.succeed("python", "deployments/setup.py")
    (alert, *_) = [alert for alert in alerts if alert["alert"] == "silence"]
    assert alert["reason"] == "no run was completed for 0.01 hours"
    operator.webhook.wait_for_slack("*silence*: no run was completed for 0.01 hours <http")


def test_no_key_was_recorded_anywhere(operator: Operator) -> None:
    """Database, logs, store and files of the stack hold no secret, but for two of their owner's."""
    port = operator.variables["POSTGRES_PORT"]
    password = operator.variables["POSTGRES_PASSWORD"]
    dump = operator.succeed(
        *("pg_dump", "--inserts", f"postgresql://prefect:{password}@127.0.0.1:{port}/prefect")
    )
    assert "fashion-mnist" in dump
    recorded = {"database": dump.encode()}
    recorded |= {key: operator.read_object(key) for key in operator.stored()}
    own = {operator.env_file, operator.state / "variables.json"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in own)
    # What these two write in forms of their own was read through them.
    servers = {operator.state / "volumes" / name for name in ("postgres", "minio")}
    for path in operator.state.rglob("*"):
        if path.is_file() and path not in own and not servers & {*path.parents}:
            recorded[str(path)] = path.read_bytes()
    assert any("worker.log" in name for name in recorded)
    for name, form in stack_command.SECRETS.items():
        secret = operator.variables[name].removeprefix(form.partition("{")[0])
        assert not [place for place, content in recorded.items() if secret.encode() in content]


def test_every_service_is_healthy_at_the_end(operator: Operator) -> None:
    """After all of that, the command that shows the services finds nothing wrong."""
    assert "NOT HEALTHY" not in operator.stack("status")
