"""What an operator does to the real stack: look at its store, change its settings, let it run long."""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from tests.e2e.conftest import DEPLOYMENT, MEDIUM, PROMOTED, Operator, outcome_of, run_id_of, until
from tests.support.processes import ROOT, free_port

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("promoted")]


def pid(operator: Operator, service: str) -> int:
    """The process of a service."""
    return int(operator.supervisor().getProcessInfo(service)["pid"])


def test_one_step_shows_the_console_the_stacks_store(
    operator: Operator, promoted: FlowRun, tmp_path: Path
) -> None:
    """A shell that knows nothing yet sees the run; without the step it is told what to do."""
    environment = {"PATH": str(Path(sys.executable).parent), **operator.variables}
    environment = {n: v for n, v in environment.items() if not n.startswith("PREFECT_API_")}
    environment["PREFECT_API_AUTH_STRING"] = operator.variables["PREFECT_API_AUTH_STRING"]
    options = ["--state", str(operator.state), "--env-file", str(operator.env_file)]
    env = shlex.join([sys.executable, str(ROOT / "deployments" / "stack.py"), *options, "env"])
    fmnist = f"{shlex.quote(sys.executable)} -m fmnist runs"
    run_id = run_id_of(promoted)
    for first, code, words in ((f'eval "$({env})"', 0, run_id), ("true", 5, "stack.py env")):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{first}; exec {fmnist}"],
            cwd=tmp_path,
            env={**environment, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, words in done.stdout) == (code, True), done.stdout + done.stderr


def test_watching_a_run_shows_few_lines(operator: Operator) -> None:
    """The command of the README shows progress in tenths, and what the run came to."""
    given = ["--watch", "--param", f"settings={json.dumps(MEDIUM)}"]
    said = operator.succeed("prefect", "deployment", "run", DEPLOYMENT, *given).splitlines()
    assert sum("prefect.artifact.updated" in line for line in said) <= 10
    # The others are a few for each task and each tenth of the training.
    assert len(said) <= 80, "\n".join(said)


def test_a_pool_is_created_when_somebody_wants_it(operator: Operator) -> None:
    """The command of the README creates it, and changes nothing else; its deployment finds it."""
    client = operator.client
    automations = client.read_automations()
    try:
        for said in ("created", "updated"):
            assert operator.succeed("python", "deployments/setup.py", "--pool", "docker") == (
                f"work pool docker: {said}\n"
            )
        assert {(pool.name, pool.type) for pool in client.read_work_pools()} == {
            ("training", "process"),
            ("docker", "docker"),
        }
        assert client.read_automations() == automations
        operator.deploy("docker")
        assert operator.deployment("fashion-mnist/docker").work_pool_name == "docker"
    finally:
        client.delete_work_pool("docker")
        for deployment in client.read_deployments():
            if deployment.name == "docker":
                client.delete_deployment(deployment.id)


def test_a_start_without_changes_restarts_nothing(operator: Operator) -> None:
    """From another shell, too: another PATH or language is no change."""
    before = [pid(operator, name) for name in ("postgres", "prefect", "minio", "worker")]
    options = ["--state", operator.state, "--env-file", operator.env_file]
    operator.succeed("python", "deployments/stack.py", *options, "start", LANG="C", TZ="UTC")
    assert [pid(operator, name) for name in ("postgres", "prefect", "minio", "worker")] == before


@pytest.mark.parametrize("now", [False, True], ids=["after its job", "now"])
def test_a_changed_setting_restarts_the_worker(operator: Operator, now: bool) -> None:
    """And nothing else. Its job is finished first, unless the operator cannot wait."""
    server, worker = pid(operator, "prefect"), pid(operator, "worker")
    job_file = Path(operator.variables["JOB_ENV_FILE"])
    original = job_file.read_text()
    run_id = operator.start_training(MEDIUM)
    job_file.write_text(f"{original}FMNIST_TRAINING__BATCH_SIZE={1024 + now}\n")
    try:
        said = operator.stack("start", *(["--now"] if now else []))
        assert ("waits for its job" in said) is not now
        assert (pid(operator, "prefect") == server, pid(operator, "worker") == worker) == (
            True,
            False,
        )
        run = operator.wait(run_id)
        assert outcome_of(run) == ("Cancelled" if now else "promoted"), operator.log(run_id)
        if now:
            time.sleep(5)
            assert not operator.webhook.of(run.name)
        else:
            next_run = operator.wait(operator.start_run(PROMOTED))
            key = f"runs/{run_id_of(next_run)}/settings.json"
            settings = json.loads(operator.read_object(key))
            assert settings["training"]["batch_size"] == 1024
    finally:
        job_file.write_text(original)
        operator.stack("start", "--now")


