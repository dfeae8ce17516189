"""The whole job through its real command, on real data, a real Prefect server and a real MinIO."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import keras
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed
from prefect.testing.utilities import prefect_test_harness

from fmnist.cli.train import main
from fmnist.configure import Setting, all_settings
from fmnist.data.cache import sha256_of
from fmnist.data.idx import read_labelled_images
from fmnist.orchestration.job import complete_settings
from fmnist.registry.champion import champion_history, current_champion
from fmnist.registry.records import Manifest, from_json
from fmnist.store.base import open_store
from fmnist.store.folder import FolderStore
from tests.support.processes import (
    ROOT,
    S3Server,
    files_in,
    free_port,
    kept_run,
    new_bucket,
    run_program,
)
from tests.support.records import ANY_RUN_ID, COMPARISON_FILES, FILES
from tests.support.tiny_s3 import tiny_s3

COMMAND = [sys.executable, str(ROOT / "flows" / "train.py")]
SHORT = ["--training.epochs", "4", "--training.warmup_fraction", "0", "--model.hidden", "32"]
SHORT += ["--model.dropout", "0.1"]
LOW_BAR = ["--gate.min_accuracy", "0.2"]
NOBODY = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Finished:
    """A command that ended.

    Attributes:
        code: its exit code.
        out: its standard output.
        err: its standard error.
        work: the folder in which it assembled its run.
    """

    code: int
    out: str
    err: str
    work: Path

    @property
    def summary(self) -> str:
        return self.out.splitlines()[-1]

    @property
    def run_id(self) -> str:
        found = re.search(ANY_RUN_ID, self.summary)
        assert found, self.summary
        return found[0]


def environment(work: Path, **extra: str) -> dict[str, str]:
    """A clean environment, as in a user's shell, with its own Prefect home."""
    kept = {
        n: v for n, v in os.environ.items() if not n.startswith(("FMNIST_", "AWS_", "PREFECT_"))
    }
    own = {
        "PREFECT_HOME": str(work / "prefect"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "FMNIST_STORE__WORK": str(work / "work"),
        "FMNIST_DATA__CACHE": str(work / "cache"),
        "FMNIST_DATA__RETRY_PAUSES": "",
        "FMNIST_STORE__RETRY_PAUSES": "",
    }
    return kept | own | extra


def command(folder: Path, *arguments: str, **extra: str) -> Finished:
    """Run the job's command to its end, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(folder, **extra),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr, folder / "work")


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[str]:
    """The address of a real Prefect server with its own database."""
    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())


def flow_run_of(run_id: str) -> FlowRun:
    """The flow run whose name begins with this run id."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(name={"like_": run_id}))
    assert len(found) == 1, f"{len(found)} flow runs are named after {run_id}"
    return found[0]


def artifacts_of(run: FlowRun) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        )
    return {artifact.key: artifact for artifact in found if artifact.key}


@pytest.fixture(scope="module")
def ended(
    prefect_server: str,
    data_source: str,
    small_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Finished]]:
    """Waits for one of the commands that need no other; two at a time run while the tests go on."""
    real = {"FMNIST_DATA__SOURCE": data_source}
    small = {"FMNIST_DATA__SOURCE": str(small_data), "PREFECT_API_URL": prefect_server}
    folder = tmp_path_factory.mktemp("commands")
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(b"\x1f\x8b")
    # A file in place of the folder of runs passes the check of the store, and fails publication.
    (folder / "full" / "store").mkdir(parents=True)
    (folder / "full" / "store" / "runs").write_text("")
    diverging = ["--training.learning_rate", "1", "--training.weight_decay", "10"]
    # On few images it takes many steps.
    diverging += ["--training.batch_size", "50"]
    mirrors = f"http://127.0.0.1:{free_port()},http://127.0.0.1:{free_port()}"
    nowhere = {"FMNIST_DATA__SOURCE": "mirrors", "FMNIST_DATA__MIRRORS": mirrors}
    bad = {"FMNIST_DATA__SOURCE": str(folder)}
    wrong = {"FMNIST_SPLIT__SED": "1", "FMNIST_STORE__URL": "s3://me:hush-hush@models/x"}
    commands: dict[str, tuple[list[str], dict[str, str]]] = {
        # With nothing set up, and the default network.
        "ad-hoc": ([*SHORT[:4], *LOW_BAR], real),
        "full": (SHORT, small),
        "loss": ([*diverging, *SHORT], small),
        "no-data": ([], small | nowhere | {"KERAS_HOME": str(folder)}),
        "bad-data": ([], small | bad),
        "no-server": ([], {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}),
        "settings": (["--training.epochs", "many", "--gate.min_accuracy", "90"], wrong),
    }
    with ThreadPoolExecutor(2) as pool:
        started = {
            name: pool.submit(command, folder / name, *arguments, **extra)
            for name, (arguments, extra) in commands.items()
        }
        yield lambda name: started[name].result()


