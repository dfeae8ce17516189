"""What the documents say is true of the code."""

import re
import shlex
import tomllib

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from deployments import stack
from fmnist.cli.app import app
from fmnist.cli.command import parse
from fmnist.cli.reference import pages
from fmnist.cli.train import training_app
from tests.support.processes import ROOT

DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
}
TEXT = "\n".join(DOCUMENTS.values())
TRAINING = training_app(lambda _: None)  # type: ignore[arg-type, return-value]
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = [
    line.partition("  #")[0]
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("name", pages())
def test_the_reference_is_up_to_date(name: str) -> None:
    """The committed page is what `python -m fmnist.cli.reference docs` writes."""
    assert DOCUMENTS[f"docs/{name}"] == pages()[name]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "flows/train.py" in c])
def test_every_command_line_of_the_job_is_understood(command: str) -> None:
    words = shlex.split(command.partition("flows/train.py")[2])
    parse(TRAINING, words, Console())


@pytest.mark.parametrize("option", sorted(set(re.findall(r"(?<![\w-])--[a-z]+\.[a-z_]+", TEXT))))
def test_every_setting_that_is_written_as_an_option_exists(option: str) -> None:
    known = {name for each in TRAINING.assemble_argument_collection() for name in each.names}
    assert option in known or option == "--section.name"


INVOCATIONS = re.findall(
    r"^(?:\S*/bin/)?fmnist (-*[a-z][a-z-]*)",
    "\n".join([*re.findall(r"`([^`\n]+)`", TEXT), *COMMANDS]),
    re.MULTILINE,
)


@pytest.mark.parametrize("name", sorted(set(INVOCATIONS)))
def test_every_console_command_in_the_documents_exists(name: str) -> None:
    assert name in app


TARGETS = re.findall(r"(?:^|`)make ([a-z0-9-]+)", "\n".join([TEXT, *COMMANDS]), re.MULTILINE)


@pytest.mark.parametrize("target", sorted(set(TARGETS)))
def test_every_make_target_in_the_documents_exists(target: str) -> None:
    """And is described in the list that a bare `make` prints."""
    assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_the_documents_name_exists(name: str) -> None:
    text, folder = DOCUMENTS[name], (ROOT / name).parent
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (folder / link).exists(), link
    for path in re.findall(
        r"\b(?:flows|fmnist|tests|benchmarks|deployments|docs|\.ci)/[\w./-]+\.(?:py|md|yaml)\b",
        text,
    ):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("command", [c for c in COMMANDS if "deployments/stack.py" in c])
def test_every_command_of_the_stack_in_the_documents_exists(command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        stack.main([*shlex.split(command.partition("stack.py ")[2].rstrip('")')), "--help"])
    assert ended.value.code == 0


def test_the_documents_and_the_stack_name_the_same_places() -> None:
    """Ports, folders, deployments and variables are those of the stack's files."""
    compose = (ROOT / "deployments" / "compose.yaml").read_text()
    for name in (
        "PREFECT_PORT",
        "MINIO_PORT",
        "WORKER_PORT",
        "POSTGRES_PORT",
        "ALERT_WEBHOOK_URL",
        "ALERT_SLACK_URL",
        "KEEP_DAYS",
    ):
        assert name in TEXT
        assert f"${{{name}:-" in compose
    assert "${PREFECT_PORT:-4200}" in compose
    assert "${JOB_ENV_FILE:-job.env}" in compose
    assert "${ALERT_SILENCE_HOURS:-26}" in compose
    assert "fashion-mnist/process" in TEXT


def test_no_lock_file_names_a_host() -> None:
    """The locks have packages and hashes, and no address."""
    for lock in ROOT.glob("requirements*.txt"):
        assert "://" not in lock.read_text()
        assert "--index" not in lock.read_text()


def test_the_image_has_the_locked_version_of_tensorflow() -> None:
    """Its build for CPUs is another package, with a lock of its own."""
    locked = re.search(r"^tensorflow(==\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert locked
    assert (ROOT / "requirements-cpu.txt").read_text().startswith(f"tensorflow-cpu{locked[1]} ")


def test_the_lock_keeps_the_bounds() -> None:
    pins = dict(
        re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    )
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for requirement in map(Requirement, declared):
        assert requirement.specifier.contains(pins[requirement.name]), requirement