def test_old_runs_are_deleted_with_their_logs_and_artifacts(
    operator: Operator, promoted: FlowRun, rejected: FlowRun
) -> None:
    """What ended 91 days ago goes, with the events of that time; what ended since stays."""
    port, password = operator.variables["POSTGRES_PORT"], operator.variables["POSTGRES_PASSWORD"]
    address = f"postgresql://prefect:{password}@127.0.0.1:{port}/prefect"

    def sql(query: str) -> str:
        return operator.succeed("psql", address, "-Atc", query).strip()

    def kept(run: FlowRun) -> list[int]:
        of_run = [f"SELECT count(*) FROM {table} WHERE flow_run_id = '{run.id}'"
                  for table in ("log", "artifact", "task_run")]  # fmt: skip
        return [int(sql(query)) for query in of_run]

    old = operator.wait(operator.start_run(PROMOTED))
    assert all(kept(old)) and all(kept(rejected))
    for day, run in ((91, old), (89, rejected)):
        sql(f"UPDATE flow_run SET end_time = now() - interval '{day} days' WHERE id = '{run.id}'")
        event = f"fmnist.test.{day}"
        sql(
            "INSERT INTO events (id, occurred, event, resource_id, resource, related_resource_ids,"
            " related, payload, received, recorded) SELECT gen_random_uuid(), long_ago, "
            f"'{event}', 'x', '{{}}', '[]', '[]', '{{}}', long_ago, long_ago "
            f"FROM (SELECT now() - interval '{day} days' AS long_ago) AS days"
        )
    # The server looks when it starts, and then every hour.
    operator.stack("restart", "prefect")

    def gone() -> bool:
        try:
            operator.read(old.id)
        except ObjectNotFound:
            return kept(old) == [0, 0, 0]
        return False

    until(gone, 60, "the old run is deleted")
    events = "SELECT event FROM events WHERE event LIKE 'fmnist.test.%'"
    until(lambda: sql(events) == "fmnist.test.89", 60, "the old event is deleted")
    assert operator.read(rejected.id).name == rejected.name and all(kept(rejected))


def test_a_stopped_service_is_called_stopped(operator: Operator) -> None:
    """It is not ill; the command that starts it again leaves the others alone."""
    worker = pid(operator, "worker")
    operator.stop("minio")
    options = ["--state", operator.state, "--env-file", operator.env_file]
    status = operator.run("python", "deployments/stack.py", *options, "status")
    assert status.returncode == 1
    assert re.search(r"^minio +stopped$", status.stdout, re.MULTILINE), status.stdout
    assert "NOT HEALTHY" not in status.stdout
    operator.stack("start")
    assert pid(operator, "worker") == worker


def test_a_clean_stop_is_no_illness(operator: Operator) -> None:
    """All is stopped, nothing temporary is left, and what was stored is there after a new start."""
    temporary, champion = operator.temporary, operator.champion()
    operator.stack("stop")
    options = ["--state", operator.state, "--env-file", operator.env_file]
    status = operator.run("python", "deployments/stack.py", *options, "status")
    lines = [line.split() for line in status.stdout.splitlines()]
    assert lines == [[name, "stopped"] for name in operator.services()]
    assert not temporary.exists()
    operator.stack("start")
    assert operator.champion() == champion


@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_changed_port_moves_the_service(operator: Operator, where: str) -> None:
    """Wherever it is set, the service is restarted and healthy, and going back works as well."""
    before, port = pid(operator, "worker"), str(free_port())
    original = operator.env_file.read_text()
    options = ["--state", operator.state, "--env-file", operator.env_file, "start"]
    command = ["python", "deployments/stack.py", *options]
    try:
        if where == "environment":
            operator.succeed(*command, WORKER_PORT=port)
        else:
            operator.env_file.write_text(f"{original}WORKER_PORT={port}\n")
            # The fixture's environment has a port of its own, which would take precedence.
            operator.succeed("env", "-u", "WORKER_PORT", *command)
        assert pid(operator, "worker") != before
    finally:
        operator.env_file.write_text(original)
        operator.stack("start")
    assert "NOT HEALTHY" not in operator.stack("status")