Ended = Callable[[str], Finished]


@pytest.fixture(scope="module")
def ad_hoc(ended: Ended) -> Finished:
    """A run without server and bucket, promoted by a low bar."""
    return ended("ad-hoc")


def test_an_ad_hoc_run_needs_no_server_and_no_bucket(ad_hoc: Finished) -> None:
    """It ends with exit code 0 and, last on standard output, a line that sums it up."""
    assert ad_hoc.code == 0, ad_hoc.err
    assert re.fullmatch(
        rf"promoted  {ANY_RUN_ID}  test accuracy 0\.\d{{4}} \[0\.\d{{4}}, 0\.\d{{4}}\], needs 0\.2000"
        rf"  \d+ s  store/runs/{ANY_RUN_ID}/report\.md",
        ad_hoc.summary,
    )


def test_an_ad_hoc_run_shows_its_progress_and_no_traceback(ad_hoc: Finished) -> None:
    """Without a terminal, plain lines show how far it is, and nothing looks like a failure."""
    assert "training: epoch 4/4" in ad_hoc.err
    for noise in ("Traceback", "ERROR", "WARNING", "database is locked", "oneDNN"):
        assert noise not in ad_hoc.err


def test_the_run_is_stored_completely_and_is_the_champion(ad_hoc: Finished) -> None:
    """Every file has its size and digest of the manifest; nothing is left in the work folder."""
    store = FolderStore(str(ad_hoc.work.parent / "store"))
    run = ad_hoc.work.parent / "store" / "runs" / ad_hoc.run_id
    manifest = from_json(Manifest, (run / "manifest.json").read_bytes(), "manifest")
    assert set(manifest.files) == FILES
    for name, entry in manifest.files.items():
        assert (run / name).stat().st_size == entry.size
        assert sha256_of(run / name) == entry.sha256
    champion = current_champion(store)
    assert champion and champion.run_id == ad_hoc.run_id
    assert champion.manifest_sha256 == sha256_of(run / "manifest.json")
    assert list(ad_hoc.work.iterdir()) == []


def test_the_stored_model_is_the_one_that_was_scored(ad_hoc: Finished, real_data: Any) -> None:
    """Loaded from the store by plain Keras, it has exactly the reported number of images right."""
    run = ad_hoc.work.parent / "store" / "runs" / ad_hoc.run_id
    network = keras.models.load_model(run / "model.keras", safe_mode=True)
    test = read_labelled_images(real_data.test_images, real_data.test_labels, 10)
    predicted = network.predict(test.images, batch_size=5000, verbose=0).argmax(axis=1)
    reported = json.loads((run / "evaluation.json").read_text())
    assert int((predicted == test.labels).sum()) == reported["correct"]


@dataclass(frozen=True)
class Pair:
    """A promoted run and, after it, a rejected one, on one store."""

    promoted: Finished
    rejected: Finished
    url: str


