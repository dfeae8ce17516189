"""The whole stack, started from compose.yaml by the command that a user has, and an operator on it."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import psutil
import pytest
import yaml
from compose import Service, missing_programs, read_env_file, read_services
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    DeploymentFilter,
    FlowRunFilter,
    LogFilter,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.client.schemas.sorting import LogSort
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled

from deployments import stack as stack_command
from fmnist.registry.records import ChampionRecord, from_json
from tests.support.processes import ROOT, free_port, unavailable

DEPLOYMENT = "fashion-mnist/process"
# What a team has written down; the tests follow whatever it has changed there.
DECLARED = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
DEPLOYMENTS: dict[str, dict[str, Any]] = {each["name"]: each for each in DECLARED["deployments"]}
# Short, and trained though a stored run is the same, with a bar that even a short training passes
# whatever the champion, or that none passes.
LOW_BAR = {"min_accuracy": 0.5, "champion": "off"}
PROMOTED: dict[str, Any] = {"training": {"when": "always", "epochs": 4}, "gate": LOW_BAR}
# With a seed of its own, so that it is no earlier run of the other's settings.
REJECTED: dict[str, Any] = {
    "training": {"when": "always", "epochs": 4, "seed": 1},
    "gate": {"min_accuracy": 0.99},
}
# Long enough to do something to it while it trains, or to have another run wait for it.
MEDIUM: dict[str, Any] = {"training": {"when": "always", "epochs": 30}, "gate": LOW_BAR}
LONG: dict[str, Any] = {"training": {"when": "always", "epochs": 60}, "gate": LOW_BAR}
# Passes the bar, but is worse than any champion that was trained for longer.
WORSE: dict[str, Any] = {
    "training": {"when": "always", "epochs": 1},
    "gate": {"min_accuracy": 0.1, "champion": "not_worse"},
}
# Does not end before a test has done something to it; yet its first tenth, which shows, comes soon.
ENDLESS: dict[str, Any] = {"training": {"when": "always", "epochs": 200, "patience": 200}}
FINAL = {"Completed", "Failed", "Crashed", "Cancelled"}


def run_id_of(run: FlowRun) -> str:
    """The run id, with which the name of a flow run begins."""
    return run.name.split()[0]


def outcome_of(run: FlowRun) -> str:
    """A completed run's verdict, the first word of its message; the state of any other."""
    completed = run.state_name == "Completed"
    return str(run.state.message.partition(":")[0]) if completed else str(run.state_name)


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Ask until the answer is true, and return it; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.5)
    return answer


@dataclass
class Webhook:
    """A local HTTP server that keeps the alerts posted to it."""

    url: str
    alerts: list[dict[str, Any]] = field(default_factory=list)
    slack: list[dict[str, Any]] = field(default_factory=list)

    def of(self, run: str) -> list[str]:
        """The kinds of alert that came about a run, by its name."""
        run_id, *_ = run.split()
        return [alert["alert"] for alert in self.alerts if alert.get("run", "").startswith(run_id)]

    def wait_for_slack(self, start: str) -> None:
        """Wait until a text that starts so has come in Slack's form, and nothing beside it."""

        def came() -> bool:
            texts = [said["text"] for said in self.slack if said.keys() == {"text"}]
            return any(text.startswith(start) for text in texts)

        until(came, 30, f"Slack is told: {start}")


@pytest.fixture(scope="session")
def webhook() -> Iterator[Webhook]:
    """Where the alerts of the stack go."""
    with listening_webhook() as received:
        yield received


