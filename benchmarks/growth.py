"""How time and memory grow with the number of training images: one table.

    python benchmarks/growth.py > benchmarks/results/growth.md

Each size is one run of the job's command, of two epochs, over images made by repeating the real
ones, each copy with a few pixels of noise. The times are taken from the run's own log and record;
an epoch is the second, since the first also compiles. The memory is the most that the command's
largest process has ever held, files mapped into it included.
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import conditions
import numpy as np

from fmnist.data.fetch import SUMS, fetch_files
from fmnist.data.idx import read_idx
from fmnist.data.records import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, FetchedData
from fmnist.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
SIZES = (60_000, 600_000, 3_000_000)
NOISY_PIXELS = 8
# The most memory that is allowed: so much, and so many times the images.
BASE, FACTOR = 1e9, 1.3
FINISHED = re.compile(r"^(\S+) .*Task run '(\w+)-\w+' - Finished", re.MULTILINE)


@dataclass(frozen=True)
class Growth:
    """What a run over so many images took.

    Attributes:
        images: how many training images there were, before the split.
        bytes: of these images.
        preprocess: seconds to check, split and describe them.
        epoch: seconds for an epoch with its validation.
        command: seconds for the whole command.
        memory: the most bytes that the command's largest process held.
    """

    images: int
    bytes: int
    preprocess: float
    epoch: float
    command: float
    memory: int


def make_data(real: FetchedData, images: int, folder: Path) -> int:
    """Write a data set with so many training images; returns their size in bytes."""
    pixels, labels = read_idx(real.train_images, 3), read_idx(real.train_labels, 1)
    generator = np.random.default_rng(0)
    with gzip.open(folder / TRAIN_IMAGES, "wb", compresslevel=1) as stream:
        stream.write(_header(images, *pixels.shape[1:]))
        for start in range(0, images, len(pixels)):
            copy = pixels[: images - start].copy()
            if start:
                flat = copy.reshape(len(copy), -1)
                where = generator.integers(flat.shape[1], size=(len(copy), NOISY_PIXELS))
                noise = generator.integers(256, size=where.shape, dtype=np.uint8)
                np.put_along_axis(flat, where, noise, axis=1)
            stream.write(copy.data)
    repeated = np.resize(labels, images)
    (folder / TRAIN_LABELS).write_bytes(gzip.compress(_header(images) + repeated.tobytes(), 1))
    (folder / TEST_IMAGES).write_bytes(real.test_images.read_bytes())
    (folder / TEST_LABELS).write_bytes(real.test_labels.read_bytes())
    with (folder / SUMS).open("w") as sums:
        for path in sorted(folder.glob("*.gz")):
            with path.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            print(f"{digest}  {path.name}", file=sums)
    return int(images * pixels[0].size)


def _header(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()


def measure(images: int, size: int, data: Path, home: Path) -> Growth:
    """Run the command once over the data in this folder."""
    own = {"PREFECT_HOME": str(home), "FMNIST_DATA__SOURCE": str(data)}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ended = subprocess.run(  # noqa: S603
            [sys.executable, str(ROOT / "flows" / "train.py"), "--training.epochs", "2"],
            cwd=folder,
            env={n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")} | own,
            capture_output=True,
            text=True,
            check=False,  # A rejected model is an exit code.
        )
        command = time.perf_counter() - start
        records = list(Path(folder).glob("store/runs/*/training.json"))
        if not records:
            sys.exit(ended.stderr)
        history = json.loads(records[0].read_text())["history"]
    finished = {
        stage: datetime.strptime(clock, "%H:%M:%S.%f")
        for clock, stage in FINISHED.findall(ended.stderr)
    }
    return Growth(
        images,
        size,
        (finished["preprocess"] - finished["fetch"]).total_seconds(),
        history[1]["seconds"],
        command,
        # In KiB, of the largest of all processes so far: sizes must not shrink.
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    sizes = sorted(parser.parse_args().sizes)
    real = fetch_files(Settings().data)
    found: list[Growth] = []
    with tempfile.TemporaryDirectory() as home:
        for images in sizes:
            with tempfile.TemporaryDirectory() as folder:
                print(f"making {images:,} images", file=sys.stderr)
                size = make_data(real, images, Path(folder))
                if not found:
                    measure(images, size, Path(folder), Path(home))  # makes Prefect's database
                found.append(measure(images, size, Path(folder), Path(home)))
    print(f"One run of two epochs for each size. {conditions.line()}.\n")
    print(
        "| training images | preprocess, s | for each image | epoch, s | for each image | "
        "whole command, s | peak memory, GB | allowed, GB |\n|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    first = found[0]
    for one in found:
        share = first.images / one.images
        print(
            f"| {one.images:,} | {one.preprocess:.1f} | {one.preprocess / first.preprocess * share:.2f} | "
            f"{one.epoch:.2f} | {one.epoch / first.epoch * share:.2f} | {one.command:.1f} | "
            f"{one.memory / 1e9:.2f} | {(BASE + FACTOR * one.bytes) / 1e9:.2f} |"
        )
    print(
        "\n`for each image` is the time for each image as a share of that with the fewest images: 1.00 "
        f"is growth in proportion. Allowed are 1 GB and {FACTOR:g} times the images."
    )


if __name__ == "__main__":
    main()