@pytest.fixture(scope="module")
def pair(
    prefect_server: str,
    minio_server: S3Server,
    data_source: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    """Both runs through the command, with settings from options, environment and `.env`."""
    bucket = new_bucket(minio_server)
    url = f"s3://{bucket}/fashion/mnist"
    extra = {
        **minio_server.environment(),
        "PREFECT_API_URL": prefect_server,
        "FMNIST_DATA__SOURCE": data_source,
        "FMNIST_STORE__URL": url,
    }
    folder = tmp_path_factory.mktemp("pair")
    (folder / ".env").write_text("FMNIST_TRAINING__SEED=5\n")
    promoted = command(folder, *SHORT, *LOW_BAR, **extra)
    rejected = command(folder, *SHORT, "--gate.min_accuracy", "0.99", **extra)
    return Pair(promoted, rejected, url)


def test_the_exit_code_tells_promoted_from_rejected(pair: Pair) -> None:
    """It is 0 for a promoted run, and 3 for one that was trained and stored but rejected."""
    assert (pair.promoted.code, pair.rejected.code) == (0, 3), pair.rejected.err
    assert pair.rejected.summary.startswith(f"rejected  {pair.rejected.run_id}  test accuracy")
    assert pair.rejected.summary.endswith(f"{pair.url}/runs/{pair.rejected.run_id}/report.md")


@pytest.mark.usefixtures("minio")
def test_both_runs_are_stored_and_only_the_promoted_one_is_champion(pair: Pair) -> None:
    store = open_store(pair.url)
    for run, files in ((pair.promoted, FILES), (pair.rejected, FILES | COMPARISON_FILES)):
        content = store.read(f"runs/{run.run_id}/manifest.json")
        assert content
        assert set(json.loads(content)["files"]) == files
    champion = current_champion(store)
    assert champion and champion.run_id == pair.promoted.run_id
    verdict = json.loads(store.read(f"runs/{pair.rejected.run_id}/verdict.json") or b"")
    assert verdict["promoted"] is False


@pytest.mark.usefixtures("minio")
def test_the_settings_of_a_run_are_recorded_with_all_their_sources(pair: Pair) -> None:
    content = open_store(pair.url).read(f"runs/{pair.promoted.run_id}/settings.json")
    settings = json.loads(content or b"")
    assert settings["training"]["epochs"] == 4
    assert settings["training"]["seed"] == 5
    assert settings["store"]["url"] == pair.url


def test_each_judged_run_is_completed_and_labelled_with_its_verdict(pair: Pair) -> None:
    """Its message says why; its name and its tags say the verdict and what kind of data it was."""
    for run, verdict in ((pair.promoted, "promoted"), (pair.rejected, "rejected")):
        found = flow_run_of(run.run_id)
        assert re.fullmatch(rf"{run.run_id} {verdict} 0\.\d{{4}}", found.name)
        assert found.state
        assert (found.state.type, found.state.name) == (StateType.COMPLETED, "Completed")
        assert f"{verdict}: test accuracy 0." in (found.state.message or "")
        assert "required" in (found.state.message or "")
        assert {verdict, "official-data"} <= set(found.tags)


def test_a_reviewer_finds_the_report_with_its_figures_in_the_run(pair: Pair) -> None:
    """One page shows verdict, figures, classes, champion and files, in less than 200 KB."""
    artifacts = artifacts_of(flow_run_of(pair.rejected.run_id))
    report = artifacts["report"].data
    assert len(report) < 200_000
    assert report.startswith(f"# Rejected: {pair.rejected.run_id}")
    assert report.count("data:image/png;base64,") == 5
    for words in ("Ankle boot", pair.promoted.run_id, f"{pair.url}/runs/", "model.keras"):
        assert words in report


def test_the_run_has_a_table_of_its_classes_and_its_progress_to_the_end(pair: Pair) -> None:
    artifacts = artifacts_of(flow_run_of(pair.promoted.run_id))
    rows = json.loads(artifacts["classification-report"].data)
    assert len(rows) == 12
    assert rows[0].keys() == {"class", "precision", "recall", "F1", "images"}
    assert artifacts["training-progress"].data == 100.0


def test_the_stages_are_tasks_and_no_array_is_kept_in_their_states(pair: Pair) -> None:
    """Five tasks ran, one for each stage, and no result was stored by Prefect."""
    run = flow_run_of(pair.promoted.run_id)
    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run.id]}))
    names = {task.name.rsplit("-", 1)[0] for task in tasks}
    assert names == {"fetch", "preprocess", "train", "evaluate", "publish"}
    assert not list(pair.promoted.work.parent.glob("prefect/storage/*"))


def test_no_key_is_written_anywhere(pair: Pair, minio: S3Server) -> None:
    """Neither output, logs, artifacts, parameters, local files nor the store contain the keys."""
    client = boto3.session.Session().client("s3")
    bucket = pair.url.split("/")[2]
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    stored = [client.get_object(Bucket=bucket, Key=o["Key"])["Body"].read() for o in listed]
    run = flow_run_of(pair.promoted.run_id)
    shown = [str(artifact.data) for artifact in artifacts_of(run).values()]
    said = [pair.promoted.out, pair.promoted.err, pair.rejected.err, str(run.parameters)]
    with get_client(sync_client=True) as prefect:
        logged = [line.message for line in prefect.read_logs()]
    # The work folder, the client's home, and whatever else lies in the folder of the commands.
    left = [path.read_bytes() for path in pair.promoted.work.parent.rglob("*") if path.is_file()]
    texts = (text.encode() for text in [*shown, *said, *logged])
    everything = b"\n".join([*stored, *left, *texts])
    assert len(stored) > 2 * len(FILES) and len(logged) > 10 and left
    assert minio.secret_key.encode() not in everything
    assert minio.access_key.encode() not in everything


