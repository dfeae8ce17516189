"""Made-up but plausible records of runs, for the tests that need them."""

import functools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fmnist.data.records import (
    GREY_LEVELS,
    OFFICIAL_SHA256,
    Bytes,
    ClassStatistics,
    DataOrigin,
    DataStatistics,
    Duplicates,
    LabelledImages,
    PreparedData,
)
from fmnist.environment import Environment
from fmnist.evaluation.comparison import compare
from fmnist.evaluation.gate import GateContext, decide
from fmnist.evaluation.metrics import evaluate
from fmnist.evaluation.records import Comparison, ComparisonFailed, Evaluation
from fmnist.registry.records import FORMAT, ChampionRecord
from fmnist.report.run import Run
from fmnist.settings import DataSettings, Settings
from fmnist.training.records import Epoch, TrainingResult

RUN_ID = "20260314T092653Z-0a1b2c3d"
ANY_RUN_ID = r"\d{8}T\d{6}Z-[0-9a-f]{8}"
CLASS_NAMES = DataSettings().class_names
TEST_IMAGES = 10_000

# What a published run consists of, but for its manifest, and what it has more of where there was a
# champion to compare with.
FILES = {
    "model.keras",
    "evaluation.json",
    "verdict.json",
    "settings.json",
    "training.json",
    "environment.json",
    "data.json",
    "training_images.digests",
    "report.md",
    "figures/mean_images.png",
    "figures/learning_curves.png",
    "figures/confusion_matrix.png",
    "figures/confident_mistakes.png",
}
COMPARISON_FILES = {"comparison.json", "figures/champion_and_challenger.png"}

_GOOD, _POOR = 9_142, 8_790
_SHIRT_LIKE = {0: 6, 6: 0, 2: 4, 4: 2, 3: 6, 5: 7, 7: 9, 9: 7, 1: 3, 8: 4}


@functools.cache
def evaluation(correct: int = _GOOD, without_class: int | None = None) -> Evaluation:
    """Figures of a test of 10,000 images, of which so many were classified right."""
    random = np.random.default_rng(0)
    classes = [number for number in range(10) if number != without_class]
    labels = np.resize(np.array(classes, np.uint8), TEST_IMAGES)
    predicted = labels.copy()
    wrong = random.choice(TEST_IMAGES, TEST_IMAGES - correct, replace=False)
    predicted[wrong] = [_SHIRT_LIKE[int(label)] for label in labels[wrong]]
    # Most mistakes are between like classes, but nearly every cell of the matrix has a few.
    strange = wrong[random.random(len(wrong)) < 0.2]
    predicted[strange] = (labels[strange] + random.integers(1, 10, len(strange))) % 10
    confidence = random.uniform(0.55, 0.999, TEST_IMAGES)
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[np.arange(TEST_IMAGES), predicted] = confidence
    return evaluate(probabilities.astype(np.float32), labels, CLASS_NAMES)