@contextlib.contextmanager
def listening_webhook() -> Iterator[Webhook]:
    """A webhook that receives alerts until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            line = self.rfile.read(int(self.headers["Content-Length"])).decode()
            assert self.headers["Content-Type"] == "application/json"
            assert len(line.splitlines()) == 1
            kept = received.slack if self.path.endswith("/slack") else received.alerts
            kept.append(json.loads(line))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Webhook(f"http://127.0.0.1:{server.server_port}/alerts")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield received
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class Operator:
    """The running stack, with what a person does to it and sees of it."""

    state: Path
    env_file: Path
    variables: Mapping[str, str]
    webhook: Webhook

    def run(self, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command from the project's root, in a shell that has the stack's variables."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return _run(command, {**os.environ, **self.variables, "PATH": path, **environment})

    def succeed(self, *command: str | Path, **environment: str) -> str:
        """Run a command that must succeed; its output."""
        done = self.run(*command, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def stack(self, *command: str) -> str:
        """Run `stack.py` on this stack."""
        options = ["--state", self.state, "--env-file", self.env_file]
        return self.succeed("python", "deployments/stack.py", *options, *command)

    def fmnist(self, *arguments: str) -> str:
        """What a console command prints with the worker's environment, and so the job's rights."""
        command = [sys.executable, "-m", "fmnist", *arguments]
        done = _run(command, self.services()["worker"].environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy(self, name: str = "process") -> None:
        """Deploy as the README says."""
        declared = ["--name", name, "--prefect-file", "deployments/prefect.yaml"]
        self.succeed("prefect", "--no-prompt", "deploy", *declared)

    def start(self, service: str) -> None:
        """Start one service that was stopped or killed, and wait until it is healthy."""
        known, supervisor = self.services()[service], self.supervisor()

        def is_good() -> bool:
            return stack_command.is_good(known, supervisor.getProcessInfo(service))

        if supervisor.getProcessInfo(service)["statename"] not in ("RUNNING", "STARTING"):
            supervisor.startProcess(service)
        until(is_good, 60, f"{service} is healthy")

    def stop(self, service: str) -> None:
        """Stop one service, as `docker compose stop` does."""
        self.supervisor().stopProcess(service)

    def services(self) -> Mapping[str, Service]:
        """The services that are running, as the stack's command reads them."""
        return read_services(self.variables, self.state)

    def supervisor(self) -> Any:
        """What keeps the services running."""
        return stack_command.Stack(self.services(), self.state, self.variables).supervisor()

    def processes(self, service: str) -> list[psutil.Process]:
        """A service's process and all of its descendants."""
        top = psutil.Process(self.supervisor().getProcessInfo(service)["pid"])
        return [top, *top.children(recursive=True)]

    def kill(self, service: str) -> None:
        """End a service and all its processes at once, as a container or a machine dies."""
        processes = self.processes(service)
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=20)

    @cached_property
    def client(self) -> Any:
        """A client of the Prefect server."""
        return get_client(sync_client=True)

    def deployment(self, name: str = DEPLOYMENT) -> DeploymentResponse:
        """A deployment as the server has it."""
        return self.client.read_deployment_by_name(name)

    def start_run(self, settings: Mapping[str, Any]) -> UUID:
        """Start a run by hand with a part of the settings, by Prefect's command; its id."""
        said = self.succeed(
            *("prefect", "deployment", "run", DEPLOYMENT),
            *("--param", f"settings={json.dumps(settings)}"),
        )
        return UUID(said.split("UUID: ")[1].split()[0])

    def schedule_in(self, seconds: float, settings: Mapping[str, Any]) -> UUID:
        """Schedule a run that is due in so many seconds; its id."""
        due: State[Any] = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(seconds=seconds))
        run = self.client.create_flow_run_from_deployment(
            self.deployment().id, parameters={"settings": dict(settings)}, state=due
        )
        return UUID(str(run.id))

    def start_training(self, settings: Mapping[str, Any]) -> UUID:
        """Start a run by hand, and wait until it has trained a tenth of its epochs; its id."""
        run_id = self.start_run(settings)

        def trains() -> bool:
            return float(self.artifacts(run_id).get("training-progress") or 0) > 0

        until(trains, 90, "the run trains")
        return run_id

    def schedule(self, settings: Mapping[str, Any]) -> tuple[UUID, datetime]:
        """Add a schedule that is due once, soon; the run that it creates, and when it is due."""
        # Prefect creates the runs of a deployment that was just changed within seconds, but only
        # if its scheduler's turn comes in time; within a minute at the latest.
        for seconds in (12, 24, 90):
            due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
            deployment = self.deployment()
            (schedule,) = self.client.create_deployment_schedules(
                deployment.id,
                [(IntervalSchedule(interval=timedelta(days=300), anchor_date=due), True)],
                max_scheduled_runs=1,
                parameters={"settings": dict(settings)},
                slug=f"soon-{secrets.token_hex(3)}",
            )
            changed = DeploymentUpdate(description=deployment.description)
            self.client.update_deployment(deployment.id, changed)
            while datetime.now(UTC) < due + timedelta(seconds=2):
                if run := self._scheduled_run(due):
                    return run, due
                time.sleep(0.5)
            # Else its run might come late, as one more than was asked for.
            self.client.delete_deployment_schedule(deployment.id, schedule.id)
            if run := self._scheduled_run(due):
                return run, due
        pytest.fail("no schedule created a run in time")

    def _scheduled_run(self, due: datetime) -> UUID | None:
        """The run that a schedule created for this moment."""
        of_process = DeploymentFilter(name={"any_": ["process"]})
        for run in self.client.read_flow_runs(deployment_filter=of_process):
            if run.auto_scheduled and run.next_scheduled_start_time == due:
                return UUID(str(run.id))
        return None

    def runs_by_hand(self) -> set[UUID]:
        """Every run on the server that no schedule created; schedules create theirs at any moment."""
        runs = self.client.read_flow_runs()
        return {UUID(str(run.id)) for run in runs if not run.auto_scheduled}

    def read(self, run_id: UUID) -> FlowRun:
        """A run as the server has it."""
        return self.client.read_flow_run(run_id)

    def wait(self, run_id: UUID, *states: str, seconds: float = 120) -> FlowRun:
        """Wait until a run is in one of these states; in its last one, unless they are given."""
        wanted = set(states) or FINAL

        def there() -> FlowRun | None:
            run = self.read(run_id)
            return run if run.state_name in wanted else None

        return until(there, seconds, f"the run is in {sorted(wanted)}")

    def wait_until_idle(self) -> None:
        """Wait until the worker has no job's process left."""
        until(lambda: len(self.processes("worker")) == 2, 30, "the jobs' processes are gone")

    def log(self, run_id: UUID) -> str:
        """What a run logged, as its page shows it."""
        of_run = LogFilter(flow_run_id={"any_": [run_id]})
        lines = self.client.read_logs(of_run, sort=LogSort.TIMESTAMP_ASC, limit=200)
        return "\n".join(line.message for line in lines)

    def wait_for_task(self, run_id: UUID, name: str, state: str, seconds: float = 120) -> None:
        """Wait until one of a run's tasks is in this state."""
        until(lambda: self.tasks(run_id).get(name) == state, seconds, f"{name} is in {state}")

    def tasks(self, run_id: UUID) -> dict[str, str]:
        """The state of each of a run's tasks that has begun, by the task's name."""
        of_run = FlowRunFilter(id={"any_": [run_id]})
        tasks = self.client.read_task_runs(flow_run_filter=of_run)
        return {task.name.rpartition("-")[0]: task.state_name for task in tasks}

    def event(self, name: str, run: str) -> dict[str, Any]:
        """The one event of that name about a run, once it is recorded."""

        def found() -> list[dict[str, Any]]:
            wanted = {"filter": {"event": {"name": [name]}, "order": "DESC"}, "limit": 50}
            events = self.client._client.post("/events/filter", json=wanted).json()["events"]
            return [event for event in events if event["payload"].get("run_id") == run]

        (event,) = until(found, 30, f"{name} is recorded")
        return dict(event)

    def artifacts(self, run_id: UUID) -> dict[str, Any]:
        """A run's artifacts by key."""
        of_run = ArtifactFilter(flow_run_id={"any_": [run_id]})
        found = self.client.read_artifacts(artifact_filter=of_run)
        return {artifact.key: artifact.data for artifact in found if artifact.key}

    def s3(self, access: str = "JOB_ACCESS_KEY", secret: str = "JOB_SECRET_KEY") -> Any:
        """An S3 client with the job's key, or with MinIO's own."""
        return boto3.session.Session(
            aws_access_key_id=self.variables[access],
            aws_secret_access_key=self.variables[secret],
            region_name="us-east-1",
        ).client("s3", endpoint_url=f"http://127.0.0.1:{self.variables['MINIO_PORT']}")

    def stored(self) -> dict[str, str]:
        """Every object of the store below its prefix, with its ETag."""
        pages = self.s3().get_paginator("list_objects_v2")
        return {
            item["Key"].removeprefix("fashion-mnist/"): item["ETag"]
            for page in pages.paginate(Bucket="models", Prefix="fashion-mnist/")
            for item in page.get("Contents", [])
        }

    def read_object(self, key: str) -> bytes:
        """One object of the store."""
        found = self.s3().get_object(Bucket="models", Key=f"fashion-mnist/{key}")
        return bytes(found["Body"].read())

    def champion(self) -> ChampionRecord:
        """The champion that the store names."""
        return from_json(ChampionRecord, self.read_object("champion.json"), "champion")

    @property
    def temporary(self) -> Path:
        """Where the worker and its jobs put their temporary files."""
        return Path(self.processes("worker")[-1].environ()["TMPDIR"])

    @property
    def work(self) -> Path:
        """Where the worker's jobs put their runs together."""
        return self.state / "volumes" / "worker" / ".cache" / "fmnist" / "work"