@dataclass(frozen=True)
class Nights:
    """Runs one after the other on a store, of which only the first has something to train.

    Attributes:
        first: trained, and rejected.
        unchanged: the same again.
        judged_again: the same with a lower bar.
        store: the store's folder.
        stored: its files after the second run.
    """

    first: Finished
    unchanged: Finished
    judged_again: Finished
    store: Path
    stored: set[str]


@pytest.fixture(scope="module")
def nights(
    prefect_server: str, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Nights:
    folder = tmp_path_factory.mktemp("nights")
    extra = {"PREFECT_API_URL": prefect_server, "FMNIST_DATA__SOURCE": str(small_data)}
    arguments = [*SHORT, "--training.when", "changed"]
    first = command(folder, *arguments, "--gate.min_accuracy", "0.99", **extra)
    before = files_in(folder / "store")
    unchanged = command(folder, *arguments, "--gate.min_accuracy", "0.99", **extra)
    stored = files_in(folder / "store")
    assert stored == before
    judged_again = command(folder, *arguments, *LOW_BAR, **extra)
    return Nights(first, unchanged, judged_again, folder / "store", stored)


def test_a_run_that_would_repeat_an_earlier_one_trains_nothing(nights: Nights) -> None:
    """It is completed and tagged `unchanged`, ends with 0, and links to the earlier report."""
    assert (nights.first.code, nights.unchanged.code) == (3, 0), nights.unchanged.err
    words = f"unchanged: same data, settings, code and versions as {nights.first.run_id}"
    assert nights.unchanged.summary.startswith(words)
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags={"all_": ["unchanged"]}, name={"like_": " unchanged"}
            ),
            sort=FlowRunSort.START_TIME_ASC,
        )[:1]
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run.id]}))
    assert run.state and (run.state.name, run.state.message) == ("Completed", words)
    assert {task.name.rsplit("-", 1)[0] for task in tasks} == {"fetch", "find_same"}
    report = artifacts_of(run)["report"].data
    assert f"runs/{nights.first.run_id}/report.md" in report and "**rejected**" in report


def test_a_changed_gate_judges_the_earlier_run_again_and_trains_nothing(nights: Nights) -> None:
    """As `fmnist promote` would: the earlier run becomes the champion."""
    assert nights.judged_again.code == 0, nights.judged_again.err
    assert "judged again by the changed gate: test accuracy" in nights.judged_again.summary
    champion = current_champion(FolderStore(str(nights.store)))
    assert champion and champion.run_id == nights.first.run_id
    assert {name.split("/")[1] for name in files_in(nights.store) if name.startswith("runs/")} == {
        nights.first.run_id
    }


def test_a_run_that_judged_an_earlier_one_again_announces_the_verdict(nights: Nights) -> None:
    """Whoever is told of a new champion is told of this one, though nothing was trained."""
    wanted = {"filter": {"event": {"name": ["fmnist.run.promoted"]}}, "limit": 50}
    words = f"as {nights.first.run_id}, judged again by the changed gate"
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            events = client.request("POST", "/events/filter", json=wanted).json()["events"]
            if any(words in event["payload"]["reason"] for event in events):
                return
            assert time.monotonic() < deadline, events
            time.sleep(0.5)


def test_a_name_that_a_person_gave_a_run_is_kept(small_data: Path, tmp_path: Path) -> None:
    """The run id is a tag then, beside the verdict."""
    settings = {
        "training": {"epochs": 1},
        "model": {"hidden": [8], "dropout": [0]},
        "gate": {"min_accuracy": 0.0},
        "data": {"source": str(small_data)},
        "store": {"url": str(tmp_path / "store"), "work": str(tmp_path / "work")},
    }
    flow = importlib.import_module("flows.train").training_job.with_options(flow_run_name="mine")
    run = flow(settings)
    found = flow_run_of("mine")
    assert found.name == "mine"
    assert {run.run_id, "promoted"} <= set(found.tags)


