"""How the process of a command ends: by signals at any moment, without outputs, or a folder."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from fmnist.registry import keys
from tests.support.processes import ROOT, run_program

TRAIN = [sys.executable, str(ROOT / "flows" / "train.py")]
# One epoch on a few images, and a gate that lets anything pass.
TINY = "--training.epochs 1 --gate.min_accuracy 0 --gate.champion off --gate.max_class_drop none"
LONGEST_END = 10.0


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def handles_signals(process: psutil.Popen) -> bool:
    """Whether Python has come to the program's first lines; before, the system ends it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def alive(home: str) -> list[str]:
    """The programs that a run has started, and the run itself, by what is in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"PREFECT_HOME={home}".encode() in path.read_bytes().split(b"\0"):
                found.append((path.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


@dataclass(frozen=True)
class Laboratory:
    """A folder in which runs can be started, with settings of their own.

    Attributes:
        folder: holds all that they write.
        environment: the variables that they get.
    """

    folder: Path
    environment: dict[str, str]

    def start(self) -> psutil.Popen:
        """Start a run as a shell would, in a process group of its own."""
        with (self.folder / "error").open("wb") as error:
            return psutil.Popen(
                [*TRAIN, *TINY.split()],
                stdout=subprocess.PIPE,
                stderr=error,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def error(self) -> str:
        """What the last run has written to standard error."""
        return (self.folder / "error").read_text()


@pytest.fixture(scope="module")
def laboratory(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A folder for the runs of this module, whose Prefect database exists already."""
    folder = tmp_path_factory.mktemp("process")
    (folder / "temporary").mkdir()
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("PREFECT_")}
    made = Laboratory(
        folder,
        environment
        | {
            "FMNIST_DATA__SOURCE": str(small_data),
            "FMNIST_STORE__WORK": str(folder / "work"),
            "PREFECT_HOME": str(folder / "prefect"),
            "TMPDIR": str(folder / "temporary"),
        },
    )
    process = made.start()
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, made.error()
    assert out.startswith(b"promoted  ")
    return made


# The share of a whole run's duration after which the signals are sent: twenty moments.
MOMENTS = [number / 20 for number in range(20)]


@pytest.fixture(scope="module")
def duration(laboratory: Laboratory) -> float:
    """How many seconds a whole run takes from its first line."""
    process = laboratory.start()
    wait_until(lambda: handles_signals(process))
    start = time.monotonic()
    process.communicate(timeout=300)
    return time.monotonic() - start


