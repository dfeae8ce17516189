"""Publishers in processes of their own that all try to become the champion at the same moment."""

import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Barrier
from pathlib import Path

from fmnist.errors import StoreError
from fmnist.evaluation.gate import Verdict
from fmnist.registry import keys
from fmnist.registry.champion import champion_history, current_champion, promote_run
from fmnist.registry.records import ChampionRecord, StoredRun
from fmnist.registry.runs import read_file, read_run, upload_run
from fmnist.store.base import Store
from tests.faults.children import hasten
from tests.faults.scenarios import Place, check_history
from tests.support.registry import BY, passed, seal

_LONGEST_ROUND = 120


@dataclass(frozen=True)
class Ended:
    """How a publisher's round ended: the run it promoted, or the error that it got instead."""

    run_id: str
    error: str = ""


def race(
    context: ForkServerContext, place: Place, publishers: int, rounds: int, attempts: int
) -> list[list[Ended]]:
    """Let so many publishers go at once, round after round; how each round ended for each of them.

    With one attempt, a publisher that meets another champion than before its start gives up.
    """
    barrier = context.Barrier(publishers)
    with ExitStack() as processes:
        ends = []
        for number in range(publishers):
            end, other = context.Pipe(duplex=False)
            arguments = (number, place, rounds, attempts, barrier, other)
            process = context.Process(target=_publisher, args=arguments)
            process.start()
            other.close()
            processes.callback(process.join)
            processes.callback(process.kill)
            ends.append(end)
        with ThreadPoolExecutor(publishers) as pool:
            of_publishers = list(pool.map(Connection.recv, ends))
    return [list(of_round) for of_round in zip(*of_publishers, strict=True)]


def _publisher(
    number: int, place: Place, rounds: int, attempts: int, barrier: Barrier, answers: Connection
) -> None:
    """Take part in a race with one run after the other, each of them until it is the champion."""
    hasten()
    store = place.open()
    ended: list[Ended] = []
    run = _store_run(store, f"publisher-{number}-run-0")
    try:
        for _ in range(rounds):
            champion = current_champion(store)
            barrier.wait(_LONGEST_ROUND)
            ended.append(_promote(store, run, champion, attempts))
            barrier.wait(_LONGEST_ROUND)
            if not ended[-1].error:
                run = _store_run(store, f"publisher-{number}-run-{len(ended)}")
    except BaseException:
        barrier.abort()
        raise
    answers.send(ended)


def _store_run(store: Store, run_id: str) -> StoredRun:
    with tempfile.TemporaryDirectory() as folder:
        return upload_run(store, seal(Path(folder), run_id, {keys.MODEL: run_id.encode()}))


def _promote(store: Store, run: StoredRun, champion: ChampionRecord | None, attempts: int) -> Ended:
    def decide(later: ChampionRecord | None) -> Verdict:
        if attempts == 1:
            raise StoreError("another one was faster")
        return passed(later)

    try:
        promote_run(store, run, 0.91, passed(champion), decide, by=BY, attempts=attempts)
    except StoreError as error:
        return Ended(run.run_id, f"{type(error).__name__}: {error}")
    return Ended(run.run_id)


def check_one_winner_each(place: Place, rounds: Sequence[Sequence[Ended]]) -> None:
    """Each round must have had one winner, whose run is the champion of the next generation."""
    winners = []
    for number, ended in enumerate(rounds, 1):
        won = [end.run_id for end in ended if not end.error]
        assert len(won) == 1, f"round {number} was won by {won}"
        winners += won
        for end in ended:
            assert end.error == "" or re.fullmatch(r"StoreError: [^\n]+", end.error)
    assert _champions(place) == winners


def check_all_promoted(place: Place, ended: Sequence[Ended]) -> None:
    """Every publisher must have promoted its run, each in a generation of its own."""
    assert [end.error for end in ended if end.error] == []
    assert sorted(_champions(place)) == sorted(end.run_id for end in ended)


def _champions(place: Place) -> list[str]:
    """The champions by generation, each of them a complete run that was the champion just once."""
    store = place.open()
    found = {key: store.read(key) for key in (*store.list_entries(keys.HISTORY), keys.CHAMPION)}
    check_history(store, current_champion(store), found)
    history = list(champion_history(store))[::-1]
    for record in history:
        run = read_run(store, record.run_id, record.manifest_sha256)
        assert read_file(store, run, keys.MODEL) == record.run_id.encode()
    champions = [record.run_id for record in history]
    assert len(set(champions)) == len(champions)
    return champions