def test_two_runs_at_once_are_both_promoted_one_after_the_other(
    prefect_server: str, small_data: Path, tmp_path: Path
) -> None:
    """The second is judged again, against the first, and the history has both promotions."""
    store = str(tmp_path / "store")
    arguments = [*SHORT, *LOW_BAR, "--gate.champion", "off", "--store.url", store]
    extra = {"FMNIST_DATA__SOURCE": str(small_data), "PREFECT_API_URL": prefect_server}
    with ThreadPoolExecutor(2) as pool:
        done = list(
            pool.map(lambda name: command(tmp_path / name, *arguments, **extra), ["one", "two"])
        )
    assert [run.code for run in done] == [0, 0], done[0].err + done[1].err
    second, first = champion_history(FolderStore(store))
    assert {first.run_id, second.run_id} == {run.run_id for run in done}
    assert (first.generation, second.generation) == (1, 2)
    assert (first.previous, second.previous) == (None, first.run_id)


def test_a_store_that_ignores_conditions_is_refused_unless_the_settings_accept_it(
    prefect_server: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found before training, exit code 5; a single publisher may use it, and is reminded."""
    with tiny_s3(monkeypatch) as server:
        server.honours_conditions = False
        extra = {
            **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
            "FMNIST_DATA__SOURCE": str(small_data),
            "FMNIST_STORE__URL": "s3://models/x",
            "PREFECT_API_URL": prefect_server,
        }
        arguments = [*SHORT, *LOW_BAR]
        refused = command(tmp_path, *arguments, **extra)
        assert_failed(refused, 5, "store", "does not honour conditional writes", "single_publisher")
        assert "training:" not in refused.err
        accepted = command(tmp_path, *arguments, "--store.single_publisher", "true", **extra)
    assert accepted.code == 0, accepted.err
    stored = {key.removeprefix("models/x/"): body for key, body in server.objects.items()}
    assert json.loads(stored["champion.json"])["run_id"] == accepted.run_id
    verdict = json.loads(stored[f"runs/{accepted.run_id}/verdict.json"])
    assert any("does not honour conditional writes" in note for note in verdict["notes"])


def assert_failed(done: Finished, code: int, kind: str, *words: str) -> None:
    """The command ended with that code and a line of that kind, and showed no traceback."""
    assert done.code == code, done.err
    assert re.match(rf"failed  (-|{ANY_RUN_ID})  {kind}: ", done.summary), done.summary
    for word in words:
        assert word in done.summary + done.err
    assert "Traceback" not in done.err
    assert not done.work.exists() or list(done.work.iterdir()) == []


def test_wrong_settings_end_with_2_and_a_line_for_each(ended: Ended, tmp_path: Path) -> None:
    """Each has what was given and what is allowed, but no credentials are repeated."""
    done = ended("settings")
    assert_failed(
        done, 2, "settings", "training.epochs: 'many' was given; allowed: integer from 1 to 10000",
        "gate.min_accuracy: '90' was given; allowed: number from 0 to 1",
        "split.sed: no such setting; did you mean split.seed?", "must not contain credentials",
    )  # fmt: skip
    assert_failed(command(tmp_path, "--epochs", "3"), 2, "settings", "--epochs: no such option")
    assert "hush-hush" not in done.out + done.err


def test_data_that_cannot_be_fetched_end_with_4(ended: Ended) -> None:
    """Each mirror is listed with its own reason, and how to supply the files by hand."""
    done = ended("no-data")
    assert_failed(done, 4, "data", "cannot connect", "set data.source to a folder")
    assert len(set(re.findall(r"http://127\.0\.0\.1:\d+", done.summary + done.err))) >= 2
    assert flow_run_of(done.run_id).state_name == "Failed"


def test_bad_data_end_with_4_before_any_training(ended: Ended) -> None:
    """A file that is not the official one is named, with what to do."""
    done = ended("bad-data")
    assert_failed(done, 4, "data", "train-images-idx3-ubyte.gz is not the official", "SHA256SUMS")
    assert "training:" not in done.err


@pytest.mark.parametrize(
    ("url", "change", "words"),
    [
        ("s3://no-such-bucket/x", {}, ["'no-such-bucket'", "does not exist", "ENDPOINT"]),
        ("s3://any/x", {"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, ["check the AWS credentials"]),
        ("s3://any/x", {"AWS_ENDPOINT_URL_S3": NOBODY}, ["cannot reach", NOBODY]),
        ("file", {}, ["a file is in its place"]),
    ],
    ids=["missing bucket", "wrong key", "dead server", "a file in its place"],
)
def test_an_unusable_store_ends_with_5_before_the_data_are_fetched(
    url: str,
    change: dict[str, str],
    words: list[str],
    prefect_server: str,
    minio_server: S3Server,
    tmp_path: Path,
) -> None:
    """The line says what is wrong with it, and repeats no key."""
    (tmp_path / "file").write_text("")
    extra = minio_server.environment() | {
        "PREFECT_API_URL": prefect_server,
        # This would end with 4 if it were looked at before the store.
        "FMNIST_DATA__SOURCE": str(tmp_path / "absent"),
        "FMNIST_STORE__URL": url,
    }
    done = command(tmp_path, **extra | change)
    told = (word.replace("ENDPOINT", minio_server.endpoint) for word in words)
    assert_failed(done, 5, "store", *told)
    assert "wrong-secret" not in done.out + done.err


def test_a_loss_that_is_not_finite_ends_with_6_and_nothing_published(ended: Ended) -> None:
    """The line says what to change, and the store has no run."""
    done = ended("loss")
    assert_failed(done, 6, "training", "no longer finite", "lower training.learning_rate")
    assert files_in(done.work.parent / "store") <= {".lock"}


def test_an_unreachable_prefect_server_ends_with_7(ended: Ended) -> None:
    """The line names the address and what to do."""
    done = ended("no-server")
    assert_failed(done, 7, "prefect", "unset that to use a temporary server")
    assert re.search(r"at http://127\.0\.0\.1:\d+/api", done.summary)
    assert len(done.err.splitlines()) <= 1


@pytest.mark.parametrize("whole_group", [False, True], ids=["the job", "its whole terminal"])
def test_an_interrupt_ends_with_130_and_leaves_nothing_behind(
    data_source: str, tmp_path: Path, prefect_server: str, whole_group: bool
) -> None:
    """Ctrl-C during training: cancelled and cleaned up, with the temporary server ended too."""
    extra = {} if whole_group else {"PREFECT_API_URL": prefect_server}
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            # The first line of progress comes after a tenth of them.
            [*COMMAND, *SHORT, "--training.epochs", "200", "--training.patience", "200"],
            cwd=tmp_path,
            env=environment(tmp_path, FMNIST_DATA__SOURCE=data_source, **extra),
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            start_new_session=True,
            # A shell lets what it starts in the background ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    deadline = time.monotonic() + 180
    while "training: epoch" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    interrupted_at = time.monotonic()
    out, _ = process.communicate(timeout=120)
    err = log.read_text()
    assert process.returncode == 130, err
    assert time.monotonic() - interrupted_at < 30
    assert out.splitlines()[-1].startswith("interrupted  ")
    assert "Traceback" not in err
    assert "Cancelled" in err
    assert list((tmp_path / "work").iterdir()) == []
    assert files_in(tmp_path / "store") <= {".lock"}
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_store_that_fails_while_publishing_ends_with_5_and_the_run_is_kept(ended: Ended) -> None:
    """The message names the folder that contains the finished run with its manifest."""
    done = ended("full")
    assert done.code == 5, done.err
    assert "Traceback" not in done.err
    kept = kept_run(done.summary)
    assert files_in(kept) == {*FILES, "manifest.json"}
    assert [path.name for path in kept.parent.iterdir()] == ["run"]


@pytest.fixture(scope="module")
def form() -> dict[str, Any]:
    """The schema behind a deployment's form, made where the environment has settings too."""
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import train;"
        "print(json.dumps(train.training_job.parameters.model_dump()))"
    )
    done = run_program("-c", program, str(ROOT / "flows"), FMNIST_TRAINING__EPOCHS="77")
    schema: dict[str, Any] = json.loads(done.stdout)
    return schema


