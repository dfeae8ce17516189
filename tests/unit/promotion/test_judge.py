"""The judge: which champion a model meets, and what becomes of one that is damaged or foreign."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fmnist.data.duplicates import Digests, pack_digests
from fmnist.data.records import OFFICIAL_SHA256, TEST_LABELS, TRAIN_IMAGES, DataOrigin
from fmnist.errors import DamagedError, StoreError
from fmnist.evaluation.comparison import compare
from fmnist.evaluation.gate import GateContext, decide
from fmnist.evaluation.metrics import evaluate
from fmnist.evaluation.records import Comparison, ComparisonFailed
from fmnist.promotion.judge import Judge, Probabilities, TestSet
from fmnist.registry import keys
from fmnist.registry.champion import current_champion, set_hold
from fmnist.registry.records import ChampionRecord, to_json
from fmnist.settings import GateSettings
from fmnist.store.base import StoredObject
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.registry import overwrite, promote, put, remove

NAMES = records.CLASS_NAMES
LABELS = (np.arange(1_000) % 10).astype(np.uint8)
DIGESTS = np.arange(len(LABELS), dtype=np.uint64)
ORIGIN = DataOrigin("mirrors", official=True, sha256=OFFICIAL_SHA256)
OLD, NEW = "20260301T000000Z-ffffffff", "20260314T092653Z-0a1b2c3d"
NOT_WORSE = GateSettings(champion="not_worse")


def scores(wrong: int) -> Probabilities:
    """What a model gives that has the first so many images wrong."""
    predicted = np.where(np.arange(len(LABELS)) < wrong, (LABELS + 1) % 10, LABELS)
    return np.eye(10, dtype=np.float32)[predicted]


class Leaving(MemoryStore):
    """A store that from some moment on cannot be read any more, below a prefix."""

    away = "nothing"

    def get(self, key: str, limit: int | None = None) -> StoredObject | None:
        if key.startswith(self.away):
            raise StoreError("the store does not answer", retryable=True)
        return super().get(key, limit)

    def read(self, key: str, limit: int | None = None) -> bytes | None:
        found = self.get(key, limit)
        return found.content if found else None


@pytest.fixture
def store() -> Leaving:
    return Leaving()


@pytest.fixture
def asked() -> list[bytes]:
    """The models that were scored."""
    return []


@pytest.fixture
def judge(store: Leaving, asked: list[bytes]) -> Judge:
    """The judge of the run `NEW`, who lets none through that is significantly worse."""

    def score(model: bytes) -> Probabilities:
        asked.append(model)
        kind, _, wrong = model.partition(b" ")
        if kind != b"wrong":
            raise DamagedError("model.keras holds no network of this project")
        return scores(int(wrong))

    test_set = TestSet(LABELS, NAMES, ORIGIN.test_set, score, DIGESTS)
    return Judge(store, test_set, NOT_WORSE, NEW, True)


Crown = Callable[..., ChampionRecord]


@pytest.fixture
def crown(store: Leaving) -> Crown:
    """Makes a run of a model, data and class names the champion of the store."""

    def make(
        run_id: str = OLD,
        *,
        model: bytes = b"wrong 60",
        data: bytes = to_json(ORIGIN),
        names: tuple[str, ...] = NAMES,
        digests: Digests | None = None,
    ) -> ChampionRecord:
        figures = to_json(evaluate(scores(60), LABELS, names))
        files = {keys.MODEL: model, keys.DATA: data, keys.EVALUATION: figures}
        if digests is not None:
            files[keys.TRAINING_DIGESTS] = pack_digests(digests)
        return promote(store, put(store, run_id, files=files))

    return make


# ---- which champion a model meets -------------------------------------------------------------------------


def test_without_a_champion_the_accuracy_alone_is_judged(judge: Judge, asked: list[bytes]) -> None:
    """The first model of a store is compared with nothing, and scored once."""
    found = judge.judge(b"wrong 50", 0)
    assert found.champion_before is found.against is None
    assert found.verdict.promoted and found.verdict.generation == 0
    assert found.evaluation == evaluate(scores(50), LABELS, NAMES)
    assert asked == [b"wrong 50"]


def test_a_held_champion_is_met_and_kept(store: Leaving, judge: Judge, crown: Crown) -> None:
    """A model that passes is compared with it as ever, and waits; one that does not is rejected."""
    crown()
    set_hold(store, held=True, reason="", by="tests")
    passes, fails = judge.judge(b"wrong 50", 0), judge.judge(b"wrong 400", 0)
    assert (passes.verdict.word, fails.verdict.word) == ("held", "rejected")
    assert isinstance(passes.against, Comparison)


def test_a_champion_that_was_removed_while_it_was_read_is_not_held_against_a_model(
    store: Leaving, judge: Judge, crown: Crown, monkeypatch: pytest.MonkeyPatch
) -> None:
    crown()
    read, manifest = store.read, keys.of_run(OLD, keys.MANIFEST)

    def read_late(key: str, limit: int | None = None) -> bytes | None:
        if key == manifest and key in store.objects:
            crown("rival", model=b"wrong 40")
            del store.objects[manifest]
        return read(key)

    monkeypatch.setattr(store, "read", read_late)
    found = judge.judge(b"wrong 50", 0)
    assert found.champion_before == current_champion(store)
    assert isinstance(found.against, Comparison) and found.against.champion == "rival"


def test_the_champion_is_scored_now_on_the_same_images(
    judge: Judge, asked: list[bytes], crown: Crown
) -> None:
    """Its own model is read from the store and scored; what its record says is not taken for it."""
    champion = crown(model=b"wrong 55")
    found = judge.judge(b"wrong 50", 1)
    assert asked == [b"wrong 50", b"wrong 55"]
    assert found.champion_before == champion
    assert found.against == compare(OLD, scores(55), scores(50), LABELS, NAMES, same_test_set=True)
    assert found.verdict.promoted and found.verdict.generation == champion.generation


def test_the_verdict_is_the_gates(judge: Judge, crown: Crown) -> None:
    crown(model=b"wrong 20")
    found = judge.judge(b"wrong 90", 1)
    assert isinstance(found.against, Comparison)
    assert (found.against.gained, found.against.lost) == (0, 70)
    context = GateContext(len(LABELS), found.against, generation=1, judged=1)
    assert found.verdict == decide(found.evaluation, NOT_WORSE, context)
    assert not found.verdict.promoted


def test_a_decision_against_another_champion_scores_that_one(
    judge: Judge, asked: list[bytes], crown: Crown
) -> None:
    figures = evaluate(scores(50), LABELS, NAMES)
    assert judge.decide(figures, scores(50), None).against is None
    champion = crown()
    again = judge.decide(figures, scores(50), champion)
    assert isinstance(again.against, Comparison)
    assert again.evaluation is figures
    assert asked == [b"wrong 60"]


@pytest.mark.parametrize("safe", [True, False])
def test_the_verdict_tells_whether_the_store_is_safe(judge: Judge, safe: bool) -> None:
    notes = replace(judge, conditional_writes=safe).judge(b"wrong 50", 0).verdict.notes
    assert any("conditional writes" in note for note in notes) is not safe


# ---- champions of other data --------------------------------------------------------------------


def with_another(name: str) -> DataOrigin:
    """Data of which only this file is another."""
    return replace(ORIGIN, official=False, sha256={**OFFICIAL_SHA256, name: "ab" * 32})


@pytest.mark.parametrize(
    ("origin", "names"),
    [(with_another(TEST_LABELS), NAMES), (ORIGIN, (*NAMES[1:], NAMES[0]))],
    ids=["test set", "class names"],
)
def test_a_champion_of_other_test_data_or_class_names_is_compared_and_does_not_decide(
    origin: DataOrigin, names: tuple[str, ...], judge: Judge, crown: Crown
) -> None:
    crown(model=b"wrong 0", data=to_json(origin), names=names)
    found = judge.judge(b"wrong 90", 1)
    assert isinstance(found.against, Comparison)
    assert (found.against.lost, found.against.same_test_set) == (90, False)
    assert found.verdict.promoted
    assert any("does not decide" in note for note in found.verdict.notes)


def test_a_champion_of_other_training_data_is_met_as_any_other(judge: Judge, crown: Crown) -> None:
    """What counts is the test set: more or other training images are what a challenge is for."""
    crown(data=to_json(with_another(TRAIN_IMAGES)))
    found = judge.judge(b"wrong 50", 1)
    assert isinstance(found.against, Comparison) and found.against.same_test_set


def test_images_that_either_model_was_trained_on_are_left_out(judge: Judge, crown: Crown) -> None:
    """On a new test set the champion decides too, on what is new to both."""
    crown(model=b"wrong 0", data=to_json(with_another(TEST_LABELS)), digests=DIGESTS[:30])
    judge = replace(judge, training_digests=DIGESTS[20:40])
    found = judge.judge(b"wrong 90", 1)
    assert isinstance(found.against, Comparison)
    assert (found.against.images, found.against.left_out, found.against.lost) == (960, 40, 50)
    assert not found.verdict.promoted and "significantly worse" in found.verdict.reason


@pytest.mark.parametrize("unknown", ["the champion's", "the run's"])
def test_where_the_training_images_are_not_known_only_the_same_test_set_decides(
    unknown: str, judge: Judge, crown: Crown
) -> None:
    """Runs of earlier versions have no digests."""
    crown(digests=None if unknown == "the champion's" else DIGESTS[:30])
    judge = replace(judge, training_digests=None if unknown == "the run's" else DIGESTS[:30])
    found = judge.judge(b"wrong 400", 1)
    assert isinstance(found.against, Comparison)
    assert (found.against.images, found.against.left_out) == (1_000, None)
    assert not found.verdict.promoted


# ---- champions that cannot be scored ------------------------------------------------------------

DAMAGES = {
    "other digests": (keys.TRAINING_DIGESTS, b"12345678"),
    "another manifest": (keys.MANIFEST, b"{}"),
    "no manifest": (keys.MANIFEST, None),
    "another model": (keys.MODEL, b"wrong 0"),
    "no model": (keys.MODEL, None),
    "other data": (keys.DATA, b"{}"),
    "no figures": (keys.EVALUATION, None),
}


@pytest.mark.parametrize("settings", [GateSettings(), NOT_WORSE], ids=["off", "not_worse"])
@pytest.mark.parametrize(("name", "content"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_champion_is_named_and_rejects_where_a_rule_asks(
    name: str,
    content: bytes | None,
    settings: GateSettings,
    judge: Judge,
    store: Leaving,
    asked: list[bytes],
    crown: Crown,
) -> None:
    """The verdict names the file, and only `off` lets a model replace a champion that it cannot meet."""
    champion = crown(digests=DIGESTS[:30])
    overwrite(store, keys.of_run(OLD, name), content)
    found = replace(judge, gate=settings).judge(b"wrong 0", 1)
    assert isinstance(found.against, ComparisonFailed)
    assert found.against.champion == OLD
    assert f"runs/{OLD}/{name}" in found.against.reason
    assert found.champion_before == champion
    assert found.verdict.promoted is (settings.champion == "off")
    assert found.verdict.decided and found.verdict.generation == 1
    assert asked == [b"wrong 0"]


def test_a_champion_that_was_rewritten_as_a_whole_is_not_met(
    judge: Judge, store: Leaving, asked: list[bytes], crown: Crown
) -> None:
    """Another model under a manifest that fits it is still not what was promoted."""
    crown()
    remove(store, OLD)
    put(store, OLD, files={keys.MODEL: b"wrong 900"})
    found = judge.judge(b"wrong 50", 1)
    assert isinstance(found.against, ComparisonFailed)
    assert "is not the manifest that was promoted" in found.against.reason
    assert asked == [b"wrong 50"]


NO_DIGESTS = b'{"source": "mirrors", "official": true, "sha256": {}}'


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model": b"foreign"}, r"model\.keras holds no network of this project"),
        ({"data": NO_DIGESTS}, r".*data\.json cannot be read.*no digest of train-images-idx3.*"),
    ],
    ids=["its model cannot be scored", "it does not tell its test set"],
)
def test_a_champion_that_cannot_be_used_is_not_met(
    files: dict[str, bytes], reason: str, judge: Judge, crown: Crown
) -> None:
    crown(**files)
    found = judge.judge(b"wrong 0", 1)
    assert isinstance(found.against, ComparisonFailed) and found.against.champion == OLD
    assert re.fullmatch(reason, found.against.reason)
    assert not found.verdict.promoted


def test_a_model_that_cannot_be_scored_is_no_verdict(judge: Judge, store: Leaving) -> None:
    """If the challenger itself cannot be loaded, nothing is judged and nothing is counted."""
    with pytest.raises(DamagedError, match="no network of this project"):
        judge.judge(b"foreign", 0)
    assert store.writes == []


# ---- a store that cannot be asked ---------------------------------------------------------------

PARTS = ["champion.json", "runs/", "test-sets/"]


@pytest.mark.parametrize("away", PARTS)
def test_a_store_that_does_not_answer_leaves_the_verdict_undecided(
    away: str, judge: Judge, store: Leaving, crown: Crown
) -> None:
    """A run is not rejected for a fault of the network, nor lost: its figures are kept."""
    crown()
    store.away = away
    found = judge.judge(b"wrong 50", 1)
    assert not found.verdict.decided and not found.verdict.promoted
    assert found.verdict.generation == 1
    assert "the store does not answer" in found.verdict.reason
    assert found.champion_before is found.against is None
    assert found.evaluation.correct == 950


@pytest.mark.parametrize("away", PARTS[1:])
def test_a_decision_at_publication_passes_the_stores_fault_on(
    away: str, judge: Judge, store: Leaving, crown: Crown
) -> None:
    """There a temporary fault is an error to try again after, and never a verdict."""
    champion = crown()
    store.away = away
    figures = evaluate(scores(50), LABELS, NAMES)
    with pytest.raises(StoreError, match="does not answer") as caught:
        judge.decide(figures, scores(50), champion)
    assert caught.value.retryable and not isinstance(caught.value, DamagedError)


# ---- how often the test set is used -------------------------------------------------------------


def uses(judge: Judge) -> str:
    """What the verdict says about the uses of the test set."""
    return judge.judge(b"wrong 50", 0).verdict.notes[0].partition(" has judged ")[2][:8]


def test_each_run_is_one_use_of_its_test_set_however_often_it_is_decided(judge: Judge) -> None:
    """Judging again, as after a fault or a lost race, counts nothing more; another run does."""
    assert [uses(judge), uses(judge)] == ["1 model ", "1 model "]
    assert not replace(judge, run_id="poor").judge(b"wrong 500", 0).verdict.promoted
    assert uses(replace(judge, run_id="another")) == "3 models"
    # Asked again, it tells the uses so far.
    assert uses(judge) == "3 models"
    other = replace(judge.test_set, digest="cd" * 32)
    assert uses(replace(judge, test_set=other, run_id="another")) == "1 model "
