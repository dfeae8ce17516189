"""Score models on the test images, and decide about them against the champion in force."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fmnist import gate, registry
from fmnist.comparison import Comparison, Incomparable, compare
from fmnist.config import GateSettings
from fmnist.dataset import Bytes
from fmnist.errors import DamagedError, StoreError
from fmnist.evaluation import Evaluation, evaluate
from fmnist.fetch import DataOrigin
from fmnist.gate import Circumstances, Verdict
from fmnist.registry import Champion
from fmnist.store import Store

Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Bench:
    """What models are judged on.

    `score` gives the probabilities `(n, classes)` of the network in a `.keras` file's bytes for the
    test images, whose `labels` are `(n,)`; `test_set` is the digest of images and labels.
    """

    labels: Bytes
    class_names: tuple[str, ...]
    test_set: str
    score: Callable[[bytes], Probabilities]


@dataclass(frozen=True)
class Judgement:
    """A model's figures and verdict, the champion that it met, and the comparison with that.

    Both of the latter are `None` where there was no champion.
    """

    evaluation: Evaluation
    verdict: Verdict
    champion: Champion | None
    against: Comparison | Incomparable | None


@dataclass(frozen=True)
class Judge:
    """Judges models by the gate's settings, on a bench, against the champion of a store.

    Whatever it decides about the run `run_id` counts as one use of the test set. `safe_store` tells
    whether the store honours conditional writes.
    """

    store: Store
    bench: Bench
    gate: GateSettings
    run_id: str
    safe_store: bool

    def judge(self, model: bytes, since: int) -> Judgement:
        """Score the network in these bytes of a file, and decide about it against the champion.

        A store that cannot be asked leaves the verdict undecided, so that the run is not lost;
        `since` is the generation in which its champion was last seen.

        Raises:
            DamagedError: the bytes hold no network of this project.
        """
        probabilities = self.bench.score(model)
        evaluation = evaluate(probabilities, self.bench.labels, self.bench.class_names)
        try:
            while True:
                head = registry.champion(self.store)
                found = self.decide(evaluation, probabilities, head)
                # A champion of before may have been removed while it was read.
                if not isinstance(found.against, Incomparable) or (
                    registry.champion(self.store) == head
                ):
                    return found
        except StoreError as error:
            return Judgement(evaluation, gate.undecided(str(error), since), None, None)

    def decide(
        self, evaluation: Evaluation, probabilities: Probabilities, head: Champion | None
    ) -> Judgement:
        """Decide about a model of these figures, against this champion.

        Raises:
            StoreError: the store cannot be read, or the use of the test set cannot be counted.
        """
        against = self.compare(probabilities, head)
        circumstances = Circumstances(
            test_images=len(self.bench.labels),
            against=against,
            generation=registry.generation_of(head),
            judged=registry.count_judged(self.store, self.bench.test_set, self.run_id),
            safe_store=self.safe_store,
        )
        verdict = gate.decide(evaluation, self.gate, circumstances)
        return Judgement(evaluation, verdict, head, against)

    def compare(
        self, probabilities: Probabilities, head: Champion | None
    ) -> Comparison | Incomparable | None:
        """Those probabilities compared with the champion's, which is scored here and now.

        Raises:
            StoreError: the store cannot be read.
        """
        if head is None:
            return None
        bench = self.bench
        try:
            run = registry.read_run(self.store, head.run_id, head.manifest_sha256)
            model = registry.read_file(self.store, run, registry.MODEL)
            origin = registry.read_record(self.store, run, registry.DATA, DataOrigin)
            figures = registry.read_record(self.store, run, registry.EVALUATION, Evaluation)
            test_set = origin.test_set
            champion_probabilities = bench.score(model)
        except DamagedError as error:
            return Incomparable(head.run_id, str(error))
        except KeyError as error:
            return Incomparable(head.run_id, f"its {registry.DATA} has no digest of {error}")
        names = tuple(scores.name for scores in figures.classes)
        return compare(
            head.run_id,
            champion_probabilities,
            probabilities,
            bench.labels,
            bench.class_names,
            same_test_set=test_set == bench.test_set and names == bench.class_names,
        )