@pytest.mark.parametrize("setting", all_settings(), ids=lambda setting: setting.name)
def test_a_deployments_form_shows_every_setting_with_its_meaning_and_bounds(
    form: dict[str, Any], setting: Setting
) -> None:
    """The default is given in words, whatever the environment contains."""
    section, _, name = setting.name.partition(".")
    field = form["definitions"][f"{section.capitalize()}Settings"]["properties"][name]
    assert field["description"].startswith(setting.meaning)
    allowed = setting.allowed.replace(", comma-separated", "")
    assert field["description"].endswith(f"({allowed}; default: {setting.default})")


def test_a_deployments_form_sends_only_what_was_filled_in(form: dict[str, Any]) -> None:
    """No field has a value, which would override the worker's environment."""
    assert form["required"] == []
    assert form["properties"]["settings"]["default"] == {}
    for part in form["definitions"].values():
        for field in part["properties"].values():
            assert "default" not in field
            assert field.get("type") != "boolean"  # A switch always has a value.


def test_a_deployments_form_refuses_what_is_out_of_bounds(form: dict[str, Any]) -> None:
    """Range and type are in the schema, which the server checks before it creates a run."""
    epochs = form["definitions"]["TrainingSettings"]["properties"]["epochs"]
    assert (epochs["minimum"], epochs["maximum"], epochs["type"]) == (1, 10_000, "integer")
    lower_bound = form["definitions"]["GateSettings"]["properties"]["lower_bound"]
    assert lower_bound["enum"] == [True, False]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the flow."""
    monkeypatch.syspath_prepend(str(ROOT / "flows"))
    return importlib.import_module("train")


def test_a_partial_parameter_keeps_the_rest_from_environment_and_defaults(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a deployment sets takes precedence over the environment of the run."""
    monkeypatch.setenv("FMNIST_TRAINING__SEED", "9")
    given = {"settings": {"training": {"epochs": 3}, "gate": {"lower_bound": True}}}
    settings = complete_settings(train.training_job.validate_parameters(given)["settings"])
    assert (settings.training.epochs, settings.training.seed) == (3, 9)
    assert settings.gate.lower_bound and settings.gate.min_accuracy == 0.9


