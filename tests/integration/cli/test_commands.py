"""The console commands, each with real stores and, where a network is asked, a real small one."""

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fmnist.cli.commands import COMMANDS, main

from fmnist.cli.app import Call, Ended
from fmnist.cli.doctor import Finding
from fmnist.data.records import FILES, Bytes, DataOrigin
from fmnist.errors import ExitCode
from fmnist.evaluation.gate import GateContext, Verdict, decide
from fmnist.evaluation.metrics import Evaluation, evaluate
from fmnist.promotion.judge import make_test_set
from fmnist.promotion.publish import write_run
from fmnist.promotion.workspace import finished_folder
from fmnist.registry.champion import (
    current_champion,
    generation_of,
    promote_run,
    read_champion,
    retire,
    roll_back,
)
from fmnist.registry.records import (
    CHAMPION,
    COMPARISON,
    DATA,
    EVALUATION,
    MODEL,
    SETTINGS,
    VERDICT,
    FileEntry,
    Manifest,
    StoredRun,
    to_json,
)
from fmnist.registry.runs import (
    find_run,
    later_verdicts,
    list_run_ids,
    read_file,
    read_record,
    read_run,
    record_verdict,
    seal_run,
    upload_run,
)
from fmnist.report.run import Run
from fmnist.settings import GateSettings, ModelSettings, Settings
from fmnist.store.base import Conflict, Store, open_store
from fmnist.store.folder import FolderStore
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.processes import files_in, run_program

IMAGES = 400
LABELS: Bytes = np.resize(np.arange(10, dtype=np.uint8), IMAGES)
NAMES = records.CLASS_NAMES


def run_id(number: int) -> str:
    """The ids of runs, one a day, in the order of time."""
    return f"202603{number:02d}T092653Z-0a1b2c3d"


# ---- small data, and networks that know them well or not at all ---------------------------------


def images(noise: int = 0) -> Bytes:
    """Images that show their class by the place of a bright bar."""
    drawn = np.random.default_rng(noise).integers(0, 60, (IMAGES, 28, 28), np.uint8)
    for place, label in enumerate(LABELS):
        drawn[place, :, 2 * label : 2 * label + 3] = 200
    return drawn


def idx(array: Bytes) -> bytes:
    """The gzip-compressed IDX file of an array."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes())


def write_data(folder: Path, noise: int) -> Path:
    """Four files of a data set, with their SHA256SUMS."""
    folder.mkdir()
    for name in FILES:
        array = LABELS if "labels" in name else images(noise + ("train" in name))
        (folder / name).write_bytes(idx(array))
    sums = (f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in FILES)
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder


@dataclass(frozen=True)
class Network:
    """A saved network, and what it reaches on the test images."""

    content: bytes
    evaluation: Evaluation


@dataclass(frozen=True)
class World:
    """A data set, two networks that know it (`good`, `better`), and one that does not (`poor`)."""

    data: Path
    other_data: Path
    origin: DataOrigin
    good: Network
    better: Network
    poor: Network


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Small data, and networks made for them."""
    import keras

    from fmnist.training.model_file import predict
    from fmnist.training.network import build

    folder = tmp_path_factory.mktemp("world")
    data, other = write_data(folder / "data", 0), write_data(folder / "other", 50)

    def made(epochs: int, seed: int) -> Network:
        keras.utils.set_random_seed(seed)
        network = build(ModelSettings(hidden=(16,), dropout=(0.0,)))
        network.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        network.fit(images(1), LABELS, batch_size=50, epochs=epochs, verbose=0)
        network.save(folder / "model.keras")
        content = (folder / "model.keras").read_bytes()
        return Network(content, evaluate(predict(network, images(0)), LABELS, NAMES))

    sums = {name: hashlib.sha256((data / name).read_bytes()).hexdigest() for name in FILES}
    origin = DataOrigin(str(data), False, sums)
    found = World(data, other, origin, made(12, 1), made(30, 2), made(0, 3))
    assert found.good.evaluation.accuracy > 0.95 > 0.5 > found.poor.evaluation.accuracy
    return found


# ---- stores with runs ---------------------------------------------------------------------------


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.minio)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that is not there yet, or a new bucket's prefix on the real MinIO."""
    if request.param == "folder":
        return str(tmp_path / "models")
    return f"s3://{request.getfixturevalue('bucket')}/team"


def sealed(
    folder: Path,
    name: str,
    *,
    model: bytes = b"model",
    evaluation: Evaluation | None = None,
    gate: GateSettings | None = None,
    origin: DataOrigin | None = None,
    undecided: bool = False,
) -> Run:
    """A finished run's folder, without its figures."""
    settings = Settings(gate=gate or GateSettings())
    run = records.run(run_id=name, settings=settings)
    found = evaluation or records.evaluation()
    verdict = decide(found, settings.gate, GateContext(found.images))
    if undecided:
        verdict = Verdict(False, (), "not decided yet: the store was away", decided=False)
    run = replace(run, evaluation=found, verdict=verdict, data=origin or run.data)
    folder.mkdir(parents=True)
    contents = {
        MODEL: model,
        EVALUATION: to_json(run.evaluation),
        VERDICT: to_json(run.verdict),
        SETTINGS: to_json(run.settings),
        DATA: to_json(run.data),
        "report.md": b"# A report\n",
    }
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    seal_run(folder, name, datetime(2026, 3, int(name[6:8]), 9, 30, tzinfo=UTC))
    return run


@pytest.fixture
def store_run(tmp_path: Path) -> Iterator[Callable[..., StoredRun]]:
    """Publishes a made-up run, and promotes it if asked to."""

    def put(store: Store, name: str, *, promote: bool = False, **how: Any) -> StoredRun:
        folder = tmp_path / "sealed" / name
        run = sealed(folder, name, **how)
        stored = upload_run(store, folder)
        shutil.rmtree(folder)
        if promote:
            head = current_champion(store)
            verdict = replace(run.verdict, generation=generation_of(head))
            promote_run(
                store, stored, run.evaluation.accuracy, verdict, lambda _: verdict,
                by="flows/train.py",
            )  # fmt: skip
        return stored

    yield put


Put = Callable[..., StoredRun]


