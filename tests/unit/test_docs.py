"""What the documents say is so."""

import re
import shlex
import subprocess

import pytest

from deployments import stack
from fmnist.cli import commands
from fmnist.cli.options import parse
from fmnist.configure import all_settings
from fmnist.errors import ExitCode
from tests.support.processes import ROOT

README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README + CONTRIBUTING, re.DOTALL)
    for line in block.splitlines()
]


def test_the_readme_lists_every_setting_with_its_default() -> None:
    """The table of settings is the one the code has."""
    for setting in all_settings():
        default = setting.default.replace("|", r"\|")
        assert f"| `{setting.name}` | {default} |" in README, setting.name


def test_the_readme_lists_every_exit_code() -> None:
    """The table of exit codes is the one the code has."""
    for code in ExitCode:
        assert f"| {int(code)} | {code.meaning} |" in README


@pytest.mark.parametrize("command", [c for c in COMMANDS if "flows/train.py --" in c])
def test_every_option_in_the_documents_is_understood(command: str) -> None:
    """A reader who copies a command gets no fault."""
    arguments = shlex.split(command.partition("flows/train.py ")[2])
    if "--help" in arguments:
        with pytest.raises(SystemExit):
            parse(arguments, "train")
    else:
        parse(arguments, "train")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_every_make_target_in_the_documents_exists(command: str) -> None:
    """And is described in the list that a bare `make` prints."""
    assert re.search(rf"^{command.split()[1]}:.*## ", MAKEFILE, re.MULTILINE)


def test_a_bare_make_lists_the_targets() -> None:
    """It runs nothing."""
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "train", "test", "check", "lock"):
        assert f"make {target} " in listed


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_file_that_the_documents_name_is_there(text: str) -> None:
    """Links and paths lead somewhere."""
    named = set(re.findall(r"\]\((?!https?:)([^)#]+)\)", text))
    named |= set(
        re.findall(
            r"\b(?:flows|fmnist|tests|benchmarks|deployments|\.ci)/[\w./-]+\.(?:py|md|yaml)\b", text
        )
    )
    assert named
    for name in named:
        assert (ROOT / name).exists(), name


def test_contributing_names_every_module() -> None:
    """The layout is complete."""
    for path in [*ROOT.glob("fmnist/[!_]*.py"), *ROOT.glob("deployments/[!_]*.py")]:
        assert f"{path.parent.name}/{path.name} " in CONTRIBUTING


@pytest.mark.parametrize("command", [c for c in COMMANDS if "deployments/stack.py" in c])
def test_every_command_of_the_stack_in_the_documents_exists(command: str) -> None:
    """A reader who copies it gets no fault."""
    with pytest.raises(SystemExit) as ended:
        stack.main([*shlex.split(command.partition("stack.py ")[2]), "--help"])
    assert ended.value.code == 0


def test_the_readme_lists_every_console_command() -> None:
    """With its arguments, in a table of its own."""
    for name in commands.COMMANDS:
        assert f"`fmnist {name}" in README, name


@pytest.mark.parametrize("written", sorted(set(re.findall(r"`fmnist ([a-z]+)", README))))
def test_every_console_command_in_the_readme_exists(written: str) -> None:
    """A reader who types it gets no fault."""
    assert written in commands.COMMANDS


def test_the_documents_and_the_stack_name_the_same_places() -> None:
    """Ports, folders, deployments and variables are those of the stack's files."""
    compose = (ROOT / "deployments" / "compose.yaml").read_text()
    for name in ("PREFECT_PORT", "MINIO_PORT", "WORKER_PORT", "POSTGRES_PORT", "ALERT_WEBHOOK_URL"):
        assert f"`{name}" in README
        assert f"${{{name}:-" in compose
    assert "${PREFECT_PORT:-4200}" in compose
    assert "${JOB_ENV_FILE:-job.env}" in compose
    assert "${ALERT_SILENCE_HOURS:-26}" in compose
    assert "fashion-mnist/process" in README


def test_no_lock_file_names_a_host() -> None:
    """The locks have packages and hashes, and no address."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        assert "://" not in (ROOT / name).read_text()
        assert "--index" not in (ROOT / name).read_text()


def test_the_lock_keeps_the_bounds_that_silently_break_schedules() -> None:
    """FastAPI and SQLAlchemy stay below the releases that the pinned Prefect fails with."""
    lock = (ROOT / "requirements.txt").read_text()
    fastapi, sqlalchemy = (
        tuple(map(int, re.search(rf"^{name}==([\d.]+)", lock, re.MULTILINE)[1].split(".")))  # type: ignore[index]
        for name in ("fastapi", "sqlalchemy")
    )
    assert fastapi < (0, 151)
    assert sqlalchemy < (2, 1)
