"""The image, run by podman as a container on real data, with all that its users may take away.

Each container has a read-only root file system, no capability, and nothing to write to but the one
volume that the image declares.
"""

import json
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from fmnist.data.cache import sha256_of
from fmnist.data.records import FetchedData
from fmnist.registry.champion import current_champion
from fmnist.registry.records import Manifest, from_json
from fmnist.store.folder import FolderStore
from tests.support.processes import ROOT, S3Server, files_in, free_port, unavailable
from tests.support.records import ANY_RUN_ID, FILES

IMAGE = "localhost/fmnist-training:latest"
VOLUME = "/var/lib/fmnist"
USER = 10001
SHORT = {"FMNIST_TRAINING__EPOCHS": "2", "FMNIST_GATE__MIN_ACCURACY": "0.1"}

# Of podman's two low-level programs this one knows every arrangement of control groups.
PODMAN = ["podman", *(["--runtime", "runc"] if shutil.which("runc") else [])]
UNDER_ALL_LIMITS = [
    *("--network", "host", "--http-proxy=false"),
    *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
    # podman would raise these, which not every machine allows it to.
    *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
]
READ_ONLY = ["--read-only", "--read-only-tmpfs=false"]


def podman(*arguments: str, timeout: float = 120) -> str:
    """What a podman command prints; it must succeed."""
    done = subprocess.run(
        [*PODMAN, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Image:
    """The built image: its configuration, and its files as a folder of this machine."""

    config: dict[str, Any]
    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])

    @property
    def packages(self) -> Path:
        """Where Python's packages are."""
        (found,) = self.root.glob("opt/venv/lib/python3.*/site-packages")
        return found


@dataclass(frozen=True)
class Finished:
    """A container that ended: its exit code and its streams."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> str:
        return self.out.splitlines()[-1]


class Container:
    """A container of the image, removed at the end of the block, whatever happened in it."""

    def __init__(
        self,
        folder: Path,
        *command: str,
        options: tuple[str, ...] = (),
        read_only: bool = True,
        **environment: str,
    ) -> None:
        self.name = f"fmnist-test-{secrets.token_hex(6)}"
        self._out, self._err = folder / f"{self.name}.out", folder / f"{self.name}.err"
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        self._command = [
            *(*PODMAN, "run", "--name", self.name, *UNDER_ALL_LIMITS),
            *(*(READ_ONLY if read_only else []), *variables, *options, IMAGE, *command),
        ]

    def __enter__(self) -> "Container":
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(self._command, stdout=out, stderr=err)
        return self

    def __exit__(self, *_: object) -> None:
        podman("rm", "--force", "--volumes", "--ignore", "--time", "0", self.name)
        self._process.wait(30)

    @property
    def err(self) -> str:
        """What it has written to its standard error stream so far."""
        return self._err.read_text()

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the running container does within two minutes."""
        deadline = time.monotonic() + 120
        while not condition():
            assert self.running() and time.monotonic() < deadline, self.err
            time.sleep(0.2)

    def finish(self, timeout: float = 240) -> Finished:
        """Wait for its end."""
        code = self._process.wait(timeout)
        return Finished(code, self._out.read_text(), self.err)


@contextmanager
def new_volume() -> Iterator[tuple[str, Path]]:
    """An empty volume, as an engine makes it: the option that mounts it, and where its files are."""
    name = f"fmnist-test-{secrets.token_hex(6)}"
    podman("volume", "create", name)
    try:
        folder = podman("volume", "inspect", "--format", "{{.Mountpoint}}", name).strip()
        yield f"--volume={name}:{VOLUME}", Path(folder)
    finally:
        podman("volume", "rm", "--force", name)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The image that `.ci/image` built, of the code as it is in this checkout."""
    if not shutil.which("podman"):
        unavailable("podman is needed: .ci/image installs it")
    exists = subprocess.run(["podman", "image", "exists", IMAGE], check=False, timeout=60)
    if exists.returncode:
        unavailable("the image is needed: .ci/image builds it")
    config = json.loads(podman("image", "inspect", "--format", "{{json .Config}}", IMAGE))
    built = Image(config, Path(podman("image", "mount", IMAGE).strip()))
    try:
        for copy, folder in (
            (built.packages / "fmnist", "fmnist"),
            (built.root / "app/flows", "flows"),
        ):
            for source in (ROOT / folder).rglob("*.py"):
                name = source.relative_to(ROOT / folder)
                found = (copy / name).read_bytes() if (copy / name).exists() else None
                if found != source.read_bytes():
                    unavailable(f"the image has another {folder}/{name}: run .ci/image")
        yield built
    finally:
        podman("image", "unmount", IMAGE)


@pytest.fixture(scope="module")
def data(real_data: FetchedData, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """What gives a container the real data, which it cannot change."""
    folder = tmp_path_factory.mktemp("data")
    for file in ("train_images", "train_labels", "test_images", "test_labels"):
        path: Path = getattr(real_data, file)
        shutil.copy(path, folder / path.name)
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o444)
    return ("--volume", f"{folder}:/data:ro", "--env", "FMNIST_DATA__SOURCE=/data")


@pytest.fixture(scope="module")
def default_run(
    image: Image, data: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Finished, Path]]:
    """What the image's own command did with two epochs and a low bar, and its volume."""
    with new_volume() as (volume, folder):
        here = tmp_path_factory.mktemp("default")
        with Container(here, options=(*data, volume), **SHORT) as container:
            yield container.finish(), folder


