"""The command line of `fmnist`: help, faults, and how every command ends."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fmnist.cli.app import _COMMANDS, app, main
from fmnist.cli.command import docstring
from fmnist.errors import ExitCode
from tests.integration.cli.conftest import Call, Machine, run_id
from tests.support.processes import files_in, run_program


@pytest.fixture(autouse=True)
def _empty_store() -> None:
    """The default store, in the current folder."""
    Path("store").mkdir()


COMMANDS = [name for name in app if not name.startswith("-")]


def test_help_lists_every_command_and_exit_code(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    output = call("--help")
    assert output.code == ExitCode.OK
    for name in COMMANDS:
        assert re.search(rf"^│ {name} +[A-Z]", output.text, re.MULTILINE), name
    for code in ExitCode:
        assert f"  {int(code):3}  {code.meaning}" in output.lines


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(
    name: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command's help has its complete docstring and settings, even if some setting is wrong."""
    monkeypatch.setenv("FMNIST_TRAINING__EPOCHS", "bad")
    monkeypatch.setenv("COLUMNS", "1000")
    output = call(name, "--limit", "bad", "--help")
    assert output.code == ExitCode.OK
    assert output.lines[0].startswith(f"Usage: fmnist {name}")
    paragraphs = docstring(app[name].default_command).split("\n\n")
    assert set(paragraphs) <= set(output.lines)
    assert "--store.url" in output.text and "FMNIST_STORE__URL" in output.text


def test_the_list_of_commands_has_each_docstrings_first_line() -> None:
    """A summary that is repeated to list commands quickly is that of the command."""
    written = {name: summary for name, _, summary in _COMMANDS}
    first = {name: docstring(app[name].default_command).splitlines()[0] for name in COMMANDS}
    assert written == first