@dataclass(frozen=True)
class Output:
    """What a command left: its code, the lines of standard output, and standard error."""

    code: ExitCode
    lines: list[str]
    error: str

    @property
    def last(self) -> str:
        """The line that sums it up."""
        return self.lines[-1]

    @property
    def text(self) -> str:
        """All of standard output."""
        return "\n".join(self.lines)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Runs a command in this process."""

    def run(*words: str) -> Output:
        code = main(words)
        out, error = capsys.readouterr()
        return Output(code, out.splitlines(), error)

    return run


Run_ = Callable[..., Output]


@pytest.fixture
def machine(call: Run_) -> Callable[..., dict[str, Any]]:
    """Runs a command for a machine: standard output must be one JSON document."""

    def run(*words: str) -> dict[str, Any]:
        output = call(*words, "--json")
        document: dict[str, Any] = json.loads(output.text)
        assert document["exit_code"] == output.code
        assert document["ok"] == (output.code == 0)
        return document

    return run


# ---- the command line ---------------------------------------------------------------------------


def test_help_lists_every_command_on_a_line(call: Run_) -> None:
    """The help has one line for each command, and every exit code."""
    output = call("--help")
    assert output.code == ExitCode.OK
    for name, command in COMMANDS.items():
        assert f"  {name:9} {command.summary}" in output.lines
    for code in ExitCode:
        assert f"  {int(code):3}  {code.meaning}" in output.lines


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(
    name: str, call: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command's help shows its arguments, also to somebody with a wrong setting outside."""
    monkeypatch.setenv("FMNIST_TRAINING__EPOCHS", "bad")
    output = call(name, "--help")
    assert output.code == ExitCode.OK
    assert output.lines[0].startswith(f"usage: fmnist {name} ")
    for argument in COMMANDS[name].arguments:
        assert argument.meaning in output.text
        assert argument.usage in output.lines[0]
    assert "--store.url" in output.text


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["a command comes first", "fmnist --help"]),
        (["--json"], ["a command comes first"]),
        (["runz"], ["'runz' is no command", "did you mean runs?"]),
        (["qqqq"], ["'qqqq' is no command", "fmnist --help"]),
        (["s3://KEY:TOPSECRET@bucket"], ["is no command"]),
        (["runs", "--limt", "5"], ["limt:", "did you mean limit?"]),
        (["runs", "--store.ulr", "x"], ["did you mean store.url?"]),
        (["runs", "extra"], ["extra:", "not an option"]),
        (["runs", "--limit", "0"], ["--limit: '0'", "integer from 1"]),
        (["runs", "--limit", "9" * 5000], ["--limit", "integer from 1"]),
        (["runs", "--before", "../up"], ["'../up' is no run id"]),
        (["show"], ["required: RUN"]),
        (["show", "../../etc"], ["'../../etc' is no run id", "fmnist runs"]),
        (["show", "s3://KEY:TOPSECRET@bucket"], ["is no run id"]),
        (["compare", "20260301T092653Z-0a1b2c3d"], ["required: RUN"]),
        (["prune"], ["required: --keep"]),
        (["prune", "--keep", "0"], ["--keep: '0'"]),
        (["promote", run_id(1), "--force"], ["--force needs --reason"]),
        (["promote", run_id(1), "--reason", "x"], ["--reason goes with --force"]),
        (["promote", run_id(1), "--force", "--reason", " "], ["--reason", "printable"]),
        (["rollback", "--reason", "\x1b[31m"], ["--reason", "printable"]),
        (["rollback", "--reason", "x" * 501], ["--reason", "500"]),
        (["runs", "--store.url", "ftp://host"], ["store.url:", "unknown scheme"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_wrong_line_is_told_in_one(words: list[str], parts: list[str], call: Run_) -> None:
    """A wrong command, argument or setting ends with code 2 and one line that says what is wrong."""
    output = call(*[word for word in words if word != "--json"])
    assert output.code == ExitCode.SETTINGS
    assert len(output.lines) == 1
    assert output.last.startswith("failed  -  settings: ")
    assert len(output.last) < 300
    for part in parts:
        assert part in output.last
    assert "TOPSECRET" not in output.text + output.error
    assert files_in(Path()) == set()


def test_all_faults_of_a_line_are_told(call: Run_, machine: Callable[..., dict[str, Any]]) -> None:
    """Several faults are all told on standard error; the last line has the first and their number."""
    words = ("runs", "--training.epochs", "0", "--gate.min_accuracy", "2")
    output = call(*words)
    assert output.lines == [
        "failed  -  settings: training.epochs: '0' was given; allowed: integer from 1 to 10000 "
        "(and 1 more lines above)"
    ]
    assert "gate.min_accuracy: '2'" in output.error
    assert "gate.min_accuracy: '2'" in machine(*words)["message"]


def test_a_failure_is_a_document_too(machine: Callable[..., dict[str, Any]]) -> None:
    """With --json a failure has its code, its kind and its message."""
    assert machine("show", run_id(1)) == {
        "ok": False,
        "exit_code": 5,
        "kind": "store",
        "message": f"store/runs/{run_id(1)}/manifest.json is not there: {run_id(1)} is no run of "
        "this store; `fmnist runs` lists them",
    }


def end_by(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command `runs` end by this error."""

    def fail(_: Call) -> Ended:
        raise error

    monkeypatch.setitem(COMMANDS, "runs", replace(COMMANDS["runs"], run=fail))  # type: ignore[arg-type]


def test_an_interrupt_is_one_line(call: Run_, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command with code 130 and no traceback."""
    end_by(KeyboardInterrupt(), monkeypatch)
    output = call("runs")
    assert output.code == ExitCode.INTERRUPTED
    assert output.lines[0].startswith("interrupted  after ")
    assert len(output.lines) == 1 and output.error == ""


def test_a_defect_shows_its_traceback(
    machine: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What nobody foresaw ends with code 1, and standard output is a document even then."""
    end_by(ZeroDivisionError("by zero"), monkeypatch)
    found = machine("runs")
    assert found["exit_code"] == ExitCode.DEFECT
    assert found["message"] == "ZeroDivisionError: by zero"


def test_a_termination_is_an_interrupt(tmp_path: Path) -> None:
    """SIGTERM ends a running command with code 130 and its one line."""
    program = (
        "import os, signal, sys\n"
        "import fmnist.cli.inspect\n"
        "from fmnist.cli import commands\n"
        "fmnist.cli.inspect.read_champion = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(commands.main(['champion']))"
    )
    ended = run_program("-c", program)
    assert ended.returncode == ExitCode.INTERRUPTED
    assert ended.stdout.startswith("interrupted  after ")
    assert ended.stderr == ""


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    """`fmnist --help | head -1` ends without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time, sys; time.sleep(0.1)\n"
         "from fmnist.cli.commands import main; sys.exit(main(['--help']))"],
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
    """Looking at a store imports neither TensorFlow nor Keras."""
    program = (
        "import sys; from fmnist.cli.commands import main\n"
        "for name in ('runs', 'champion', 'history'): main([name])\n"
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    assert run_program("-c", program).stdout.splitlines()[-1] == "[]"


# ---- runs, show, champion, history --------------------------------------------------------------


def test_runs_are_listed_newest_first(
    url: str, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """A table of the runs with their figures and marks, and the same as a document."""
    store = open_store(url)
    store_run(store, run_id(1), promote=True)
    store_run(store, run_id(2), evaluation=records.evaluation(8_790))
    stored = store_run(store, run_id(3))
    record_verdict(store, stored, Verdict(False, (), "worse than the champion"))
    store.put_if_absent(f"runs/{run_id(4)}/model.keras", b"model")
    output = call("runs", "--store.url", url)
    assert output.code == 0
    rows = [line.split() for line in output.lines]
    assert rows[1:5] == [
        [run_id(4), "unfinished"],
        ["!", run_id(3), "2026-03-03", "09:30", "0.9142", "[0.9086,", "0.9195]", "promoted"],
        [run_id(2), "2026-03-02", "09:30", "0.8790", "[0.8725,", "0.8852]", "rejected"],
        ["*", run_id(1), "2026-03-01", "09:30", "0.9142", "[0.9086,", "0.9195]", "promoted"],
    ]
    assert "* the champion" in output.lines
    assert "! rejected later, when it was to be promoted" in output.lines
    assert output.last == f"ok  4 of 4 runs in {store.location('')}  the last page"
    assert "\x1b" not in output.text
    found = machine("runs", "--store.url", url)
    assert [run["run_id"] for run in found["runs"]] == [run_id(n) for n in (4, 3, 2, 1)]
    assert [run["state"] for run in found["runs"]] == ["unfinished", *["whole"] * 3]
    assert [run["champion"] for run in found["runs"]] == [False, False, False, True]
    assert [run["rejected_later"] for run in found["runs"]] == [False, True, False, False]
    assert found["runs"][3]["accuracy"] == 0.9142
    assert found["runs"][3]["finished_at"] == "2026-03-01T09:30:00Z"
    assert (found["total"], found["next_before"]) == (4, None)


def test_a_damaged_run_is_listed_as_such(
    url: str, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """A run whose files cannot be trusted is shown as damaged, with the reason, beside the others."""
    store = open_store(url)
    for number in (1, 2, 3):
        store_run(store, run_id(number))
    overwrite(store, f"runs/{run_id(1)}/manifest.json", b"{}")
    overwrite(store, f"runs/{run_id(3)}/evaluation.json", b"{}")
    output = call("runs", "--store.url", url)
    assert output.code == 0
    assert output.lines[1].split() == [run_id(3), "damaged"]
    assert output.lines[2].split()[0] == run_id(2)
    assert output.lines[3].split() == [run_id(1), "damaged"]
    assert f"{run_id(3)}/evaluation.json is not the file that manifest.json lists" in output.text
    problems = [run["problem"] for run in machine("runs", "--store.url", url)["runs"]]
    assert "manifest.json cannot be read" in problems[2] and problems[1] == ""


def overwrite(store: Store, key: str, content: bytes) -> None:
    """Put other bytes into an object, as no publisher would."""
    store.delete(key)
    store.put_if_absent(key, content)


def test_runs_come_in_pages(store_run: Put, machine: Callable[..., dict[str, Any]]) -> None:
    """Each page says how to get the next, and together they are all runs once."""
    store = FolderStore("store")
    for number in range(1, 6):
        store_run(store, run_id(number))
    seen: list[str] = []
    before: list[str] = []
    for _ in range(3):
        found = machine("runs", "--limit", "2", *before)
        seen += [run["run_id"] for run in found["runs"]]
        before = ["--before", str(found["next_before"])]
    assert seen == [run_id(number) for number in (5, 4, 3, 2, 1)]
    assert found["next_before"] is None


def test_the_next_page_is_told(store_run: Put, call: Run_) -> None:
    """A person reads from the last line what to type for the next page."""
    for number in (1, 2, 3):
        store_run(FolderStore("store"), run_id(number))
    last = call("runs", "--limit", "2").last
    assert last == f"ok  2 of 3 runs in store  the next page: --before {run_id(2)}"
    assert call("runs", "--limit", "2", "--before", run_id(2)).last.endswith("the last page")


def test_a_page_of_ten_thousand_runs_reads_only_what_it_shows(
    store_run: Put, call: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many runs there are, a page costs one listing and three small reads a run."""
    template = MemoryStore()
    store_run(template, run_id(1), promote=True)
    store = MemoryStore()
    store.objects["champion.json"] = template.objects["champion.json"]
    for number in range(10_000):
        name = f"20260101T{number:06d}Z-0a1b2c3d"
        for key, content in template.objects.items():
            if key.startswith("runs/"):
                moved = key.replace(run_id(1), name)
                store.objects[moved] = content.replace(run_id(1).encode(), name.encode())
    asked: list[str] = []
    read, names = store.read, store.list_names
    monkeypatch.setattr(store, "read", lambda key: asked.append(key) or read(key))
    monkeypatch.setattr(store, "list_names", lambda prefix: asked.append(prefix) or names(prefix))
    monkeypatch.setattr("fmnist.cli.app.open_store", lambda *_, **__: store)
    output = call("runs")
    assert output.last.startswith("ok  20 of 10,000 runs")
    assert len([line for line in output.lines if "0.9142" in line]) == 20
    assert len(asked) <= 20 * 3 + 3


def test_show_tells_all_about_a_run(
    url: str, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """Figures, rules, changed settings, later verdicts and files, for people and for machines."""
    store = open_store(url)
    stored = store_run(store, run_id(1), gate=GateSettings(min_accuracy=0.85))
    later = Verdict(False, (), "worse than the champion", generation=4, notes=("a note",))
    record_verdict(store, stored, later)
    output = call("show", run_id(1), "--store.url", url)
    for part in (
        "0.9142 [0.9086, 0.9195], 10,000 images",
        "gate.min_accuracy 0.85",
        "promoted: test accuracy 0.9142",
        "every test image scored",
        "note: this test set has judged 1 model in this store",
        "judged again, against generation 4:",
        "rejected: worse than the champion",
        "note: a note",
        "model.keras",
    ):
        assert part in output.text
    where = store.location(f"runs/{run_id(1)}")
    assert output.last == f"ok  {run_id(1)}  rejected  {where}"
    found = machine("show", run_id(1), "--store.url", url)
    assert found["verdict"]["promoted"] is True
    assert [rule["name"] for rule in found["verdict"]["rules"]][1] == "test accuracy"
    assert found["later_verdicts"][0]["reason"] == "worse than the champion"
    assert found["settings_changed"] == {"gate.min_accuracy": 0.85}
    assert set(found["manifest"]["files"]) == set(stored.manifest.files)
    assert found["location"] == where and found["champion"] is False


def test_show_does_not_mix_the_environment_into_a_runs_settings(
    store_run: Put, machine: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that an old run did not know yet is at its default, whatever is set here and now."""
    store = FolderStore("store")
    stored = store_run(store, run_id(1))
    settings = json.loads(read_file(store, stored, SETTINGS))
    del settings["gate"]["champion"]
    reseal(store, run_id(1), {SETTINGS: json.dumps(settings).encode()})
    monkeypatch.setenv("FMNIST_GATE__CHAMPION", "better")
    assert machine("show", run_id(1))["settings_changed"] == {}


def reseal(store: Store, name: str, contents: dict[str, bytes]) -> None:
    """Replace files of a stored run and its manifest with them, as another version might have."""
    run = read_run(store, name)
    files = dict(run.manifest.files)
    for file, content in contents.items():
        overwrite(store, f"runs/{name}/{file}", content)
        files[file] = FileEntry(len(content), hashlib.sha256(content).hexdigest())
    manifest = replace(run.manifest, files=files)
    overwrite(store, f"runs/{name}/manifest.json", to_json(manifest))


def test_show_tells_the_comparison_that_was_made(
    store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """Where a run met a champion, its comparison is shown."""
    store = FolderStore("store")
    store_run(store, run_id(1))
    comparison = to_json(records.comparison())
    reseal(store, run_id(1), {COMPARISON: comparison})
    assert "McNemar's test" in call("show", run_id(1)).text
    assert machine("show", run_id(1))["comparison"] == json.loads(comparison)


@pytest.mark.parametrize(
    ("key", "content", "part"),
    [
        ("manifest.json", b"not json", "manifest.json cannot be read"),
        ("manifest.json", to_json(
            Manifest(2, run_id(9), records.moments(1)[0], {})), "of another run"),
        ("verdict.json", b"{}", "verdict.json is not the file that manifest.json lists"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_not_shown(
    key: str, content: bytes, part: str, url: str, store_run: Put, call: Run_
) -> None:
    """A damaged manifest or file ends with code 8 and a line that names it."""
    store = open_store(url)
    store_run(store, run_id(1))
    overwrite(store, f"runs/{run_id(1)}/{key}", content)
    output = call("show", run_id(1), "--store.url", url)
    assert output.code == ExitCode.DAMAGED
    assert output.last.startswith("failed  -  damaged: ") and part in output.last
    assert len(output.lines) == 1


@pytest.mark.minio
@pytest.mark.parametrize("name", ["runs", "champion", "history", "rollback", "verify"])
def test_a_bucket_that_is_not_there_is_named(name: str, bucket: str, call: Run_) -> None:
    """A missing bucket ends with code 5 and one line that names it."""
    output = call(name, "--store.url", f"s3://{bucket}-not/team")
    assert output.code == ExitCode.STORE
    assert output.lines == [output.last]
    assert f"bucket '{bucket}-not'" in output.last and "does not exist" in output.last


@pytest.mark.parametrize("name", ["champion", "history", "rollback", "pull"])
def test_a_store_without_a_champion_is_said_to_be(name: str, url: str, call: Run_) -> None:
    """Before the first promotion these end with code 5 and one line, and make nothing."""
    output = call(name, "--store.url", url)
    assert output.code == ExitCode.STORE
    assert output.lines == [output.last]
    assert "champion.json is not there" in output.last
    assert files_in(Path()) == set()


def test_the_champion_is_shown(
    url: str, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """Who it is, since when, by which move and why, and where a rollback leads."""
    store = open_store(url)
    store_run(store, run_id(1), promote=True)
    store_run(store, run_id(2), promote=True)
    output = call("champion", "--store.url", url)
    for part in (run_id(2), "0.9142 [0.9086, 0.9195]", "by promotion", "flows/train.py", run_id(1)):
        assert part in output.text
    where = store.location(f"runs/{run_id(2)}")
    assert output.last == f"ok  {run_id(2)}  test accuracy 0.9142  {where}"
    found = machine("champion", "--store.url", url)
    assert found["champion"]["generation"] == 2
    assert found["champion"]["rollback_to"] == run_id(1)
    assert found["location"] == where


def test_a_damaged_champion_is_told(store_run: Put, call: Run_) -> None:
    """A champion whose manifest was swapped ends with code 8 and the way back."""
    store = FolderStore("store")
    store_run(store, run_id(1), promote=True)
    reseal(store, run_id(1), {"report.md": b"other"})
    output = call("champion")
    assert output.code == ExitCode.DAMAGED
    assert "not the manifest that was promoted" in output.last


def test_history_tells_every_move(
    url: str, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """Each move with its time, kind, from, to, reason and program; the newest first."""
    store = open_store(url)
    for number in (1, 2):
        store_run(store, run_id(number), promote=True)
    assert call("rollback", "--reason", "odd  shirts", "--store.url", url).code == 0
    output = call("history", "--store.url", url)
    assert output.lines[0].split()[0] == "3"
    assert output.lines[0].endswith("UTC  rollback  by fmnist rollback")
    assert output.lines[1].strip() == f"{run_id(2)} -> {run_id(1)}"
    assert output.lines[2].strip() == "odd shirts"
    assert output.last == f"ok  3 of 3 moves  champion {run_id(1)}"
    assert f"none -> {run_id(1)}" in output.text
    found = machine("history", "--limit", "2", "--store.url", url)
    assert [move["generation"] for move in found["moves"]] == [3, 2]
    assert found["total"] == 3


# ---- compare ------------------------------------------------------------------------------------


def put_networks(store: Store, put: Put, world: World) -> None:
    """The good network as the champion, then the poor one and the better one."""
    for number, network in ((1, world.good), (2, world.poor), (3, world.better)):
        put(
            store, run_id(number), promote=number == 1, model=network.content,
            evaluation=network.evaluation, origin=world.origin,
        )  # fmt: skip


def test_two_runs_are_compared_on_the_same_images(
    url: str, world: World, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """Accuracies, difference, test and classes; a machine gets every image that changed sides."""
    store = open_store(url)
    put_networks(store, store_run, world)
    words = ("compare", run_id(1), run_id(2), "--store.url", url, "--data.source", str(world.data))
    output = call(*words)
    before, after = world.good.evaluation, world.poor.evaluation
    assert f"first {before.accuracy:.4f}, second {after.accuracy:.4f}" in output.text
    assert "McNemar's test" in output.text and "Ankle boot" in output.text
    lost = before.correct - after.correct
    assert output.last.startswith(f"ok  {-100 * lost / IMAGES:+.2f} points [")
    found = machine(*words)["comparison"]
    assert found["gained"] - found["lost"] == -lost
    assert len(found["changed"]) == found["gained"] + found["lost"]
    assert [scores["name"] for scores in found["classes"]] == list(NAMES)
    assert output.last.endswith(f"{len(found['changed'])} of {IMAGES} images changed sides")


def test_a_comparison_on_other_images_says_so(
    world: World, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """Where a run was judged on other data than those given, the comparison has a warning."""
    put_networks(FolderStore("store"), store_run, world)
    words = ("compare", run_id(1), run_id(3), "--data.source", str(world.other_data))
    assert f"{run_id(1)} was judged on other test data" in call(*words).text
    assert machine(*words)["judged_on_these_images"] == [False, False]


def test_a_model_that_is_none_is_not_compared(world: World, store_run: Put, call: Run_) -> None:
    """A model file that holds no network ends with code 8."""
    store = FolderStore("store")
    put_networks(store, store_run, world)
    store_run(store, run_id(4), origin=world.origin)
    output = call("compare", run_id(1), run_id(4), "--data.source", str(world.data))
    assert output.code == ExitCode.DAMAGED
    assert "holds no network" in output.last


# ---- promote and rollback -----------------------------------------------------------------------


def data_of(world: World) -> tuple[str, str]:
    """The option that names the data."""
    return ("--data.source", str(world.data))


def test_a_stored_run_is_promoted_by_the_gate(
    url: str, world: World, store_run: Put, call: Run_
) -> None:
    """A run that passes becomes the champion, by this command, with the comparison shown."""
    store = open_store(url)
    put_networks(store, store_run, world)
    output = call("promote", run_id(3), "--store.url", url, *data_of(world))
    assert output.code == ExitCode.OK
    assert output.last.startswith(f"promoted  {run_id(3)}  generation 2  test accuracy ")
    assert f"against the champion {run_id(1)}:" in output.text
    head = current_champion(store)
    assert head is not None
    assert (head.run_id, head.move, head.by) == (run_id(3), "promotion", "fmnist promote")
    assert head.accuracy == world.better.evaluation.accuracy


def test_a_run_that_does_not_pass_is_rejected_and_recorded(
    url: str, world: World, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """A rejection has code 3, is kept beside the run, and leaves the champion."""
    store = open_store(url)
    put_networks(store, store_run, world)
    words = ("promote", run_id(2), "--store.url", url, *data_of(world))
    output = call(*words)
    assert output.code == ExitCode.REJECTED
    assert output.last.startswith(f"rejected  {run_id(2)}  test accuracy ")
    assert "FAIL" in output.text
    (kept,) = later_verdicts(store, run_id(2))
    assert not kept.promoted and kept.generation == 1
    found = machine(*words)
    assert (found["ok"], found["kind"], found["exit_code"]) == (False, "rejected", 3)
    assert found["message"] == kept.reason
    assert current_champion(store).run_id == run_id(1)  # type: ignore[union-attr]


def test_the_gate_is_the_one_the_run_was_made_for(
    world: World, store_run: Put, call: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded gate counts, then the command line's; never that of the environment here."""
    store = FolderStore("store")
    put_networks(store, store_run, world)
    strict = GateSettings(champion="better")
    store_run(
        store, run_id(4), model=world.better.content, evaluation=world.better.evaluation,
        origin=world.origin, gate=strict,
    )  # fmt: skip
    monkeypatch.setenv("FMNIST_GATE__CHAMPION", "off")
    monkeypatch.setenv("FMNIST_GATE__MIN_ACCURACY", "0")
    assert call("promote", run_id(2), *data_of(world)).code == ExitCode.REJECTED
    rejected = call("promote", run_id(4), *data_of(world))
    assert rejected.code == ExitCode.REJECTED and "significantly better" in rejected.last
    passed = call("promote", run_id(4), *data_of(world), "--gate.champion", "off")
    assert passed.code == ExitCode.OK


def test_force_promotes_with_its_reason(
    world: World, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """A forced promotion is one whatever the verdict, and the history keeps both."""
    store = FolderStore("store")
    put_networks(store, store_run, world)
    forced = ("--force", "--reason", "the others are gone")
    output = call("promote", run_id(2), *forced, *data_of(world))
    assert output.code == ExitCode.OK
    assert output.last == f"promoted  {run_id(2)}  generation 2  forced: the others are gone"
    move = machine("history", "--limit", "1")["moves"][0]
    assert move["move"] == "forced promotion"
    assert move["reason"].startswith("the others are gone (verdict: test accuracy")


def test_the_champion_is_not_promoted_again(
    world: World, store_run: Put, machine: Callable[..., dict[str, Any]]
) -> None:
    """Promoting the champion changes nothing, asks for no data and is no failure."""
    store = FolderStore("store")
    put_networks(store, store_run, world)
    found = machine("promote", run_id(1), "--data.source", "nowhere")
    assert found["champion"]["generation"] == 1
    assert files_in(Path("store/history")) == set()


def test_a_run_of_other_data_is_refused(world: World, store_run: Put, call: Run_) -> None:
    """A run that was made with other data is promoted only by force; code 4 and nothing changed."""
    store = FolderStore("store")
    put_networks(store, store_run, world)
    before = files_in(Path("store"))
    output = call("promote", run_id(3), "--data.source", str(world.other_data))
    assert output.code == ExitCode.DATA
    assert str(world.other_data) in output.last and str(world.data) in output.last
    assert files_in(Path("store")) == before
    forced = ("--force", "--reason", "moved to new data")
    output = call("promote", run_id(3), "--data.source", str(world.other_data), *forced)
    assert output.code == ExitCode.OK


@pytest.mark.parametrize("file", ["model.keras", "report.md", "settings.json"])
def test_a_damaged_run_is_never_promoted(
    file: str, world: World, store_run: Put, call: Run_
) -> None:
    """Whichever file is not what its manifest lists, force or not: code 8, nothing changed."""
    store = FolderStore("store")
    put_networks(store, store_run, world)
    overwrite(store, f"runs/{run_id(3)}/{file}", world.poor.content)
    forced = ("--force", "--reason", "why not")
    for words in ((), forced):
        output = call("promote", run_id(3), *words, *data_of(world))
        assert output.code == ExitCode.DAMAGED
        assert f"{run_id(3)}/{file} is not the file" in output.last
    assert current_champion(store).run_id == run_id(1)  # type: ignore[union-attr]


def test_a_run_that_is_removed_meanwhile_is_not_promoted(
    world: World, store_run: Put, call: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune while the model is being scored wins: the promotion is refused."""
    store = FolderStore("store")
    put_networks(store, store_run, world)
    scorer = make_test_set

    def retire_first(*arguments: Any) -> Any:
        retire(store, [run_id(3)], by="test")
        return scorer(*arguments)

    monkeypatch.setattr("fmnist.promotion.stored.make_test_set", retire_first)
    output = call("promote", run_id(3), *data_of(world))
    assert output.code == ExitCode.STORE
    assert "was taken out" in output.last
    assert current_champion(store).run_id == run_id(1)  # type: ignore[union-attr]


def test_a_promotion_decides_again_when_the_champion_moved(
    world: World, store_run: Put, call: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A champion that came while the model was scored is met too, and named in the verdict."""
    store = FolderStore("store")
    put_networks(store, store_run, world)
    store_run(
        store, run_id(4), model=world.poor.content, evaluation=world.poor.evaluation,
        origin=world.origin, gate=GateSettings(min_accuracy=0, champion="not_worse"),
    )  # fmt: skip
    assert call("promote", run_id(2), "--force", "--reason", "x", *data_of(world)).code == 0
    real, moved = promote_run, []

    def overtaken(*arguments: Any, **options: Any) -> Any:
        if not moved:
            moved.append(roll_back(store, None, reason="", by="another"))
        return real(*arguments, **options)

    monkeypatch.setattr("fmnist.promotion.judge.promote_run", overtaken)
    output = call("promote", run_id(4), *data_of(world))
    assert output.code == ExitCode.REJECTED
    assert f"against the champion {run_id(1)}:" in output.text
    (kept,) = later_verdicts(store, run_id(4))
    assert kept.generation == 3


def test_promoting_in_a_store_that_is_not_there_makes_none(call: Run_) -> None:
    """A mistyped store is told, and no folder of that name is made."""
    output = call("promote", run_id(1), "--store.url", "typo")
    assert output.code == ExitCode.STORE
    assert not Path("typo").exists()


def test_rollback_goes_back_step_by_step(
    url: str, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """To the champion before, then to the one before that, then there is none; or to a named one."""
    store = open_store(url)
    for number in (1, 2, 3):
        store_run(store, run_id(number), promote=True)
    store_run(store, run_id(4))
    output = call("rollback", "--store.url", url)
    where = store.location(f"runs/{run_id(2)}")
    assert output.last == f"ok  {run_id(2)}  generation 4  before {run_id(3)}  {where}"
    found = machine("rollback", "--reason", "again", "--store.url", url)
    assert found["champion"]["run_id"] == run_id(1) and found["champion"]["reason"] == "again"
    assert "no champion before" in call("rollback", "--store.url", url).last
    assert call("rollback", run_id(3), "--store.url", url).code == 0
    never = call("rollback", run_id(4), "--store.url", url)
    assert never.code == ExitCode.STORE and "history has no champion" in never.last


def test_rollback_to_a_damaged_run_is_refused(store_run: Put, call: Run_) -> None:
    """Every file of the champion to go back to is checked first."""
    store = FolderStore("store")
    for number in (1, 2):
        store_run(store, run_id(number), promote=True)
    overwrite(store, f"runs/{run_id(1)}/model.keras", b"other")
    assert call("rollback").code == ExitCode.DAMAGED
    assert current_champion(store).run_id == run_id(2)  # type: ignore[union-attr]


# ---- publish ------------------------------------------------------------------------------------


def kept(world: World, number: int, network: Network, **how: Any) -> Path:
    """A run as a job keeps it that could not publish it."""
    folder = finished_folder(Path("work").resolve() / run_id(number))
    sealed(
        folder, run_id(number), model=network.content, evaluation=network.evaluation,
        origin=world.origin, **how,
    )  # fmt: skip
    return folder


WORK = ("--store.work", "work")


def test_a_kept_run_is_published_and_promoted(
    url: str, world: World, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """The run is stored whole and promoted, and the folder that the job kept is removed."""
    folder = kept(world, 1, world.good)
    names = files_in(folder)
    output = call("publish", str(folder), "--store.url", url, *WORK, *data_of(world))
    assert output.code == ExitCode.OK
    assert output.last.startswith(f"promoted  {run_id(1)}  generation 1  test accuracy")
    store = open_store(url)
    head, files = read_champion(store)
    assert (head.run_id, head.by) == (run_id(1), "fmnist publish")
    assert set(files) == names
    assert files_in(Path("work")) == set()
    found = machine(
        "publish", str(kept(world, 2, world.better)), "--store.url", url, *WORK, *data_of(world)
    )
    assert found["folder_removed"] is True and found["champion"]["previous"] == run_id(1)


def test_a_real_finished_run_is_published(world: World, call: Run_) -> None:
    """What the job itself puts together goes through, its figures too."""
    folder = finished_folder(Path("work").resolve() / run_id(1))
    folder.mkdir(parents=True)
    (folder / "model.keras").write_bytes(world.good.content)
    made = records.run(run_id=run_id(1))
    verdict = decide(world.good.evaluation, GateSettings(), GateContext(IMAGES))
    made = replace(made, evaluation=world.good.evaluation, verdict=verdict, data=world.origin)
    write_run(made, images(0), folder)
    assert call("publish", str(folder), *WORK, *data_of(world)).code == ExitCode.OK
    assert files_in(Path("store/runs") / run_id(1)) == records.FILES | {"manifest.json"}
    assert call("verify").last.startswith("ok  1 run, ")


def test_a_kept_run_that_was_rejected_is_stored_as_such(
    world: World, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """A run that its own verdict rejected is stored, code 3, and nothing is promoted."""
    output = call("publish", str(kept(world, 1, world.poor)), *WORK)
    assert output.code == ExitCode.REJECTED
    assert output.last.startswith(f"rejected  {run_id(1)}  test accuracy")
    store = FolderStore("store")
    assert find_run(store, run_id(1)) and current_champion(store) is None
    assert files_in(Path("work")) == set()
    assert machine("publish", str(kept(world, 2, world.poor)), *WORK)["kind"] == "rejected"


@pytest.mark.parametrize("network", ["good", "poor"])
def test_a_kept_run_without_a_verdict_is_judged_now(network: str, world: World, call: Run_) -> None:
    """Where the store could not be asked when the run was trained, the gate decides now."""
    folder = kept(world, 1, getattr(world, network), undecided=True)
    output = call("publish", str(folder), *WORK, *data_of(world))
    assert output.code == (ExitCode.OK if network == "good" else ExitCode.REJECTED)


def test_a_folder_of_somebodys_own_is_left(world: World, call: Run_) -> None:
    """A folder outside the work folder stays as it is, and the last line says so."""
    folder = kept(world, 1, world.good)
    before = files_in(folder)
    output = call("publish", str(folder), "--store.work", "elsewhere", *data_of(world))
    assert output.code == ExitCode.OK
    assert output.last.endswith(f"  {folder} is left as it is")
    assert files_in(folder) == before


def test_publishing_again_does_not_bring_an_old_champion_back(world: World, call: Run_) -> None:
    """A run that was promoted and replaced since is not promoted by publishing it once more."""
    folder = kept(world, 1, world.good)
    words = ("--store.work", "elsewhere", *data_of(world))
    assert call("publish", str(folder), *words).code == 0
    assert call("publish", str(kept(world, 2, world.better)), *words).code == 0
    output = call("publish", str(folder), *words)
    assert output.code == 0 and "was promoted already" in output.last
    assert current_champion(FolderStore("store")).run_id == run_id(2)  # type: ignore[union-attr]


def test_a_promotion_that_fails_keeps_the_folder(world: World, call: Run_) -> None:
    """Nothing is removed before the whole publication has succeeded."""
    folder = kept(world, 1, world.good)
    before = files_in(folder)
    output = call("publish", str(folder), *WORK, "--data.source", str(world.other_data))
    assert output.code == ExitCode.DATA
    assert files_in(folder) == before


def test_a_folder_that_is_no_run_is_not_published(tmp_path: Path, world: World, call: Run_) -> None:
    """No manifest is code 2, a damaged file code 8; nothing is stored either time."""
    (tmp_path / "some").mkdir()
    for place in (tmp_path / "some", tmp_path / "nowhere"):
        output = call("publish", str(place), *WORK)
        assert output.code == ExitCode.SETTINGS
        assert f"{place} is no finished run" in output.last
    folder = kept(world, 1, world.good)
    (folder / "model.keras").write_bytes(b"other")
    output = call("publish", str(folder), *WORK)
    assert output.code == ExitCode.DAMAGED and "nothing is published" in output.last
    (folder / "manifest.json").write_bytes(b"{}")
    assert call("publish", str(folder), *WORK).code == ExitCode.DAMAGED
    assert not [name for name in files_in(Path("store")) if not name.startswith(".")]


# ---- verify, prune, pull, doctor ----------------------------------------------------------------


def test_a_good_store_is_verified(
    url: str, world: World, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """A store where all is well ends with code 0, and says how much was read."""
    put_networks(open_store(url), store_run, world)
    output = call("verify", "--store.url", url)
    assert output.code == 0
    assert output.lines[-1].startswith("ok  3 runs, ")
    assert output.last.endswith("  0 leftovers, 0 of them safe to delete")
    found = machine("verify", "--store.url", url)
    assert [run["problems"] for run in found["runs"]] == [[], [], []]
    assert machine("verify", run_id(2), "--store.url", url)["runs"][0]["run_id"] == run_id(2)


def test_damage_is_found_and_named(
    url: str, world: World, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """A changed file and a model that is none end with code 8, each with a line."""
    store = open_store(url)
    put_networks(store, store_run, world)
    store_run(store, run_id(4))
    overwrite(store, f"runs/{run_id(2)}/report.md", b"other")
    output = call("verify", "--store.url", url)
    assert output.code == ExitCode.DAMAGED
    assert output.last.startswith("failed  -  damaged: 2 faults, listed above  4 runs, ")
    assert any("report.md is not the file" in line for line in output.lines)
    assert any(
        f"{run_id(4)}/model.keras: " in line and "no network" in line for line in output.lines
    )
    found = machine("verify", "--store.url", url)
    assert found["kind"] == "damaged"
    assert [len(run["problems"]) for run in found["runs"]] == [0, 1, 0, 1]
    assert call("verify", run_id(1), "--store.url", url).code == 0
    assert call("verify", run_id(2), "--store.url", url).code == ExitCode.DAMAGED
    assert call("verify", run_id(9), "--store.url", url).code == ExitCode.STORE


def test_leftovers_are_no_damage(url: str, world: World, store_run: Put, call: Run_) -> None:
    """What no manifest lists is told with its place, and ends with code 0."""
    store = open_store(url)
    put_networks(store, store_run, world)
    store.put_if_absent(f"runs/{run_id(8)}/model.keras", b"model")
    store.put_if_absent(f"runs/{run_id(1)}/notes.txt", b"notes")
    output = call("verify", "--store.url", url)
    assert output.code == 0
    assert output.last.endswith("  2 leftovers, 0 of them safe to delete")
    (orphan,) = [line for line in output.lines if run_id(8) in line]
    assert "has no manifest.json" in orphan and orphan.endswith("may be in use")
    assert any(
        "notes.txt is not listed in the run's manifest.json" in line for line in output.lines
    )


def test_prune_first_only_says_what_it_would_remove(
    url: str, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """Without --delete nothing changes; with it exactly what was told is gone."""
    store = open_store(url)
    for number in range(1, 7):
        # One that was not rejected may be on its way to be the champion.
        gate = GateSettings(min_accuracy=0.9 if number == 2 else 0.99)
        store_run(store, run_id(number), promote=number == 2, gate=gate)
    before = dict(store.list_entries("runs/"))
    output = call("prune", "--keep", "2", "--store.url", url)
    assert output.code == 0
    assert output.lines[:3] == [f"run       {run_id(number)}" for number in (1, 3, 4)]
    assert output.last.startswith("ok  3 runs, 0 leftovers (0.0 MB) would be removed; --delete")
    assert dict(store.list_entries("runs/")) == before
    found = machine("prune", "--keep", "2", "--delete", "--store.url", url)
    assert (found["runs"], found["deleted"]) == ([run_id(1), run_id(3), run_id(4)], True)
    assert list_run_ids(store) == [run_id(6), run_id(5), run_id(2)]
    assert call("prune", "--keep", "2", "--delete", "--store.url", url).last.startswith(
        "ok  0 runs"
    )


@pytest.mark.parametrize("arguments", [["pull"], ["publish"]])
def test_a_folder_in_the_home_of_nobody_is_told(
    arguments: list[str], store_run: Put, call: Run_
) -> None:
    """A wrong name after a tilde is a wrong argument."""
    store_run(FolderStore("store"), run_id(1), promote=True)
    output = call(*arguments, "~nobody-of-this-name/x")
    assert output.code == ExitCode.SETTINGS
    assert "home of an unknown user" in output.last


def test_a_run_removed_while_it_is_listed_is_no_damage(
    store_run: Put, call: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest was there, and then its files were not."""
    store = FolderStore("store")
    for number in (1, 2):
        store_run(store, run_id(number), promote=number == 2)
    real = read_record

    def late(store: Store, run: StoredRun, *what: Any) -> Any:
        if run.run_id == run_id(1):
            for key in store.list_entries(f"runs/{run_id(1)}/"):
                store.delete(key)
        return real(store, run, *what)

    monkeypatch.setattr("fmnist.cli.inspect.read_record", late)
    output = call("runs")
    assert output.code == 0 and "damaged" not in output.text and "unfinished" in output.text


def test_a_forced_promotion_whose_answer_was_lost_is_told_as_made(
    world: World, store_run: Put, call: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another run is the champion by now, it was promoted, in the generation that is told."""
    store = FolderStore("store")
    put_networks(store, store_run, world)
    swap = FolderStore.compare_and_swap

    def lose_the_answer(self: FolderStore, key: str, version: str | None, content: bytes) -> None:
        swap(self, key, version, content)
        if key == CHAMPION:
            monkeypatch.setattr(FolderStore, "compare_and_swap", swap)
            roll_back(store, run_id(1), reason="", by="another")
            raise Conflict("the retried request was refused")

    monkeypatch.setattr(FolderStore, "compare_and_swap", lose_the_answer)
    output = call("promote", run_id(2), "--force", "--reason", "I want it", *data_of(world))
    assert output.code == 0
    assert output.last.startswith(f"promoted  {run_id(2)}  generation 2  forced: I want it")
    champion = current_champion(store)
    assert champion and (champion.run_id, champion.generation) == (run_id(1), 3)


def test_nothing_is_pruned_before_the_first_promotion(url: str, store_run: Put, call: Run_) -> None:
    """Without a champion nobody knows yet which run will be one."""
    store = open_store(url)
    for number in (1, 2, 3):
        store_run(store, run_id(number))
    output = call("prune", "--keep", "1", "--delete", "--store.url", url)
    assert output.code == 0 and "there is no champion yet" in output.last
    assert len(list_run_ids(store)) == 3


def test_the_champion_is_pulled_whole(
    url: str, store_run: Put, call: Run_, machine: Callable[..., dict[str, Any]]
) -> None:
    """All its files come into a new folder; once more changes nothing and is no failure."""
    stored = store_run(open_store(url), run_id(1), promote=True)
    output = call("pull", "--store.url", url)
    assert output.last == f"ok  {run_id(1)}  7 files  champion"
    assert files_in(Path("champion")) == {*stored.manifest.files, "manifest.json"}
    assert call("pull", "--store.url", url).last.endswith("was there already, whole  champion")
    found = machine("pull", "deep/down", "--store.url", url)
    assert (found["new"], found["folder"]) == (True, "deep/down")
    assert files_in(Path("deep/down")) == files_in(Path("champion"))


def test_pull_overwrites_nothing(store_run: Put, call: Run_) -> None:
    """Another run, somebody's files or a damaged copy in the folder's place are left: code 2."""
    store = FolderStore("store")
    store_run(store, run_id(1), promote=True)
    assert call("pull").code == 0
    store_run(store, run_id(2), promote=True)
    before = files_in(Path("champion"))
    output = call("pull")
    assert output.code == ExitCode.SETTINGS
    assert "champion is there already" in output.last and run_id(2) in output.last
    assert files_in(Path("champion")) == before
    Path("file").write_text("mine")
    assert call("pull", "file").code == ExitCode.SETTINGS
    assert call("pull", "fresh").code == 0
    Path("fresh/model.keras").write_bytes(b"other")
    assert call("pull", "fresh").code == ExitCode.SETTINGS


def test_a_damaged_champion_is_not_pulled(store_run: Put, call: Run_) -> None:
    """Where a file is not the champion's own, no folder comes into being."""
    store = FolderStore("store")
    store_run(store, run_id(1), promote=True)
    overwrite(store, f"runs/{run_id(1)}/model.keras", b"other")
    output = call("pull")
    assert output.code == ExitCode.DAMAGED and "model.keras" in output.last
    assert {path.name for path in Path().iterdir()} <= {"store", "sealed"}


def test_doctor_prints_a_line_for_each_finding(
    call: Run_, machine: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finding is a line, good or bad; the first bad one gives the code."""
    good = Finding("settings", True, "all valid", ExitCode.OK)
    bad = Finding("data", False, "not there; set data.source", ExitCode.DATA)
    worse = Finding("store", False, "full", ExitCode.STORE)
    monkeypatch.setattr("fmnist.cli.doctor.examine", lambda _: iter([good, bad, worse]))
    output = call("doctor")
    assert output.lines == [
        "good  settings: all valid",
        "BAD   data: not there; set data.source",
        "BAD   store: full",
        "failed  -  data: 2 of 3 things are bad: data, store",
    ]
    assert output.code == ExitCode.DATA
    found = machine("doctor")
    assert (found["kind"], len(found["findings"])) == ("data", 3)
    monkeypatch.setattr("fmnist.cli.doctor.examine", lambda _: iter([good]))
    assert call("doctor").last == "ok  1 things looked at, all good"


# ---- the champion in one line -------------------------------------------------------------------


def test_the_champion_is_loaded_in_one_line(url: str, world: World, store_run: Put) -> None:
    """`fmnist.load_champion` gives the champion's own network."""
    import fmnist

    put_networks(open_store(url), store_run, world)
    predicted = fmnist.load_champion(url).predict(images(0), verbose=0).argmax(axis=1)
    assert (predicted == LABELS).mean() == world.good.evaluation.accuracy


@pytest.mark.parametrize(
    ("place", "error", "part"),
    [
        ("nowhere", "StoreError", "no run was promoted yet"),
        ("s3://KEY:TOPSECRET@bucket", "SettingsError", "must not contain credentials"),
        ("http://host", "SettingsError", "must be a folder or s3://bucket/prefix"),
        ("", "SettingsError", "must not be empty"),
    ],
)
def test_a_champion_that_is_not_there_is_an_error(place: str, error: str, part: str) -> None:
    """A store without champion, or what is no store, is told in one line without secrets."""
    import fmnist

    with pytest.raises(Exception) as caught:
        fmnist.load_champion(place)
    assert type(caught.value).__name__ == error
    assert part in str(caught.value)
    assert "TOPSECRET" not in str(caught.value)


def test_a_swapped_model_is_never_loaded(world: World, store_run: Put) -> None:
    """A model file that is not the champion's own is an error that names it."""
    import fmnist
    from fmnist.errors import DamagedError

    store = FolderStore("store")
    put_networks(store, store_run, world)
    overwrite(store, f"runs/{run_id(1)}/model.keras", world.poor.content)
    with pytest.raises(DamagedError, match=f"{run_id(1)}/model.keras is not the file"):
        fmnist.load_champion("store")