def test_the_default_command_trains_and_promotes(default_run: tuple[Finished, Path]) -> None:
    """With a new volume and nothing else writable, it ends with 0 and the line that sums it up."""
    done, _ = default_run
    assert done.code == 0, done.err
    assert re.fullmatch(
        rf"promoted  {ANY_RUN_ID}  test accuracy 0\.\d{{4}} \[0\.\d{{4}}, 0\.\d{{4}}\], needs 0\.1000"
        rf"  \d+ s  {VOLUME}/store/runs/{ANY_RUN_ID}/report\.md",
        done.summary,
    )
    for noise in ("Traceback", "ERROR", "WARNING", "Read-only", "Permission"):
        assert noise not in done.err


def test_the_default_command_publishes_into_the_volume(
    default_run: tuple[Finished, Path], image: Image
) -> None:
    """The champion there is whole, and names the commit that the image was built from."""
    _, volume = default_run
    champion = current_champion(FolderStore(str(volume / "store")))
    assert champion
    run = volume / "store" / "runs" / champion.run_id
    assert champion.manifest_sha256 == sha256_of(run / "manifest.json")
    manifest = from_json(Manifest, (run / "manifest.json").read_bytes(), "manifest")
    assert set(manifest.files) == FILES
    for name, entry in manifest.files.items():
        assert sha256_of(run / name) == entry.sha256
    described = json.loads((run / "environment.json").read_text())
    assert described["commit"] == image.environment["SOURCE_COMMIT"]
    assert "not installed" not in described["packages"].values()


def test_the_volume_belongs_to_the_job_alone(default_run: tuple[Finished, Path]) -> None:
    """A new volume is the job's without anybody's help, and the run left no working files in it."""
    _, volume = default_run
    files = [volume, *volume.rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in files} == {(USER, USER)}
    assert list((volume / "cache" / "fmnist" / "work").iterdir()) == []