def test_the_version_is_shown(call: Call) -> None:
    assert call("--version").lines == [importlib.metadata.version("fmnist")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed(
    shell: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell's script knows the commands and the settings of each."""
    monkeypatch.setenv("HOME", str(tmp_path))
    output = call("--install-completion", "--shell", shell)
    assert output.code == ExitCode.OK
    script = Path(output.last.split("  ")[1].removeprefix("installed in ")).read_text()
    assert all(name in script for name in COMMANDS)
    assert "gate.min_accuracy" in script


def test_completion_that_cannot_be_installed_is_one_line(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home folder that cannot be written ends with code 2 and the reason."""
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    call("--install-completion", "--shell", "fish").fails(
        ExitCode.SETTINGS, "the completion cannot be installed"
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["a command is required", "fmnist --help"]),
        (["--json"], ["a command is required"]),
        (["runz"], ["'runz' is not a command", "did you mean runs?"]),
        (["qqqq"], ["'qqqq' is not a command", "fmnist --help"]),
        (["s3://KEY:TOPSECRET@bucket"], ["is not a command"]),
        (["runs", "--limt", "5"], ["--limt: no such option", "did you mean --limit?"]),
        (["runs", "--store.ulr", "x"], ["did you mean --store.url?"]),
        (["runs", "extra"], ["extra: unexpected argument"]),
        (["runs", "--limit", "0"], ["--limit: '0'", "integer from 1"]),
        (["runs", "--limit", "9" * 5000], ["--limit", "integer from 1"]),
        (["runs", "--before", "../up"], ["'../up' is not a run id"]),
        (["show"], ["RUN is required", "fmnist show --help"]),
        (["runs", "--limit"], ["--limit needs a value"]),
        (["runs", "--limit", "1", "--limit", "2"], ["--limit specified multiple times"]),
        (["rollback", "--reson", "x"], ["--reson", "did you mean --reason?"]),
        (["show", "../../etc"], ["'../../etc' is not a run id", "fmnist runs"]),
        (["show", "s3://KEY:TOPSECRET@bucket"], ["is not a run id"]),
        (["compare", "20260301T092653Z-0a1b2c3d"], ["SECOND is required"]),
        (["prune"], ["--keep is required"]),
        (["prune", "--keep", "0"], ["--keep: '0'"]),
        (["promote", run_id(1), "--force"], ["--force needs --reason"]),
        (["promote", run_id(1), "--reason", "x"], ["--reason needs --force"]),
        (["promote", run_id(1), "--force", "--reason", " "], ["--reason", "printable"]),
        (["rollback", "--reason", "\x1b[31m"], ["--reason", "printable"]),
        (["rollback", "--reason", "x" * 501], ["--reason", "500"]),
        (["runs", "--store.url", "ftp://host"], ["store.url:", "unknown scheme"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_wrong_line_is_told_in_one(words: list[str], parts: list[str], call: Call) -> None:
    output = call(*[word for word in words if word != "--json"])
    output.fails(ExitCode.SETTINGS, *parts)
    assert len(output.last) < 300
    assert "TOPSECRET" not in output.text + output.error
    assert files_in(Path()) == set()


def test_all_faults_of_a_line_are_told(call: Call, machine: Machine) -> None:
    """Several faults are all told on standard error; the last line has the first and the number."""
    words = ("runs", "--training.epochs", "0", "--gate.min_accuracy", "2")
    output = call(*words)
    assert output.lines == [
        "failed  -  settings: training.epochs: '0' was given; allowed: integer from 1 to 10000 "
        "(and 1 more line above)"
    ]
    assert "gate.min_accuracy: '2'" in output.error
    assert "gate.min_accuracy: '2'" in machine(*words)["message"]


def test_a_failure_is_a_document_too(machine: Machine) -> None:
    assert machine("show", run_id(1)) == {
        "ok": False,
        "exit_code": 2,
        "kind": "settings",
        "message": f"this store has no run {run_id(1)}: store; `fmnist runs` lists them",
    }


def end_by(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command `runs` end by this error."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("fmnist.cli.inspect.current_champion", fail)


def test_an_interrupt_is_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command with code 130 and no traceback."""
    end_by(KeyboardInterrupt(), monkeypatch)
    output = call("runs")
    assert output.code == ExitCode.INTERRUPTED
    assert output.lines[0].startswith("interrupted  after ")
    assert len(output.lines) == 1 and output.error == ""


def test_a_defect_shows_its_traceback(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What nobody foresaw ends with code 1, and standard output is a document even then."""
    end_by(ZeroDivisionError("by zero"), monkeypatch)
    found = machine("runs")
    assert found["exit_code"] == ExitCode.DEFECT
    assert found["message"] == "ZeroDivisionError: by zero"


def test_a_termination_is_an_interrupt() -> None:
    """SIGTERM ends a running command with code 130 and its one line."""
    program = (
        "import os, signal, sys\n"
        "import fmnist.cli.inspect\n"
        "from fmnist.cli.app import main\n"
        "fmnist.cli.inspect.read_champion = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(main(['champion']))"
    )
    ended = run_program("-c", program)
    assert ended.returncode == ExitCode.INTERRUPTED
    assert ended.stdout.startswith("interrupted  after ")
    assert ended.stderr == ""


@pytest.mark.parametrize("word", ["--help", "runs"])
def test_a_reader_that_leaves_early_is_no_failure(word: str) -> None:
    """`fmnist --help | head -1` ends without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time, sys; time.sleep(0.1)\n"
         f"sys.argv[1:] = ['{word}']; from fmnist.__main__ import main; sys.exit(main())"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


def test_the_module_is_the_command() -> None:
    """`python -m fmnist` does the same, without TensorFlow, colours or files of its own."""
    ended = run_program("-m", "fmnist", "runs")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ok  no run in store\n", "")
    assert files_in(Path()) == set()


def test_commands_that_ask_no_network_do_not_wait_for_tensorflow() -> None:
    program = (
        "import sys; from fmnist.cli.app import main\n"
        "for name in ('runs', 'champion', 'history'): main([name])\n"
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    assert run_program("-c", program).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["runz"]], ids=" ".join)
def test_help_and_slips_do_not_wait_for_large_packages(words: list[str]) -> None:
    """Help, the version and a mistyped command import nothing that takes long."""
    program = (
        f"import sys; from fmnist.cli.app import main; main({words})\n"
        "large = ('numpy', 'scipy', 'sklearn', 'matplotlib', 'seaborn', 'boto3', 'tensorflow', "
        "'prefect')\n"
        "print([name for name in large if name in sys.modules])"
    )
    assert run_program("-c", program).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words", ["runs", "champion", "history", "verify", "prune --keep 1", "pull model", "rollback"]
)
def test_a_store_folder_that_does_not_exist_is_an_error(
    words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit code 5 and a hint, rather than an empty list from the wrong place; nothing is created."""
    absent = tmp_path / "absent"
    assert main([*words.split(), "--store.url", str(absent)]) == ExitCode.STORE
    said = capsys.readouterr().out
    assert f"store folder {absent} does not exist" in said and "stack.py env" in said
    assert not absent.exists()