def test_a_wrong_setting_of_the_worker_fails_the_run_in_one_line(
    train: Any,
    prefect_server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """State and log name it as the command line would, without any secret in it."""
    monkeypatch.setenv("FMNIST_TRAINING__EPOCHS", "many")
    monkeypatch.setenv("FMNIST_STORE__URL", "s3://me:hush-hush@models/x")
    state = train.training_job(return_state=True)
    assert state.is_failed()
    assert "training.epochs: 'many' was given; allowed: integer from 1 to 10000" in state.message
    assert "store.url" in state.message and "must not contain credentials" in state.message
    assert "hush-hush" not in state.message + caplog.text
    assert "Traceback" not in caplog.text


def test_a_server_lost_in_the_middle_ends_with_7(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the call raises the error or the run ends with it, the line names Prefect."""

    def raises(*_: object, **__: object) -> None:
        raise httpx.ConnectError("refused")

    def carries(*_: object, **__: object) -> Any:
        return Failed(data=httpx.ReadTimeout("slow"))

    monkeypatch.setattr("fmnist.orchestration.server.ask_server", lambda *_: None)
    monkeypatch.setenv("PREFECT_API_URL", "http://me:hush-hush@127.0.0.1:9/api")
    for job in (raises, carries):
        monkeypatch.setattr("fmnist.orchestration.server.load_flow", lambda _, job=job: job)
        assert main("train.py", []) == 7
        shown = capsys.readouterr()
        assert shown.out.startswith("failed  -  prefect: lost the Prefect server at ")
        assert "hush-hush" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("files", "variables", "code", "word"),
    [
        ({"home/profiles.toml": b"no TOML"}, {}, 7, "home/profiles.toml"),
        ({}, {"PREFECT_API_URL": "http://[::1/api"}, 7, "PREFECT_API_URL"),
        ({"home/prefect.db": os.urandom(100_000)}, {}, 7, "home/prefect.db is damaged"),
        ({"home": b""}, {}, 7, "set PREFECT_HOME to another folder"),
        ({".env": b"A=\xe9"}, {}, 2, ".env cannot be read"),
    ],
    ids=["profiles", "address", "database", "home", ".env"],
)
def test_what_prefect_cannot_use_ends_the_command_before_anything_starts(
    files: dict[str, bytes], variables: dict[str, str], code: int, word: str, tmp_path: Path
) -> None:
    """One line names the file and what to do, without a server that starts in vain."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    done = command(tmp_path, **{"PREFECT_HOME": str(tmp_path / "home")} | variables)
    assert_failed(done, code, "prefect" if code == 7 else "settings", word)
    assert not (tmp_path / "store").exists()