def comparison(
    gained: int = 301,
    lost: int = 210,
    *,
    correct: int = _GOOD,
    same_test_set: bool = True,
    class_names: Sequence[str] = CLASS_NAMES,
) -> Comparison:
    """A comparison with `champion()` of a model that has so many of 10,000 images right.

    The images that changed sides are spread evenly over the classes.
    """
    labels = (np.arange(TEST_IMAGES) % 10).astype(np.uint8)
    wrong = np.array([_SHIRT_LIKE[int(label)] for label in labels])
    place = np.arange(TEST_IMAGES)
    is_gained, is_lost = place < gained, (place >= gained) & (place < gained + lost)
    both_wrong = place >= correct + lost
    before = np.where(is_gained | both_wrong, wrong, labels)
    after = np.where(is_lost | both_wrong, wrong, labels)
    confidence = np.random.default_rng(0).uniform(0.55, 0.999, TEST_IMAGES)[:, None]

    def probabilities(predicted: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        one_hot = np.eye(10)[predicted]
        return (one_hot * confidence + (1 - one_hot) * (1 - confidence) / 9).astype(np.float32)

    return compare(
        champion().run_id,
        probabilities(before),
        probabilities(after),
        labels,
        class_names,
        same_test_set=same_test_set,
    )


def training_result(epochs: int = 150, best_epoch: int = 131) -> TrainingResult:
    """A training whose loss falls and flattens, with some noise from epoch to epoch."""
    noise = np.random.default_rng(0).normal(0, 0.002, (epochs, 4)).tolist()
    return TrainingResult(
        model_sha256="5e" * 32,
        parameters=244_618,
        history=tuple(
            Epoch(
                number=number,
                total=epochs,
                loss=0.28 + 0.9 / number + noise[number - 1][0],
                accuracy=0.90 - 0.3 / number + noise[number - 1][1],
                val_loss=0.26 + 0.5 / number + noise[number - 1][2],
                val_accuracy=0.91 - 0.2 / number + noise[number - 1][3],
                learning_rate=0.012 * (1 - (number - 1) / epochs),
                seconds=0.45,
            )
            for number in range(1, epochs + 1)
        ),
        best_epoch=best_epoch,
        stopped_early=False,
        temperature=1.083,
        seconds=66.4,
    )


def statistics(
    images: Sequence[int] = (6_000,) * 10,
    brightness: int = 70,
    class_names: Sequence[str] = CLASS_NAMES,
) -> DataStatistics:
    """A data set with so many images of each class to learn from, and a sixth of them to test on.

    Their brightness is spread evenly over thirty grey levels, the first of which is given.
    """
    bright = [0] * GREY_LEVELS
    bright[brightness : brightness + 30] = [sum(images) // 30] * 30
    return DataStatistics(
        classes=tuple(
            ClassStatistics(name, count - count // 5, count // 5, count // 6, 80.0 + place, 9.5)
            for place, (name, count) in enumerate(zip(class_names, images, strict=True))
        ),
        brightness=tuple(bright),
        test_brightness=tuple(count // 6 for count in bright),
    )


def champion(run_id: str = "20260301T000000Z-ffffffff", accuracy: float = 0.9051) -> ChampionRecord:
    """A run that was promoted earlier."""
    return ChampionRecord(
        format=FORMAT,
        run_id=run_id,
        manifest_sha256="ab" * 32,
        accuracy=accuracy,
        moved_at=datetime(2026, 3, 1, 0, 2, tzinfo=UTC),
        previous=None,
        generation=1,
        rollback_to=None,
        move="promotion",
        reason="test accuracy 0.9051 is 0.51 points (51 of 10,000 images) above the required 0.9000",
        by="flows/train.py",
    )


def run(
    promoted: bool = True,
    *,
    run_id: str = RUN_ID,
    champion_before: ChampionRecord | None = None,
    against: Comparison | ComparisonFailed | None = None,
    settings: Settings | None = None,
    folder: Path = Path("work"),
    judged: Evaluation | None = None,
) -> Run:
    """A finished run that passes the default gate, or fails it; `folder` is its work folder."""
    training_digests = folder / "training_images.digests"
    if folder.is_dir():
        training_digests.write_bytes(b"")
    settings = settings or Settings()
    found = judged or evaluation(_GOOD if promoted else _POOR)
    context = GateContext(
        TEST_IMAGES, against, champion_before.generation if champion_before else 0
    )
    verdict = decide(found, settings.gate, context)
    return Run(
        run_id=run_id,
        started_at=datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC),
        location=f"s3://models/team/runs/{run_id}",
        settings=settings,
        fingerprint="f1" * 32,
        data=DataOrigin(source="mirrors", official=True, sha256=OFFICIAL_SHA256),
        prepared=PreparedData(
            train=folder / "train",
            validation=folder / "validation",
            test=folder / "test",
            train_images=48_000,
            validation_images=12_000,
            test_images=TEST_IMAGES,
            statistics=statistics(),
            duplicates=Duplicates(0, (), 0, ()),
            training_digests=training_digests,
        ),
        training=training_result(),
        evaluation=found,
        verdict=verdict,
        environment=Environment(
            commit="3c" * 20,
            python="3.12.3",
            platform="Linux-6.8.0-x86_64-with-glibc2.39",
            processor="Imaginary Processor 9000",
            cores=2,
            packages={"fmnist": "0.1.0", "tensorflow": "2.21.0", "keras": "3.15.1"},
        ),
        champion_before=champion_before,
        against=against,
    )


def drawn_images(count: int = TEST_IMAGES) -> Bytes:
    """Images of bright rectangles, each of another size."""
    images = np.zeros((count, 28, 28), np.uint8)
    for place in range(count):
        images[place, 4 : 8 + place % 17, 6 : 10 + place % 13] = 120 + place % 128
    return images


def mean_images(classes: int = 10) -> Bytes:
    """Images that stand for the means of so many classes."""
    return drawn_images(classes)


def learnable_images(
    count: int, shape: tuple[int, int], classes: int, seed: int = 0
) -> LabelledImages:
    """Noise with a bright bar, whose place depends on the class: a small network learns it."""
    random = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).astype(np.uint8)
    images = random.integers(0, 100, (count, *shape)).astype(np.uint8)
    width = (2 * shape[1] - 4) // classes
    for image, label in zip(images, labels, strict=True):
        row, column = (2, 0) if label % 2 else (shape[0] // 2 + 2, 0)
        column = 2 + label // 2 * width
        image[row : row + shape[0] // 2 - 4, column : column + width - 1] = 230
    return LabelledImages(images, labels)


def moments(count: int) -> list[datetime]:
    """Successive seconds."""
    start = datetime(2026, 3, 14, 23, 59, 58, tzinfo=UTC)
    return [start + timedelta(seconds=number) for number in range(count)]
