"""The stack's command: how compose.yaml becomes programs of this machine."""

import dataclasses
import os
import re
import shlex
import shutil
import stat
import tempfile
import xmlrpc.client
from pathlib import Path
from types import SimpleNamespace

import compose
import pytest
import yaml
from compose import StackError, interpolate

from deployments import stack

VARIABLES = {name: form.format("5ec" * 16) for name, form in stack.SECRETS.items()}


@pytest.fixture
def services(tmp_path: Path) -> dict[str, compose.Service]:
    """The services of compose.yaml on this machine."""
    return stack.read_services(VARIABLES, tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${GIVEN}", "one"),
        ("${GIVEN:-two}", "one"),
        ("${GIVEN:?needed}", "one"),
        ("${ABSENT:-two}", "two"),
        ("${EMPTY:-two}", "two"),
        ("${ABSENT:-}", ""),
        ("${ABSENT}", ""),
        ("http://a:${PORT:-80}/${GIVEN}", "http://a:80/one"),
        ("$$HOME", "$HOME"),
        ("plain", "plain"),
    ],
)
def test_variables_are_replaced_as_compose_does(text: str, value: str) -> None:
    """A value that is set wins over the default; an empty one counts as not set."""
    assert interpolate(text, {"GIVEN": "one", "EMPTY": ""}) == value


@pytest.mark.parametrize("secret", stack.SECRETS)
def test_a_missing_secret_stops_with_a_message(secret: str, tmp_path: Path) -> None:
    """It names the variable, and the command that creates it."""
    variables = {**VARIABLES, secret: ""}
    with pytest.raises(StackError, match=rf"{secret} is not set: create .*stack\.py secrets"):
        stack.read_services(variables, tmp_path)