@pytest.fixture(scope="module")
def prefect_server(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server in a container of the image; its address."""
    port = str(free_port())
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with Container(
        tmp_path_factory.mktemp("server"), *command, PREFECT_SERVER_ANALYTICS_ENABLED="false"
    ) as container:
        address = f"http://127.0.0.1:{port}"
        container.wait_until(lambda: _answers(f"{address}/api/health"))
        yield address


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_prefect_serves_its_ui(prefect_server: str) -> None:
    """The page and the program that it loads are there, though the image cannot be written to."""
    page = httpx.get(prefect_server, timeout=20).text
    script = re.search(r'<script[^>]* src="([^"]+\.js)"', page)
    assert script, page
    assert _answers(prefect_server + script[1])


def test_the_image_has_the_locked_version_of_prefect(image: Image, tmp_path: Path) -> None:
    """Prefect's own command is on the path, in the version that requirements.txt has."""
    with Container(tmp_path, "prefect", "version") as container:
        done = container.finish()
    assert done.code == 0, done.err
    locked = re.search(r"^prefect==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert locked and re.search(rf"Version:\s+{re.escape(locked[1])}\s", done.out)


def test_a_worker_runs_a_deployment(
    prefect_server: str, data: tuple[str, ...], tmp_path: Path
) -> None:
    """Deployed from the image, run by a process worker in the image: published and promoted."""
    part = {"training": {"epochs": 2}, "gate": {"min_accuracy": 0.1}}
    steps = [
        "prefect work-pool create training --type process",
        "prefect --no-prompt deploy --name process --prefect-file deployments/prefect.yaml",
        f"prefect deployment run fashion-mnist/process --param 'settings={json.dumps(part)}'",
        "exec prefect worker start --pool training --run-once",
    ]
    with new_volume() as (volume, folder):
        with Container(
            tmp_path,
            *("sh", "-ec", "\n".join(steps)),
            options=(*data, volume),
            PREFECT_API_URL=f"{prefect_server}/api",
        ) as container:
            done = container.finish()
        assert done.code == 0, done.err
        assert "Finished in state Completed('promoted: " in done.err
        assert current_champion(FolderStore(str(folder / "store")))


def test_a_run_reaches_a_bucket_and_writes_nothing_but_the_volume(
    prefect_server: str, minio: S3Server, bucket: str, data: tuple[str, ...], tmp_path: Path
) -> None:
    """Where the whole file system could be written, the run changes nothing but the volume."""
    variables = {
        **SHORT,
        **minio.environment(),
        "PREFECT_API_URL": f"{prefect_server}/api",
        "FMNIST_STORE__URL": f"s3://{bucket}/fashion/mnist",
    }
    with Container(tmp_path, options=data, read_only=False, **variables) as container:
        done = container.finish()
        assert done.code == 0, done.err
        changed = podman("diff", container.name).splitlines()
    with Container(tmp_path, "true", options=data, read_only=False) as idle:
        assert idle.finish().code == 0
        # What the engine itself changes, such as the place to mount the data on.
        assert sorted(changed) == sorted(podman("diff", idle.name).splitlines())
    assert done.summary.startswith("promoted  ")
    assert f"s3://{bucket}/fashion/mnist/runs/" in done.summary
    stored = boto3.session.Session().client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    keys = {entry["Key"] for entry in stored}
    assert "fashion/mnist/champion.json" in keys
    runs = {key.split("/", 4)[4] for key in keys if key.startswith("fashion/mnist/runs/")}
    assert runs == {*FILES, "manifest.json"}


@pytest.mark.parametrize("how", ["stop --time 60", "kill --signal INT"])
def test_a_signal_to_the_container_ends_the_run_cleanly(
    prefect_server: str, data: tuple[str, ...], tmp_path: Path, how: str
) -> None:
    """`docker stop` or Ctrl-C in the middle of training: 130, recorded, cleaned up, soon."""
    with new_volume() as (volume, folder):
        with Container(
            tmp_path,
            options=(*data, volume),
            PREFECT_API_URL=f"{prefect_server}/api",
            # So many that after the first line of progress, at a tenth, enough are left.
            FMNIST_TRAINING__EPOCHS="100",
            FMNIST_TRAINING__PATIENCE="100",
        ) as container:
            container.wait_until(lambda: "training: epoch" in container.err)
            work = folder / "cache" / "fmnist" / "work"
            assert list(work.iterdir())
            signalled_at = time.monotonic()
            podman(*how.split(), container.name)
            done = container.finish(60)
        assert time.monotonic() - signalled_at < 30
        assert done.code == 130, done.err
        assert done.summary.startswith("interrupted  ")
        assert "Traceback" not in done.err
        assert "Finished in state Cancelled(" in done.err
        assert list(work.iterdir()) == []
        assert files_in(folder / "store") <= {".lock"}


def test_the_user_of_the_image_can_change_no_code(image: Image) -> None:
    """The user is a number that is not root's, and all code is root's, writable by nobody else."""
    assert image.config["User"] == f"{USER}:{USER}"
    for folder in ("app", "opt/venv"):
        for path in [image.root / folder, *(image.root / folder).rglob("*")]:
            status = path.lstat()
            assert (status.st_uid, status.st_gid) == (0, 0), path
            assert path.is_symlink() or not status.st_mode & 0o022, path


def test_the_image_declares_its_volume_and_keeps_everything_in_it(image: Image) -> None:
    """One volume, empty and the user's; every folder that the environment names is in it."""
    assert image.config["Volumes"] == {VOLUME: {}}
    volume = image.root / VOLUME.lstrip("/")
    assert (volume.stat().st_uid, volume.stat().st_gid) == (USER, USER)
    assert list(volume.iterdir()) == []
    folders = {name: value for name, value in image.environment.items() if value.startswith("/")}
    assert folders.pop("PATH").startswith("/opt/venv/bin:")
    assert {"HOME", "TMPDIR", "XDG_CACHE_HOME", "PREFECT_HOME"} <= folders.keys()
    for name, value in folders.items():
        assert Path(value).is_relative_to(VOLUME), name


def test_the_image_keeps_nothing_of_how_it_was_built(image: Image) -> None:
    """No pip and no configuration of it, no certificate of the builder's, no git, no tests."""
    packages = image.packages
    for trace in ("etc/pip.conf", "opt/venv/pip.conf", "opt/pip", "build", "project"):
        assert not (image.root / trace).exists(), trace
    for trace in ("run/secrets", "var/lib/apt/lists", "var/cache/apt"):
        assert not list((image.root / trace).glob("*")), trace
    assert {path.name for path in (image.root / "root").iterdir()} <= {".bashrc", ".profile"}
    for program in ("pip", "git"):
        assert not (image.root / "opt/venv/bin" / program).exists()
        assert not (packages / program).exists()
    assert "http" not in (packages / "fmnist-0.1.0.dist-info" / "direct_url.json").read_text()
    assert "http" not in json.dumps(image.config)
    own = {path.relative_to(image.root / "app").parts[0] for path in image.root.glob("app/*")}
    assert own == {"flows", "deployments"}
    assert not [path for path in image.root.glob("app/**/*") if "env" in path.name.split(".")]


def test_only_what_the_image_needs_reaches_the_build(image: Image, tmp_path: Path) -> None:
    """Keys, the repository's history, tests and caches beside the code stay outside."""
    wanted = {
        *(
            "requirements.txt",
            "requirements-cpu.txt",
            "pyproject.toml",
            "README.md",
            "flows/train.py",
            "fmnist/settings.py",
        ),
        *("deployments/setup.py", "deployments/prefect.yaml", "deployments/pools/docker.json"),
        "fmnist/registry/records.py",
    }
    unwanted = {
        *(".env", "deployments/.env", "deployments/job.env", "flows/.env", "fmnist/.env"),
        *(".git/config", ".venv/bin/python", "tests/conftest.py", "store/champion.json"),
        *("fmnist/store/.env", "fmnist/cli/__pycache__/app.cpython-311.pyc", "model.keras"),
        "requirements-dev.txt",
    }
    for name in wanted | unwanted:
        path = tmp_path / "context" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    shutil.copy(ROOT / ".dockerignore", tmp_path / "context")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /context/\n")
    built = podman(
        *("build", "--quiet", "--isolation", "chroot", "--file", str(tmp_path / "Dockerfile")),
        str(tmp_path / "context"),
    ).strip()
    try:
        seen = Path(podman("image", "mount", built).strip()) / "context"
        files = files_in(seen)
        podman("image", "unmount", built)
    finally:
        podman("rmi", "--force", built)
    assert files == wanted


def test_every_module_has_bytecode_that_cannot_go_stale(image: Image) -> None:
    """Each has bytecode that Python takes without a look at the source's time stamp."""
    sources = [*image.packages.rglob("*.py"), *(image.root / "app").rglob("*.py")]
    assert {"train.py", "loop.py"} <= {path.name for path in sources}
    for source in sources:
        compiled = list((source.parent / "__pycache__").glob(f"{source.stem}.cpython-3??.pyc"))
        assert len(compiled) == 1, source
        with compiled[0].open("rb") as file:
            # After the magic number: a hash instead of a time, and not to be checked.
            assert file.read(8)[4:] == b"\x01\x00\x00\x00", source


def test_tracebacks_name_the_paths_that_modules_have_in_the_image(image: Image) -> None:
    """The bytecode of the project's own modules has their paths in the image."""
    for source in (image.packages / "fmnist/cli/app.py", image.root / "app/flows/train.py"):
        compiled = next((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc"))
        assert f"/{source.relative_to(image.root)}".encode() in compiled.read_bytes()


def test_the_labels_give_title_description_and_commit(image: Image) -> None:
    """Title, description and revision stand where registries look for them."""
    labels, prefix = image.config["Labels"], "org.opencontainers.image"
    assert labels[f"{prefix}.title"] == "fmnist-training"
    assert "Fashion-MNIST" in labels[f"{prefix}.description"]
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", labels[f"{prefix}.revision"])
    assert labels[f"{prefix}.revision"] == image.environment["SOURCE_COMMIT"]


def test_the_default_command_is_the_job_without_a_shell(image: Image) -> None:
    """Signals reach the job, and Prefect's workers can give a command of their own."""
    assert image.config["Cmd"] == ["python", "flows/train.py"]
    assert image.config.get("Entrypoint") is None
    assert image.config["StopSignal"] == "SIGTERM"
    assert image.config["WorkingDir"] == "/app"
