"""The stack's command: how compose.yaml becomes programs of this machine."""

import re
import stat
from pathlib import Path

import pytest
import yaml

from deployments import stack
from deployments.stack import StackError, interpolate

VARIABLES = {name: form.format("5ec" * 16) for name, form in stack.SECRETS.items()}


@pytest.fixture
def services(tmp_path: Path) -> dict[str, stack.Service]:
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
    assert one.keys() == two.keys() == {*stack.SECRETS, "PREFECT_API_URL"}
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
    assert worker.environment["PATH"] == stack.search_path()


def test_services_come_after_what_they_need(services: dict[str, stack.Service]) -> None:
    """They can be started in this order and stopped in reverse."""
    names = list(services)
    for name, spec in yaml.safe_load(stack.COMPOSE.read_text())["services"].items():
        for needed in spec.get("depends_on", {}):
            assert names.index(needed) < names.index(name)
    assert names[-1] == "worker"


def test_services_listen_to_and_reach_this_machine_only(services: dict[str, stack.Service]) -> None:
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
    services: dict[str, stack.Service], tmp_path: Path
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


def test_no_secret_is_written_outside_the_env_file(
    services: dict[str, stack.Service], tmp_path: Path
) -> None:
    stack.Stack(services, tmp_path, tmp_path / "env").configure()
    assert "5ec5ec" not in (tmp_path / "supervisord.conf").read_text()


def test_a_missing_program_is_named_with_how_to_get_it(
    services: dict[str, stack.Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a line, with the version from compose.yaml."""
    monkeypatch.setattr(stack, "search_path", lambda: "/nowhere")
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
    assert capsys.readouterr().out.count("NOT HEALTHY") == 6
