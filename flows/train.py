"""The training job: fetch, preprocess, train, evaluate, publish, as one Prefect flow.

    python flows/train.py --help

Everything that computes or stores is in the package `fmnist`, and what only Prefect needs to know
in `fmnist.orchestration`. Here are the order of the stages, their retries, and the command line.
"""

from fmnist import process

if __name__ == "__main__":
    process.begin()
    # Arguments come first: what is imported below takes seconds, which only a run is worth.
    from fmnist.cli.train import main

    process.leave(main(__file__))

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled

from fmnist.data.fetch import fetch_files
from fmnist.data.records import DataOrigin, FetchedData, PreparedData
from fmnist.data.split import load_digests, load_images, prepare_sets
from fmnist.data.statistics import mean_images
from fmnist.orchestration.artifacts import show_report, show_unchanged, training_progress
from fmnist.orchestration.form import SettingsForm
from fmnist.orchestration.job import (
    Job,
    check_store,
    describe_run,
    final_state,
    is_retryable,
    retrying,
    started_job,
    unchanged_state,
)
from fmnist.orchestration.link import settle
from fmnist.promotion.data_change import compare_data
from fmnist.promotion.judge import Decision, Judge, make_test_set
from fmnist.promotion.publish import publish_run, write_run
from fmnist.promotion.unchanged import Unchanged, find_unchanged, fingerprint_of
from fmnist.promotion.workspace import finished_folder, workspace
from fmnist.registry import keys
from fmnist.report.run import Run
from fmnist.settings import DataSettings, Settings
from fmnist.store.base import open_store
from fmnist.tensorflow_import import quiet_tensorflow_import
from fmnist.training.records import TrainingResult

logger = logging.getLogger("fmnist.flow")


@flow(name="fashion-mnist", log_prints=False)
def training_job(settings: Annotated[Any, SettingsForm] = {}) -> State[Any]:  # noqa: B006
    """Train on Fashion-MNIST, judge on the test set, publish; promote if the gate is passed.

    A part of the settings is enough: the rest comes from the deployment, then from the environment
    of the process that runs the flow, then from the defaults.
    """
    try:
        with started_job(settings) as job, workspace(job.settings.store, job.run_id) as folder:
            fetched = retrying(fetch, job.settings.data.retry_pauses)(job.settings.data)
            if job.settings.training.when == "changed" and (same := find_same(job, fetched.origin)):
                if settle(same):
                    show_unchanged(same)
                return unchanged_state(job, same)
            job = check_store(job)
            prepared = preprocess(fetched, job.settings, folder)
            trained = train(prepared, job.settings, folder)
            decision = evaluate(job, fetched.origin, prepared, folder)
            run = describe_run(job, fetched.origin, prepared, trained, decision)
            run = retrying(publish, job.settings.store.retry_pauses)(job, run, folder)
            if settle(run):
                show_report(run, finished_folder(folder))
    except KeyboardInterrupt:
        return Cancelled(message="interrupted")
    return final_state(job, run)


@task(cache_policy=NO_CACHE, retry_condition_fn=is_retryable)
def fetch(settings: DataSettings) -> FetchedData:
    """Bring the four data files to this machine, verified."""
    return fetch_files(settings)


@task(cache_policy=NO_CACHE, retry_condition_fn=is_retryable)
def find_same(job: Job, data: DataOrigin) -> Unchanged | None:
    """Find the stored run that a training would repeat; judge it again if the gate has changed."""
    settings = job.settings
    store = open_store(settings.store.url, single_publisher=settings.store.single_publisher)
    fingerprint = fingerprint_of(settings, data, job.environment)
    return find_unchanged(store, job.run_id, settings, fingerprint, by="flows/train.py")


@task(cache_policy=NO_CACHE)
def preprocess(fetched: FetchedData, settings: Settings, folder: Path) -> PreparedData:
    """Check the data and split them into training, validation and test."""
    return prepare_sets(fetched, settings.data, settings.split, folder)


@task(cache_policy=NO_CACHE)
def train(prepared: PreparedData, settings: Settings, folder: Path) -> TrainingResult:
    """Train and calibrate the network, and save it."""
    with quiet_tensorflow_import():
        from fmnist.training.loop import train_network

    with training_progress(settings.training.epochs) as report:
        return train_network(
            load_images(prepared.train),
            load_images(prepared.validation),
            len(settings.data.class_names),
            settings.model,
            settings.training,
            finished_folder(folder) / keys.MODEL,
            report,
        )


@task(cache_policy=NO_CACHE)
def evaluate(job: Job, data: DataOrigin, prepared: PreparedData, folder: Path) -> Decision:
    """Score the saved model once on the test images, and decide about it against the champion."""
    model = (finished_folder(folder) / keys.MODEL).read_bytes()
    judge = _judge(job, data, prepared)
    decision = judge.judge(model, job.seen_generation)
    champion, settings = decision.champion_before, job.settings.data
    change = compare_data(judge.store, champion, data, prepared.statistics, settings)
    return replace(decision, data_change=change)


@task(cache_policy=NO_CACHE, retry_condition_fn=is_retryable)
def publish(job: Job, run: Run, folder: Path) -> Run:
    """Write the run's files, store them, and promote the model if it passed the gate."""
    finished = finished_folder(folder)
    if not (finished / keys.MANIFEST).exists():
        train, test = load_images(run.prepared.train), load_images(run.prepared.test)
        means = mean_images(train, len(job.settings.data.class_names))
        write_run(run, test.images, means, finished)
    published = publish_run(run, finished, _judge(job, run.data, run.prepared))
    process.hold_back()  # What has been published is no longer cancelled.
    logger.info("%s: %s", published.verdict.word, published.verdict.reason)
    return published


def _judge(job: Job, data: DataOrigin, prepared: PreparedData) -> Judge:
    settings = job.settings
    store = open_store(settings.store.url, single_publisher=settings.store.single_publisher)
    test_set = make_test_set(load_images(prepared.test), settings.data.class_names, data)
    trained_on = load_digests(prepared.training_digests)
    return Judge(store, test_set, settings.gate, job.run_id, job.conditional_writes, trained_on)