@pytest.mark.parametrize("moment", MOMENTS)
def test_signals_end_a_run_and_its_children_within_seconds_whenever_they_come(
    moment: float, laboratory: Laboratory, duration: float
) -> None:
    """SIGINT or SIGTERM, to the process or its group, once or twice: code 130, and one line."""
    index = MOMENTS.index(moment)
    number = (signal.SIGINT, signal.SIGTERM)[index % 2]
    send = (os.kill, os.killpg)[index // 2 % 2]
    process = laboratory.start()
    wait_until(lambda: handles_signals(process))
    time.sleep(moment * duration)
    start = time.monotonic()
    for _ in range(1 + index // 4 % 2):
        if process.poll() is None:
            send(process.pid, number)
            time.sleep(0.1)
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    assert time.monotonic() - start < LONGEST_END
    wait_until(lambda: alive(str(laboratory.folder / "prefect")) == [], LONGEST_END)
    lines = out.decode().splitlines()
    assert len(lines) == 1, out
    ended = {130: "interrupted  after ", 0: "promoted  "}
    seen = (process.returncode, lines, laboratory.error())
    assert process.returncode in ended, seen
    assert lines[0].startswith(ended[process.returncode]), seen
    assert process.returncode == 130 or moment > 0.7
    assert "Traceback" not in laboratory.error()
    assert "Crash detected" not in laboratory.error()
    if "fmnist.flow - interrupted" in laboratory.error():  # Prefect is told.
        assert "Finished in state Cancelled('interrupted')" in laboratory.error()
    assert list((laboratory.folder / "temporary").iterdir()) == []
    for left in (laboratory.folder / "work").iterdir():
        assert moment > 0.7 and (left / "run" / keys.MANIFEST).exists()  # for `fmnist publish`
        shutil.rmtree(left)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_while_it_begins_is_recorded_as_cancelled(
    number: int, laboratory: Laboratory
) -> None:
    """The moment between Prefect's first line and the flow's own."""
    process = laboratory.start()
    wait_until(lambda: "Beginning flow run" in laboratory.error())
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and out.startswith(b"interrupted  after "), laboratory.error()
    assert "Traceback" not in laboratory.error()
    assert "Crash detected" not in laboratory.error()
    if "fmnist.flow - interrupted" in laboratory.error():  # Prefect is told.
        assert "Finished in state Cancelled('interrupted')" in laboratory.error()


def test_a_silent_server_does_not_hold_up_the_end(laboratory: Laboratory) -> None:
    """What it is not told in time, it is not told."""
    process = laboratory.start()
    wait_until(lambda: "Task run 'preprocess" in laboratory.error())
    servers = [child for child in process.children() if "temporary_server" in str(child.cmdline())]
    for server in servers:
        server.suspend()
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        for server in servers:
            server.resume()
        if process.poll() is None:
            process.kill()
    assert len(servers) == 1
    assert time.monotonic() - start < LONGEST_END
    assert process.returncode == 130 and out.startswith(b"interrupted  after "), laboratory.error()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_a_command_has_its_imports_is_one_line(number: int) -> None:
    """From its first line on: nothing has to be put in order yet."""
    program = """if True:
        from fmnist import process
        process.begin()
        import time
        print("begun", flush=True)
        time.sleep(60)
    """
    begun = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert begun.stdout and begun.stdout.readline() == b"begun\n"
    begun.send_signal(number)
    out, err = begun.communicate(timeout=60)
    assert (begun.returncode, err) == (130, b"")
    assert out.startswith(b"interrupted  after ") and out.count(b"\n") == 1


def test_a_signal_after_the_last_line_leaves_the_exit_code_as_it_is() -> None:
    """Also while Python itself ends, which takes a moment with much in memory."""
    program = """if True:
        import sys
        from fmnist import process
        process.begin()
        import pydantic
        process.start_command()
        process.end_command(3)
        print("last line", flush=True)
        sys.exit(3)
    """
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline() == b"last line\n"
        while process.poll() is None:
            process.terminate()
        assert process.returncode == 3


def test_a_temporary_server_that_does_not_start_is_one_line(laboratory: Laboratory) -> None:
    """It is started once, and what it says is in a file that the line names."""
    database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////proc/none/x.db"}
    ended = subprocess.run(
        [*TRAIN, *TINY.split()],
        cwd=laboratory.folder,
        env=laboratory.environment | database,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    log = laboratory.folder / "prefect" / "temporary-server.log"
    assert ended.returncode == 7, ended.stderr
    assert ended.stdout.startswith("failed  -  prefect: the temporary Prefect server ")
    assert str(log) in ended.stdout and "unable to open database file" in log.read_text()
    assert "Traceback" not in ended.stderr


def test_a_killed_run_leaves_no_server_and_no_temporary_file(laboratory: Laboratory) -> None:
    """The temporary server ends with its parent, however that ended."""
    process = laboratory.start()
    wait_until(lambda: "Task run 'preprocess" in laboratory.error())
    process.kill()
    process.communicate()
    wait_until(lambda: alive(str(laboratory.folder / "prefect")) == [], LONGEST_END)
    assert list((laboratory.folder / "temporary").iterdir()) == []


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", ">&- 2>&- <&-", ">/dev/full 2>&1"])
def test_a_lost_output_changes_neither_verdict_nor_exit_code(
    redirection: str, laboratory: Laboratory
) -> None:
    """Closed, or on a full disk: the run trains, promotes and ends as ever."""
    champion = laboratory.folder / "store" / "champion.json"
    before = champion.read_bytes()
    command = " ".join(
        [*TRAIN, *TINY.split(), "--training.seed", str(len(redirection)), redirection]
    )
    ended = subprocess.run(
        ["sh", "-c", command],
        cwd=laboratory.folder,
        env=laboratory.environment,
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert b"Traceback" not in ended.stderr
    assert champion.read_bytes() != before


@pytest.mark.parametrize("command", ["runs", "show", "champion", "history", "doctor"])
@pytest.mark.parametrize(
    "locale",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["ascii", "C"],
)
def test_letters_that_an_output_cannot_show_are_replaced(
    command: str, locale: dict[str, str], laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command that shows something works where standard output takes ASCII only."""
    monkeypatch.chdir(laboratory.folder)
    run_id = max(path.name for path in Path("store/runs").iterdir())
    words = [command, run_id] if command == "show" else [command]
    ended = run_program("-m", "fmnist", *words, **laboratory.environment, **locale)
    assert "Error" not in ended.stdout + ended.stderr
    assert ended.returncode == 0 or command == "doctor"


@pytest.mark.parametrize("place", ["command line", "environment"])
def test_a_value_that_is_no_text_is_a_settings_error(place: str, laboratory: Laboratory) -> None:
    """Bytes that are not UTF-8, as a shell may pass them on."""
    names = b"a\xff,b,c"
    words = [b"--data.class_names", names] if place == "command line" else []
    variables = {} if words else {b"FMNIST_DATA__CLASS_NAMES": names}
    ended = subprocess.run(
        [*map(os.fsencode, TRAIN), *words],
        cwd=laboratory.folder,
        env={os.fsencode(name): os.fsencode(text) for name, text in laboratory.environment.items()}
        | variables,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout.startswith(b"failed  -  settings: data.class_names: ")
    assert len(ended.stdout.splitlines()) == 1 and ended.stderr == b""


@pytest.mark.parametrize("moment", [0.0, 0.25, 0.5])
def test_a_current_folder_that_is_deleted_is_one_line(
    moment: float, laboratory: Laboratory, duration: float, tmp_path: Path
) -> None:
    """The store was in it: code 5, and no waiting."""
    gone = tmp_path / "gone"
    gone.mkdir()
    process = subprocess.Popen(
        [*TRAIN, *TINY.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=gone,
        env=laboratory.environment,
    )
    time.sleep(moment * duration)
    shutil.rmtree(gone)
    out, err = process.communicate(timeout=duration + 60)
    assert process.returncode == 5, err
    assert b"Traceback" not in err
    assert len(out.splitlines()) == 1


def test_a_command_in_a_folder_that_was_deleted_is_one_line(tmp_path: Path) -> None:
    """Even where it only reads, since the places in its settings are relative to that folder."""
    ended = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD"; exec "$0" -m fmnist runs', sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 5, ended.stderr
    assert ended.stdout.startswith("failed  -  store: the current folder cannot be used (No such ")
    assert ended.stdout.count("\n") == 1 and ended.stderr == ""