def test_secrets_are_random_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    """Two files share no value, and nobody else can read them."""
    for name in ("one", "two"):
        stack.make_secrets(tmp_path / name)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    one, two = (stack.read_env_file(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys() == {*stack.SECRETS}
    assert not {one[name] for name in stack.SECRETS} & {two[name] for name in stack.SECRETS}
    stack.read_services(one, tmp_path)


def test_existing_secrets_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("mine")
    with pytest.raises(StackError, match="already exists"):
        stack.make_secrets(tmp_path / "env")
    assert (tmp_path / "env").read_text() == "mine"


def test_an_env_file_has_comments_and_quotes(tmp_path: Path) -> None:
    """Comments and empty lines are skipped, quotes around a value removed."""
    (tmp_path / "env").write_text("# mine\n\nA=1\nB = 'x=y'\n")
    assert stack.read_env_file(tmp_path / "env") == {"A": "1", "B": "x=y"}


def test_an_env_file_does_not_say_where_programs_are(tmp_path: Path) -> None:
    """Its other variables reach the worker; its PATH would hide the project's own Python."""
    (tmp_path / "job").write_text("PATH=/nowhere\nFMNIST_TRAINING__PATIENCE=3\n")
    variables = {**VARIABLES, "JOB_ENV_FILE": str(tmp_path / "job")}
    worker = stack.read_services(variables, tmp_path)["worker"]
    assert worker.environment["FMNIST_TRAINING__PATIENCE"] == "3"
    assert worker.environment["PATH"] == compose.search_path()


def test_services_come_after_what_they_need(services: dict[str, compose.Service]) -> None:
    """They can be started in this order and stopped in reverse."""
    names = list(services)
    for name, spec in yaml.safe_load(compose.COMPOSE.read_text())["services"].items():
        for needed in spec.get("depends_on", {}):
            assert names.index(needed) < names.index(name)
    assert names[-1] == "worker"


def test_services_listen_to_and_reach_this_machine_only(
    services: dict[str, compose.Service],
) -> None:
    for service in services.values():
        everything = " ".join([*service.command, *service.environment.values()])
        assert "0.0.0.0" not in everything
        for name in services:
            assert not re.search(rf"(//|@){name}:\d+(/|\s|$)", everything)
    assert services["worker"].environment["AWS_ENDPOINT_URL_S3"] == "http://127.0.0.1:9000"
    url = services["prefect"].environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    password = VARIABLES["POSTGRES_PASSWORD"]
    assert url == f"postgresql+asyncpg://prefect:{password}@127.0.0.1:15432/prefect"


def test_volumes_are_folders_and_files_of_the_project_stay(
    services: dict[str, compose.Service], tmp_path: Path
) -> None:
    assert services["minio"].command[2] == str(tmp_path / "volumes" / "minio")
    assert Path(services["minio-setup"].command[1]).is_file()
    assert Path(services["minio-setup"].environment["POLICY_FILE"]).is_file()


def test_a_service_inherits_nothing_from_the_callers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, it sees no key, setting or Prefect profile of whoever starts it."""
    for name in ("AWS_PROFILE", "FMNIST_TRAINING__EPOCHS", "PREFECT_PROFILE", "PYTHONPATH"):
        monkeypatch.setenv(name, "mine")
    for service in stack.read_services(VARIABLES, tmp_path).values():
        assert "mine" not in service.environment.values()
        assert service.environment["HOME"].startswith(str(tmp_path))


def test_the_jobs_own_settings_come_from_its_env_file(tmp_path: Path) -> None:
    """Any setting may be given there, and the file may be absent."""
    (tmp_path / "job.env").write_text("FMNIST_TRAINING__EPOCHS=3\n")
    variables = {**VARIABLES, "JOB_ENV_FILE": str(tmp_path / "job.env")}
    worker = stack.read_services(variables, tmp_path)["worker"]
    assert worker.environment["FMNIST_TRAINING__EPOCHS"] == "3"
    without = stack.read_services({**VARIABLES, "JOB_ENV_FILE": "/absent"}, tmp_path)["worker"]
    assert "FMNIST_TRAINING__EPOCHS" not in without.environment


def test_only_their_owner_can_read_the_secrets_that_the_stack_keeps(
    services: dict[str, compose.Service], tmp_path: Path
) -> None:
    """They are in one file beside supervisord's configuration, which has none."""
    stack.Stack(services, tmp_path, VARIABLES).configure()
    assert "5ec5ec" not in (tmp_path / "supervisord.conf").read_text()
    assert stat.S_IMODE((tmp_path / "variables.json").stat().st_mode) == 0o600
    assert compose.used_variables({**VARIABLES, "HOME": "/"}) == VARIABLES


def test_a_missing_program_is_named_with_how_to_get_it(
    services: dict[str, compose.Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a line, with the version from compose.yaml."""
    monkeypatch.setattr(compose, "search_path", lambda: "/nowhere")
    lines = stack.missing_programs(services)
    assert [line.split()[0] for line in lines] == [
        *("mc", "minio", "postgres", "prefect", "python", "sh")
    ]
    assert "apt install postgresql" in lines[2]
    assert "go install github.com/minio/minio@v0.0.0-2026" in lines[1]


@pytest.mark.parametrize("command", ["start", "stop", "status"])
def test_without_secrets_every_command_ends_with_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what to do, and nothing is created."""
    options = ["--state", str(tmp_path / "state"), "--env-file", str(tmp_path / "absent")]
    assert stack.main([*options, command]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "stack.py secrets" in said
    assert not (tmp_path / "state").exists()


def test_stopping_what_does_not_run_is_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.make_secrets(tmp_path / "env")
    options = ["--state", str(tmp_path / "state"), "--env-file", str(tmp_path / "env")]
    assert stack.main([*options, "stop"]) == 0
    assert stack.main([*options, "status"]) == 1
    said = capsys.readouterr().out
    assert said.count("stopped\n") == 6 and "HEALTHY" not in said


def test_a_health_check_that_hangs_is_a_service_that_is_not_healthy(
    services: dict[str, compose.Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status shows the others, and a start goes on waiting."""
    monkeypatch.setattr(stack, "_LONGEST_CHECK", 0.1)
    hanging = dataclasses.replace(services["minio"], health=("sleep", "60"))
    assert stack.is_good(hanging, {"statename": "RUNNING"}) is False


def test_a_service_that_supervisord_does_not_know_is_stopped() -> None:
    """One that was added to compose.yaml since the last start, for example."""

    def refuse(name: str) -> None:
        raise xmlrpc.client.Fault(10, f"BAD_NAME: {name}")

    supervisor = SimpleNamespace(getProcessInfo=refuse)
    assert stack.process_info("new", supervisor) == {"statename": "STOPPED"}


@pytest.mark.parametrize(
    ("variable", "changed"),
    [("MINIO_PORT", {"minio", "minio-setup", "worker"}), ("JOB_ENV_FILE", {"worker"})],
)
def test_a_changed_variable_concerns_the_services_that_use_it(
    variable: str, changed: set[str], tmp_path: Path
) -> None:
    """By their digests, which say what supervisord must restart."""
    (tmp_path / "1").write_text("FMNIST_TRAINING__PATIENCE=3\n")
    before = compose.read_services(VARIABLES, tmp_path)
    after = compose.read_services({**VARIABLES, variable: str(tmp_path / "1")}, tmp_path)
    assert {name for name in before if before[name].digest != after[name].digest} == changed


def test_the_shell_that_starts_the_stack_makes_no_difference(
    services: dict[str, compose.Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start by cron finds nothing to restart."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("LANG", "xx_XX.UTF-8")
    for name, service in compose.read_services(VARIABLES, tmp_path).items():
        assert service.digest == services[name].digest


def test_the_environment_of_the_job_can_be_read_by_a_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Store, keys, server and the settings of job.env; not the worker's own PATH or HOME."""
    (tmp_path / "job").write_text("FMNIST_DATA__CLASS_NAMES='a b,c'\n")
    variables = {**VARIABLES, "JOB_ENV_FILE": str(tmp_path / "job"), "PREFECT_PORT": "4300"}
    stack.print_environment(compose.read_services(variables, tmp_path)["worker"])
    seen = {}
    for line in capsys.readouterr().out.splitlines():
        command, assignment = shlex.split(line)
        assert command == "export"
        name, _, value = assignment.partition("=")
        seen[name] = value
    assert seen["FMNIST_DATA__CLASS_NAMES"] == "a b,c"
    assert seen["PREFECT_API_URL"] == "http://127.0.0.1:4300/api"
    assert seen["AWS_SECRET_ACCESS_KEY"] == VARIABLES["JOB_SECRET_KEY"]
    assert not seen.keys() & {"PATH", "HOME", "LANG", "PREFECT_WORKER_WEBSERVER_PORT"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts PostgreSQL as another user")
def test_a_folder_that_postgresql_cannot_pass_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for root, whose home is usually closed to others."""
    closed = Path(tempfile.mkdtemp(prefix="fmnist-closed-"))
    monkeypatch.setattr(stack, "missing_programs", lambda services: [])
    monkeypatch.setattr(stack, "_bring_up", lambda *_: pytest.fail("a service was started"))
    try:
        services = compose.read_services(VARIABLES, closed / "state")
        with pytest.raises(StackError, match=rf"cannot pass through {closed}: .*--state"):
            stack.Stack(services, closed / "state", VARIABLES).start()
        assert not (closed / "state" / "supervisord.pid").exists()
        closed.chmod(0o711)
        assert stack.closed_folder(closed / "state" / "volumes", "postgres") is None
    finally:
        shutil.rmtree(closed)