@pytest.fixture(scope="session")
def operator(data_source: str, webhook: Webhook) -> Iterator[Operator]:
    """The stack, started by its own command, with the deployments deployed as the README says."""
    # The path of the data is no business of the stack: it is one setting of the job.
    job = {
        "FMNIST_DATA__SOURCE": data_source,
        "FMNIST_TRAINING__WARMUP_FRACTION": "0",
        "FMNIST_STORE__RETRY_PAUSES": "2,5,10",
    }
    with running_stack(job, webhook) as operator:
        yield operator


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a test that failed what the services of its stack logged last."""
    report = yield
    operator = item.funcargs.get("operator")
    if report.failed and isinstance(operator, Operator):
        for log in sorted((operator.state / "log").iterdir()):
            lines = log.read_text(errors="replace").splitlines()[-20:]
            report.sections.append((f"the end of {log.name}", "\n".join(lines)))
    return report


@contextlib.contextmanager
def running_stack(job: Mapping[str, str], webhook: Webhook) -> Iterator[Operator]:
    """A stack of its own in a temporary folder, whose jobs have these variables.

    Nothing of it is left at the end but its logs, if `SCREENSHOTS` names a folder for them.
    """
    # Not below pytest's own folder: PostgreSQL's user must be able to pass.
    state = Path(tempfile.mkdtemp(prefix="fmnist-stack-"))
    state.chmod(0o711)
    env_file, job_file = state / "env", state / "job.env"
    job_file.write_text("".join(f"{name}={value}\n" for name, value in job.items()))
    stack_command.make_secrets(env_file)
    services = ("PREFECT", "POSTGRES", "MINIO", "WORKER")
    ports = {f"{name}_PORT": str(free_port()) for name in services}
    variables = {
        **read_env_file(env_file),
        **ports,
        "PREFECT_API_URL": f"http://127.0.0.1:{ports['PREFECT_PORT']}/api",
        "PREFECT_HOME": str(state / "home"),
        "JOB_ENV_FILE": str(job_file),
        "ALERT_WEBHOOK_URL": webhook.url,
        "ALERT_SLACK_URL": f"{webhook.url}/slack",
    }
    operator = Operator(state, env_file, variables, webhook)
    settings = {
        PREFECT_API_URL: variables["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: variables["PREFECT_API_AUTH_STRING"],
    }
    try:
        if missing := missing_programs(operator.services()):
            unavailable("; ".join(missing))
        operator.stack("start")
        operator.deploy()
        with temporary_settings(settings):
            yield operator
    finally:
        left = _started_from(state)
        operator.stack("stop")
        if output := os.environ.get("SCREENSHOTS"):
            shutil.copytree(state / "log", Path(output) / "log" / state.name)
        _, alive = psutil.wait_procs(left, timeout=20)
        for process in alive:
            process.kill()
        shutil.rmtree(state, ignore_errors=True)
        assert not alive, f"left running: {alive}"


def _run(
    command: Sequence[str | Path], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def _started_from(state: Path) -> list[psutil.Process]:
    """The process that keeps the services running, and all of its descendants."""
    pid_file = state / "supervisord.pid"
    if not pid_file.exists():
        return []
    top = psutil.Process(int(pid_file.read_text()))
    return [top, *top.children(recursive=True)]


@pytest.fixture(scope="session")
def promoted(operator: Operator) -> FlowRun:
    """A run that its schedule created, and that was promoted."""
    return operator.wait(operator.schedule(PROMOTED)[0])


@pytest.fixture(scope="session")
def rejected(operator: Operator, promoted: FlowRun) -> FlowRun:
    """A run after it that was rejected by a high bar."""
    return operator.wait(operator.start_run(REJECTED))


@pytest.fixture(scope="session")
def unchanged(operator: Operator, promoted: FlowRun) -> FlowRun:
    """A run after it that had nothing new to train; whether to train is left to the deployment."""
    training = {name: value for name, value in PROMOTED["training"].items() if name != "when"}
    return operator.wait(operator.start_run({**PROMOTED, "training": training}))
