"""Score a model on the test images, and decide whether to promote it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from fmnist.data.duplicates import Digests, digests_of, unseen
from fmnist.data.records import Bytes, DataChange, DataOrigin, LabelledImages, Probabilities
from fmnist.errors import DamagedError, StoreError
from fmnist.evaluation.comparison import compare
from fmnist.evaluation.gate import GateContext, Verdict, decide, hold_back, undecided
from fmnist.evaluation.metrics import evaluate
from fmnist.evaluation.records import Against, ComparisonFailed, Evaluation
from fmnist.registry import keys
from fmnist.registry.champion import current_champion, generation_of, promote_run
from fmnist.registry.records import ChampionRecord, PromotionResult, RecordedClasses, StoredRun
from fmnist.registry.runs import read_file, read_record, read_run, read_training_digests
from fmnist.registry.usage import record_use
from fmnist.settings import GateSettings
from fmnist.store.base import Store
from fmnist.tensorflow_import import quiet_tensorflow_import


@dataclass(frozen=True)
class TestSet:
    """What models are judged on.

    Attributes:
        labels: the true classes `(n,)`.
        class_names: the classes' names, by number.
        digest: identifies these images and labels.
        score: returns a model's probabilities `(n, classes)` for the test images, given the bytes
            of its `.keras` file.
        image_digests: of the images, `(n,)`.
    """

    labels: Bytes
    class_names: tuple[str, ...]
    digest: str
    score: Callable[[bytes], Probabilities]
    image_digests: Digests


def make_test_set(
    test: LabelledImages, class_names: tuple[str, ...], origin: DataOrigin
) -> TestSet:
    """The test set made of these images, labels and class names."""
    with quiet_tensorflow_import():
        from fmnist.training.model_file import scorer

    score = scorer(test.images, len(class_names))
    digests = digests_of(test.images)
    return TestSet(test.labels, class_names, origin.test_set, score, digests)


@dataclass(frozen=True)
class Decision:
    """What was decided about a model.

    Attributes:
        evaluation: its figures on the test set.
        verdict: whether it is promoted, and why.
        champion_before: the champion it was judged against; `None` if there was none.
        against: the comparison with that champion; `None` if there was none.
        data_change: how the data differ from that champion's, if somebody has looked.
    """

    evaluation: Evaluation
    verdict: Verdict
    champion_before: ChampionRecord | None
    against: Against
    data_change: DataChange | None = None


@dataclass(frozen=True)
class Judge:
    """Judges models by the gate, on a test set, against the champion of a store.

    Attributes:
        store: where the champion is.
        test_set: what models are scored on.
        gate: what is required of them.
        run_id: the run being judged; all decisions about it count as one use of the test set.
        conditional_writes: whether the store honours conditional writes.
        training_digests: those of the images that this run's model was trained on; `None` if they
            are not known.
    """

    store: Store
    test_set: TestSet
    gate: GateSettings
    run_id: str
    conditional_writes: bool
    training_digests: Digests | None = None

    def judge(self, model: bytes, seen_generation: int) -> Decision:
        """Score the model in the bytes of a `.keras` file, and decide about it.

        If the store cannot be read, the verdict stays undecided rather than losing the run;
        `seen_generation` is then the generation of the champion that was last seen.
        """
        probabilities = self.test_set.score(model)
        evaluation = evaluate(probabilities, self.test_set.labels, self.test_set.class_names)
        try:
            while True:
                champion = current_champion(self.store)
                decision = self.decide(evaluation, probabilities, champion)
                # It may have failed only because that champion was being replaced and removed.
                if not isinstance(decision.against, ComparisonFailed) or (
                    current_champion(self.store) == champion
                ):
                    return decision
        except StoreError as error:
            return Decision(evaluation, undecided(str(error), seen_generation), None, None)

    def decide(
        self, evaluation: Evaluation, probabilities: Probabilities, champion: ChampionRecord | None
    ) -> Decision:
        """Decide about a model with these figures, against this champion."""
        against = self._compare(probabilities, champion)
        context = GateContext(
            test_images=len(self.test_set.labels),
            against=against,
            generation=generation_of(champion),
            judged=record_use(self.store, self.test_set.digest, self.run_id),
            conditional_writes=self.conditional_writes,
        )
        verdict = decide(evaluation, self.gate, context)
        if champion and champion.held:
            verdict = hold_back(verdict)
        return Decision(evaluation, verdict, champion, against)

    def _compare(self, probabilities: Probabilities, champion: ChampionRecord | None) -> Against:
        """Score the champion now, and compare these probabilities with its own."""
        if champion is None:
            return None
        test_set = self.test_set
        try:
            run = read_run(self.store, champion.run_id, champion.manifest_sha256)
            model = read_file(self.store, run, keys.MODEL)
            judged_on = read_record(self.store, run, keys.DATA, DataOrigin).test_set
            names = read_record(self.store, run, keys.EVALUATION, RecordedClasses).names
            same_names = names == test_set.class_names
            digests = read_training_digests(self.store, run) if same_names else None
            champion_probabilities = test_set.score(model)
        except DamagedError as error:
            return ComparisonFailed(champion.run_id, str(error))
        return compare(
            champion.run_id,
            champion_probabilities,
            probabilities,
            test_set.labels,
            test_set.class_names,
            same_test_set=judged_on == test_set.digest and same_names,
            unseen=unseen(test_set.image_digests, digests, self.training_digests),
        )

    def promote(
        self,
        run: StoredRun,
        decision: Decision,
        probabilities: Probabilities,
        *,
        by: str,
        forced: str | None = None,
    ) -> tuple[Decision, PromotionResult]:
        """Promote a stored run if the decision about it says so; safe to repeat.

        If the champion has changed since the decision, or nothing was decided yet, the gate decides
        again. Returns the decision that counted. `forced` is a person's reason to promote the run
        whatever the gate says.
        """
        latest = decision

        def decide_again(champion: ChampionRecord | None) -> Verdict:
            nonlocal latest
            latest = self.decide(decision.evaluation, probabilities, champion)
            return latest.verdict

        accuracy, verdict = decision.evaluation.accuracy, decision.verdict
        result = promote_run(self.store, run, accuracy, verdict, decide_again, by=by, forced=forced)
        return replace(latest, verdict=result.verdict), result
