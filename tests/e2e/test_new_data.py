"""Three nights on the real stack: first data, nothing new, and a new version of the data."""

import json
from typing import Any

import numpy as np
import pytest
from prefect.client.schemas.objects import FlowRun

from fmnist.data.fetch import SUMS
from fmnist.data.idx import read_labelled_images
from fmnist.data.records import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    FetchedData,
    LabelledImages,
)
from tests.e2e.conftest import Operator
from tests.support.mirrors import digest, idx

pytestmark = pytest.mark.timeout(600)
TRAINING, TEST, MOVED = 12_000, 2_000, 200
# Apart from the runs of other tests, but below what the job may write.
STORE = "models/fashion-mnist/three-nights"
SETTINGS: dict[str, Any] = {
    "data": {"source": "s3://data/fashion-mnist"},
    "training": {"epochs": 40},
    "gate": {"min_accuracy": 0.5},
    "store": {"url": f"s3://{STORE}"},
}


@pytest.fixture(scope="module")
def first_data(real_data: FetchedData) -> tuple[LabelledImages, LabelledImages]:
    """A part of the real training and test images."""
    train = read_labelled_images(real_data.train_images, real_data.train_labels, 10)
    test = read_labelled_images(real_data.test_images, real_data.test_labels, 10)
    return part(train, 0, TRAINING), part(test, 0, TEST)


def part(data: LabelledImages, start: int, end: int) -> LabelledImages:
    return LabelledImages(data.images[start:end], data.labels[start:end])


def darker(data: LabelledImages) -> LabelledImages:
    """The same things in less light."""
    return LabelledImages((data.images * 0.7).astype(np.uint8), data.labels)


def together(one: LabelledImages, other: LabelledImages) -> LabelledImages:
    return LabelledImages(
        np.concatenate([one.images, other.images]), np.concatenate([one.labels, other.labels])
    )


def put_in_bucket(operator: Operator, train: LabelledImages, test: LabelledImages) -> None:
    """Put a version of the four files into the bucket, the list of their digests last."""
    files = {
        TRAIN_IMAGES: idx(train.images),
        TRAIN_LABELS: idx(train.labels),
        TEST_IMAGES: idx(test.images),
        TEST_LABELS: idx(test.labels),
    }
    files[SUMS] = "".join(f"{digest(body)}  {name}\n" for name, body in files.items()).encode()
    owner = operator.s3("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD")
    for name, body in files.items():
        owner.put_object(Bucket="data", Key=f"fashion-mnist/{name}", Body=body)


def night(operator: Operator) -> FlowRun:
    """The run that the schedule creates this night, once it has ended."""
    return operator.wait(operator.schedule(SETTINGS)[0], seconds=240)


def read(operator: Operator, run: FlowRun, name: str) -> str:
    run_id, *_ = run.name.split()
    found = operator.s3().get_object(
        Bucket="models", Key=f"fashion-mnist/three-nights/runs/{run_id}/{name}"
    )
    return bytes(found["Body"].read()).decode()


def test_new_data_are_trained_on_compared_fairly_and_reported(
    operator: Operator, first_data: tuple[LabelledImages, LabelledImages]
) -> None:
    """Night 1 is promoted, night 2 unchanged; night 3 is decided on what is new to both models."""
    train, test = first_data
    put_in_bucket(operator, train, test)
    first = night(operator)
    assert "promoted" in first.tags, operator.log(first.id)

    second = night(operator)
    assert second.tags.count("unchanged") == 1, operator.log(second.id)
    assert first.name.split()[0] in second.state.message

    # What the champion was trained on, and so has seen, is now to be tested on.
    moved = part(train, 0, MOVED)
    put_in_bucket(operator, darker(part(train, MOVED, TRAINING)), together(darker(test), moved))
    third = night(operator)
    assert {"promoted", "rejected"} & set(third.tags), operator.log(third.id)
    compared = json.loads(read(operator, third, "comparison.json"))
    assert (compared["images"], compared["left_out"]) == (TEST, MOVED)
    assert compared["same_test_set"] is False
    verdict = json.loads(read(operator, third, "verdict.json"))
    assert any("than the champion" in rule["name"] for rule in verdict["rules"])
    assert any("200 of the 2,200 test images are left out" in note for note in verdict["notes"])
    for report in (read(operator, third, "report.md"), operator.artifacts(third.id)["report"]):
        assert "same 2,000 test images. The other 200 are left out" in report
        assert "**Notable change** in the brightness of the training and validation" in report
